"""What the functions ship: the zip that `chalice package` makes, as `chalice deploy` does, of a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figure import Figure

_ROOT = Path(__file__).parent.parent
_ROLE = {"manage_iam_role": False, "iam_role_arn": "arn:aws:iam::123456789012:role/none"}


def figures() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        copy.mkdir()
        for name in ("app.py", "requirements.txt"):
            shutil.copy(_ROOT / name, copy)
        shutil.copytree(_ROOT / "chalicelib", copy / "chalicelib", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / ".chalice").mkdir()
        config = json.loads((_ROOT / ".chalice/config.json").read_text("utf-8"))
        (copy / ".chalice/config.json").write_text(json.dumps({**config, "stages": {"dev": _ROLE}}), "utf-8")
        subprocess.run(
            [str(Path(sys.executable).with_name("chalice")), "package", "packaged"],
            cwd=copy,
            env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
            check=True,
            capture_output=True,
        )
        size = (copy / "packaged/deployment.zip").stat().st_size
    return [Figure("what a function ships, MB", size / 1e6, 6.0)]
