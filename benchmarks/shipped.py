"""What the functions ship, and how long an event's handler takes to start from it.

The project is packed as `make deploy` has Chalice pack it, and imported as Lambda does: from the unpacked zip, boto3 from the
runtime, no bytecode written. Both imports, ours and the least there could be, take Chalice and the logger from that zip.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zipfile import ZipFile

from benchmarks.figure import Figure
from spotrelay.deploying.bytecode import compile_library

_ROOT = Path(__file__).parent.parent
_ROLE = {"manage_iam_role": False, "iam_role_arn": "arn:aws:iam::123456789012:role/none"}
_LEAST = """
import chalice, boto3
from aws_lambda_powertools import Logger
Logger(service="x")
session = boto3.Session(region_name="us-east-1")
session.client("dynamodb"); session.client("ec2")
"""
# What the handler of a warning uses; no request is sent.
_OURS = """
import boto3, app
from chalicelib.controller import Controller
from chalicelib.settings import Settings
names = "STAGE TABLE BUCKET LAUNCH_TEMPLATE AGENT_SHA256 API_URL TOPIC_ARN LOG_GROUP".split()
env = dict.fromkeys(names, "x") | {"LIMIT_USD": "20", "RUN_ROLE_ARN": "arn:aws:iam::123456789012:role/x-run"}
c = Controller(Settings.read(env), boto3.Session(region_name="us-east-1"))
c.shell
"""


def figures(times: int) -> list[Figure]:
    """`times`: how often each import is timed, in turn, so that a busy machine slows both; medians are compared."""
    with tempfile.TemporaryDirectory() as folder:
        packed = _pack(Path(folder))
        task = Path(folder) / "task"
        with ZipFile(packed) as shipped:
            shipped.extractall(task)
        pairs = [(_seconds(_OURS, task), _seconds(_LEAST, task)) for _ in range(times)]
        ours, least = (statistics.median(column) for column in zip(*pairs, strict=True))
        return [
            Figure(
                "import", "cold import of a warning's handler ÷ chalice + boto3's clients + Logger", ours / least, 1.15
            ),
            Figure("bundle", "what a function ships, MB", packed.stat().st_size / 1e6, 6.0),
        ]


def _pack(folder: Path) -> Path:
    """The deployment package of a copy of the project."""
    project = folder / "project"
    shutil.copytree(_ROOT / "chalicelib", project / "chalicelib")
    for name in ("app.py", "requirements.txt"):
        shutil.copy(_ROOT / name, project)
    (project / ".chalice").mkdir()
    config = json.loads((_ROOT / ".chalice/config.json").read_text("utf-8"))
    (project / ".chalice/config.json").write_text(json.dumps({**config, "stages": {"dev": _ROLE}}), "utf-8")
    compile_library(project)
    subprocess.run(
        [str(Path(sys.executable).with_name("chalice")), "package", "packaged"],
        cwd=project,
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
        check=True,
        capture_output=True,
    )
    return project / "packaged/deployment.zip"


def _seconds(code: str, task: Path) -> float:
    env = {**os.environ, "PYTHONPATH": str(task), "PYTHONDONTWRITEBYTECODE": "1"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=task, env=env, check=True)
    return time.perf_counter() - began
