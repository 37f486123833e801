"""Nothing is lost at a real call: a life is recorded through boto3's clients, then lived again with a fault at each site's call.

A site is an operation with the controller's lines that asked for it, found by recording and not listed by hand. `make test` meets
every fourth site, each with another kind of fault; `make faults` each site with each kind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.telemetry import logger
from tests.calls import Calls
from tests.conftest import TRIED
from tests.real_life import Life
from tests.sim.faults import Kind

EVERY = os.environ.get("SPOT_RELAY_FAULTS") == "all"
SERVICES = {"functions": "lambda"} | {n: n for n in ("dynamodb", "s3", "ec2", "sts", "scheduler", "sns", "pricing")}


@dataclass
class Lives:
    """Lives one after another, on the same clients."""

    calls: Calls
    clients: dict[str, Any]
    numbers: Iterator[int]
    first: dict[str, int]  # the number of the first call of each site, in a life without a fault

    def problems(self, n: int = 0, kind: Kind | None = None) -> list[str]:
        life = Life(self.clients, self.calls, next(self.numbers))
        self.calls.answers = life.ec2.answers()
        self.calls.pause()
        life.prepare()
        self.calls.begin(n, kind)
        with self.calls.doubled():
            run = life.live()
        return life.wrong(run)

    def met(self, site: str, kind: Kind) -> list[str]:
        """What went wrong with this fault there. Counted."""
        TRIED["real faults"] = TRIED.get("real faults", 0) + 1
        TRIED["real sites"] = TRIED.get("real sites", set()) | {site}
        try:
            problems = self.problems(self.first[site], kind)
        except AssertionError as error:
            problems = [str(error)]
        if self.calls.fired != site:
            problems.append(f"the fault was met at {self.calls.fired or 'no call'} instead")
        return [f"{site}, {kind}: {problem}" for problem in problems]


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    level = logger.log_level
    logger.setLevel("CRITICAL")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        session = boto3.Session(region_name="us-east-1")
        calls = Calls(session)
        clients: dict[str, Any] = {name: session.client(service) for name, service in SERVICES.items()}  # type: ignore[call-overload]
        made = Lives(calls, {**clients, "session": session}, itertools.count(), {})
        assert made.problems() == []
        for n, site in enumerate(calls.sites, 1):
            made.first.setdefault(site, n)
        yield made
    logger.setLevel(level)


def test_a_fault_at_a_real_call_loses_nothing(lives: Lives) -> None:
    kinds = itertools.cycle(Kind)
    wrong = [problem for site in list(lives.first)[::4] for problem in lives.met(site, next(kinds))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not EVERY, reason="make faults meets each fault at each site")
@pytest.mark.parametrize("kind", Kind)
def test_each_fault_at_each_real_call_loses_nothing(lives: Lives, kind: Kind) -> None:
    wrong = [problem for site in lives.first for problem in lives.met(site, kind)]
    assert not wrong, "\n".join(wrong)
