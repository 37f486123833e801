"""What an attempt needs before it may restore: the code, its inputs, Docker, the user's setup, the secrets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import results
import trainer
from clock import Clock
from failures import Failure
from logs import Log
from plan import Plan
from redact import Redactor
from store import Bucket


def read_secret(ssm: Any, parameter: str, name: str, redact: Redactor) -> str:
    """A SecureString's value. It is redacted from everything the agent says from here on."""
    try:
        value = str(ssm.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"])
    except Exception as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        raise Failure("source", f"The secret {name!r} can't be read ({code}): store it again.") from None
    redact.add(value)
    return value


def fetch_inputs(bucket: Bucket, plan: Plan, check: Callable[[], None]) -> None:
    """Each input's objects into its place in the repository. `check` may break it off between files."""
    for item in plan.get("inputs") or ():
        prefix, place = str(item["from"]).strip("/"), results.within(plan.work, str(item["to"]))
        found = [(key, key[len(prefix) + 1 :]) for key, _ in bucket.keys(prefix + "/") if not key.endswith("/")]
        if not found and any(key == prefix for key, _ in bucket.keys(prefix)):
            found = [(prefix, "")]
        if not found:
            raise Failure("source", f"The input {prefix!r} isn't in the bucket: upload it and submit again.")
        for key, relative in found:
            if ".." in PurePosixPath(relative).parts:
                raise Failure("source", f"The input {prefix!r} holds an unsafe name: {relative!r}.")
            check()
            bucket.download(key, place / relative if relative else place)


def install_docker(log: Log, clock: Clock, check: Callable[[], None]) -> None:
    """Docker from Ubuntu's own archive, unless there is one. Raises Failure when none answers afterwards."""
    if shutil.which("docker") is None:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # Another apt often holds the lock at boot.
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
        run([*apt, "update"], Path("/"), env, log, clock, check)
        if run([*apt, "install", "--no-install-recommends", "docker.io"], Path("/"), env, log, clock, check) != 0:
            raise Failure("boot_failed", "Docker can't be installed: see the log.")
        run(["systemctl", "start", "docker"], Path("/"), env, log, clock, check)
    try:
        answer = subprocess.run(["docker", "ps", "-q"], capture_output=True, timeout=60, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        answer = -1
    if answer != 0:
        raise Failure(
            "command",
            "The job needs Docker (docker: true), and no engine answers here: start it, or set docker: false.",
        )


def setup(plan: Plan, secrets: Mapping[str, str], log: Log, clock: Clock, check: Callable[[], None]) -> None:
    """The user's setup, with the instance's own rights (it installs things), before the training user owns the folder."""
    text = plan.get("setup")
    if not text:
        return
    env = trainer.environment(plan.env(secrets, None).items(), Path(os.environ.get("HOME") or "/root"))
    code = run(["bash", "-eu", "-c", str(text)], plan.cwd, env, log, clock, check)
    if code != 0:
        # What worked for an earlier attempt is no mistake of the spec: a mirror may be down, another instance may do.
        reason = "command" if plan.attempt == 1 else "boot_failed"
        raise Failure(reason, f"setup ended with code {code}: {log.tail() or 'it said nothing'}. Correct setup.", code)


def run(argv: list[str], cwd: Path, env: Mapping[str, str], log: Log, clock: Clock, check: Callable[[], None]) -> int:
    """A command into the log. `check` may break it off: then its whole group is ended first."""
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log.stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        log.say(f"{argv[0]} can't be started: {error.strerror}")
        return 127
    try:
        while process.poll() is None:
            check()
            clock.sleep(0.1)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode
