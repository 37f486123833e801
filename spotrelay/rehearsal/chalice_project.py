"""`chalice deploy` as a process: on a copy of a project, into the AWS that its environment names.

The project's own tree is only read. What Chalice says is in `chalice.log` of the work folder.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 600.0
LOG = "chalice.log"

# What `chalice deploy` packs, and so all that is copied.
_PACKED = ("app.py", "chalicelib", "vendor", "requirements.txt")
# pip's settings, and how this machine reaches its package index.
_PIP_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY")


def copy_project(
    project: Path, copy: Path, stage: str, env: Mapping[str, str], stage_config: Mapping[str, Any]
) -> None:
    """Bring the copy up to date, except for what `chalice deploy` keeps in it from one time to the next."""
    (copy / ".chalice").mkdir(parents=True, exist_ok=True)
    for name in _PACKED:
        source, target = project / name, copy / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            shutil.copy2(source, target)
    for source in (project / ".chalice").glob("*.json"):
        shutil.copy2(source, copy / ".chalice" / source.name)
    config_file = copy / ".chalice" / "config.json"
    config = json.loads(config_file.read_text())
    settings = config.setdefault("stages", {}).setdefault(stage, {})
    settings.update(stage_config)
    settings["environment_variables"] = {**settings.get("environment_variables", {}), **env}
    config_file.write_text(json.dumps(config, indent=2))


def deploy(copy: Path, stage: str, aws: Mapping[str, str], cache: Path, workdir: Path) -> str | None:
    """Run `chalice deploy --stage STAGE`; what went wrong, or None.

    `aws` says where and who (`AWS_…`), `cache` is where pip keeps what it downloads.
    """
    # The module has no `__main__`, and a script of that name need not be next to the interpreter.
    command = [sys.executable, "-c", "import sys; from chalice.cli import main; sys.exit(main())"]
    command += ["deploy", "--stage", stage]
    with (workdir / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=copy,
            env={**_environment(cache, workdir), **aws},
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT_S)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return "`chalice deploy` took too long"
            raise
    return f"`chalice deploy --stage {stage}` failed ({code})" if code else None


def _environment(cache: Path, workdir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    kept |= {name: os.environ[name] for name in _PIP_VARIABLES if name in os.environ}
    kept |= {name: os.environ[name.lower()] for name in _PIP_VARIABLES if name.lower() in os.environ}
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost")))
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        # pip's own settings may be in the user's folder; nothing is written there.
        "HOME": os.environ.get("HOME", str(workdir)),
        "PIP_CACHE_DIR": str(cache / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **kept,
        "NO_PROXY": direct,
    }
