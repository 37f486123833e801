"""Nothing is lost at a real call: lives are recorded through boto3's clients, then lived again with a fault at each site.

Sites are found by recording and not listed by hand; each counts in the first scenario that has it. `make test` meets some of
each scenario's, each with another kind of fault; `make faults` each site with each kind, at its first call and at its last.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws

from chalicelib.core.money import rates_in
from chalicelib.telemetry import logger
from spotrelay.deploying import ROOT
from tests.real_life import Scenario
from tests.real_lives import Lives, operations_in
from tests.real_scenarios import SCENARIOS
from tests.sim.faults import Kind

EVERY = os.environ.get("SPOT_RELAY_FAULTS") == "all"
SAMPLE = 6  # of so many sites one, in `make test`

# What code here names and no scenario calls, with the reason.
NEVER_CALLED: dict[str, str] = {}


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    level = logger.log_level
    logger.setLevel("CRITICAL")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        yield Lives(SCENARIOS)
    logger.setLevel(level)


def test_every_operation_that_the_controller_can_call_is_called_in_a_life(lives: Lives) -> None:
    called = {site.split()[0] for scenario in SCENARIOS for site in lives.recorded(scenario)}
    assert operations_in(ROOT / "chalicelib", lives.services) == called | set(NEVER_CALLED)
    assert not called & set(NEVER_CALLED)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_fault_at_a_real_call_loses_nothing(lives: Lives, scenario: Scenario) -> None:
    kinds, calls = itertools.cycle(Kind), [first for first, _ in lives.own(scenario).values()]
    wrong = [problem for n in calls[::SAMPLE] for problem in lives.met(scenario, n, next(kinds))]
    assert not wrong, "\n".join(wrong)


BROKEN: dict[str, tuple[str, Callable[..., Any]]] = {
    "train at once": ("chalicelib.core.apply.blocked", lambda *_: False),
    "began at step 0": ("chalicelib.bucket.Bucket.published", lambda *_: ()),
    "EC2 charges": ("chalicelib.core.leases.rates_in", lambda price, *given: rates_in(price / 2, *given)),
    "schedules are left": ("chalicelib.watchdog.Watchdog.clear", lambda *_: None),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_what_the_controller_does_wrong_is_seen(lives: Lives, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BROKEN[problem])
    assert any(problem in found for found in lives.problems(SCENARIOS[0]))


def test_an_instance_that_is_never_ended_is_seen(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = next(scenario for scenario in SCENARIOS if scenario.name == "silent")
    monkeypatch.setattr("chalicelib.fleet.Fleet.end", lambda *_: None)
    assert any("instances are left" in found for found in lives.problems(silent))


@pytest.mark.skipif(not EVERY, reason="make faults meets each fault at each site")
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_fault_at_each_real_call_loses_nothing(lives: Lives, scenario: Scenario, kind: Kind) -> None:
    calls = sorted({n for each in lives.own(scenario).values() for n in each})
    wrong = [problem for n in calls for problem in lives.met(scenario, n, kind)]
    assert not wrong, "\n".join(wrong)
