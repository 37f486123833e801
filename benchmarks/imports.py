"""How long an event handler's cold start imports, against the least that it could: Chalice, boto3 with its clients, the logger.

Both are timed in turn in fresh processes, and their medians compared, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figure import Figure

_ROOT = Path(__file__).parent.parent
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
c.dynamodb, c.ec2
"""


def figures(times: int) -> list[Figure]:
    pairs = [(_seconds(_OURS), _seconds(_LEAST)) for _ in range(times)]
    ours, least = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [Figure("cold import of a warning's handler ÷ chalice + boto3's clients + Logger", ours / least, 1.15)]


def _seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)
    return time.perf_counter() - began
