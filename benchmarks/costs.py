"""What the controller itself costs: a month in which nothing happens, and an hour of one run's training.

The real sweep and the real heartbeats run in virtual time against moto; what they ask of AWS is counted and priced (`metered`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from moto import mock_aws

from benchmarks.figure import Figure
from benchmarks.metered import Meter, processor
from chalicelib.controller import Controller
from chalicelib.store import Store
from chalicelib.telemetry import logger
from chalicelib.upkeep import whole_pass
from tests.conftest import TABLE, make_table
from tests.controlled import Deployed
from tests.core_world import START
from tests.hooks import aws
from tests.test_whole_pass import House

MINUTE = timedelta(minutes=1)
_HOURS = 720  # of a month of 30 days
_BEAT = timedelta(seconds=30)
_CHECKPOINTS = 25  # an hour: 500 in 20 hours


def figures() -> list[Figure]:
    logger.setLevel("WARNING")
    with patch.dict(os.environ, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"):
        with mock_aws():
            idle, counted = _idle_hour()
        with mock_aws():
            training, told = _training_hour()
    month = {what: usd * _HOURS for what, usd in idle.items()}
    return [
        Figure(
            "idle", "controller, a month of nothing, USD", _sum(month), 0.10, details={"usd": _text(month), **counted}
        ),
        Figure(
            "hour",
            "controller, an hour of training, USD",
            _sum(training),
            0.001,
            details={"usd": _text(training), **told},
        ),
    ]


def _idle_hour() -> tuple[dict[str, Decimal], dict[str, Any]]:
    """After an hour to get going, as a Lambda that has been there for long."""
    make_table(aws("dynamodb"))
    house = House()
    _minutes(house.c, house.clock, lambda: None)
    meter = Meter(_clients(house.c))
    with processor() as taken:
        _minutes(house.c, house.clock, lambda: None)
    return meter.usd(60, taken[0]), _counted(meter, taken[0])


def _training_hour() -> tuple[dict[str, Decimal], dict[str, Any]]:
    """One run with one attempt, which beats each 30 s, publishes 25 checkpoints and is renewed."""
    client = aws("dynamodb")
    make_table(client)
    stage = Deployed(Store(client, TABLE, Decimal(20)))
    stage.training()
    stage.c.ec2.meta.events.register_first("before-call.ec2.DescribeInstances", lambda **_: _running(stage))
    stage.c.ec2.meta.events.register_first("before-call.ec2.DescribeVolumes", lambda **_: _answer(Volumes=[]))
    said = {"lease_end": None, "checkpoint": None}
    beats = 0

    def twice() -> None:
        nonlocal beats
        for _ in range(2):
            if beats * _CHECKPOINTS // 120 > (beats - 1) * _CHECKPOINTS // 120:
                stage.publish(1, beats + 1)
                said["checkpoint"] = {"step": beats + 1, "bytes": 1000, "final": False}
            answer = stage.beat(step=beats + 1, metrics={"loss": 0.5}, **said)
            said["lease_end"] = answer["lease_end"]
            beats += 1
            stage.clock.now += _BEAT

    _minutes(stage.c, stage.clock, twice, MINUTE - 2 * _BEAT)
    meter = Meter([client, *_clients(stage.c)])
    before = beats
    with processor() as taken:
        _minutes(stage.c, stage.clock, twice, MINUTE - 2 * _BEAT)
    beats -= before
    return meter.usd(60 + beats, taken[0], requests=beats), _counted(meter, taken[0])


def _minutes(c: Controller, clock: Any, meanwhile: Callable[[], None], rest: timedelta = MINUTE) -> None:
    """An hour, with a pass of the sweep each minute."""
    for _ in range(60):
        meanwhile()
        clock.now += rest
        whole_pass(c).check()


def _clients(c: Controller) -> list[Any]:
    return [c.dynamodb, c.ec2, c.s3, c.sts, c.sns]


def _running(stage: Deployed) -> tuple[Any, dict[str, Any]]:
    tags = {"stage": "test", "run": "cloud_prod_001", "attempt": "1"}
    instance = {
        "InstanceId": Deployed.instance(1),
        "State": {"Name": "running"},
        "LaunchTime": START,
        "InstanceType": "c6i.xlarge",
        "Tags": [{"Key": f"spot-relay:{key}", "Value": value} for key, value in tags.items()],
    }
    return _answer(Reservations=[{"Instances": [instance]}])


def _answer(**given: Any) -> tuple[Any, dict[str, Any]]:
    return SimpleNamespace(status_code=200), given


def _sum(usd: dict[str, Decimal]) -> float:
    return float(sum(usd.values()))


def _text(usd: dict[str, Decimal]) -> dict[str, str]:
    return {what: f"{amount:.6f}" for what, amount in usd.items()}


def _counted(meter: Meter, processor_s: float) -> dict[str, Any]:
    return {
        "calls": dict(meter.calls),
        "read units": meter.reads,
        "write units": meter.writes,
        "waited s": meter.seconds(),
    }
