"""When there is money again: the oldest first, within what the money allows, and only what money had stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from chalicelib.core import events as ev
from chalicelib.core.apply import waits_for_money
from chalicelib.core.decide import decide
from chalicelib.core.model import Reason, Run, Status, Wanted
from chalicelib.core.resuming import first_lease, to_resume, waiting
from tests.core_world import POLICY, START, new_run

NEXT_MONTH = START + timedelta(days=20)


def suspended(name: str = "a", age: int = 0, reason: Reason = Reason.BUDGET) -> Run:
    run = new_run(name=name, created_at=START - timedelta(days=age), wanted=Wanted.SUSPEND, wanted_reason=reason)
    return decide(run, ev.Tick(), START, POLICY).run


LEASE = first_lease(suspended(), START, POLICY)
OLDEST, OLDER, YOUNG = suspended("oldest", 3), suspended("older", 2), suspended("young", 1)


@pytest.mark.parametrize(
    ("leases", "raised", "names"),
    [
        ("3", True, ["oldest", "older", "young"]),
        ("2.5", True, ["oldest", "older"]),
        ("1", True, ["oldest"]),
        ("0.9", True, []),
        ("1.9", False, []),
        ("2", False, ["oldest"]),
        ("3", False, ["oldest", "older"]),
    ],
)
def test_the_oldest_goes_first_as_far_as_the_money_goes(leases: str, raised: bool, names: list[str]) -> None:
    chosen = to_resume(
        [OLDEST, OLDER, YOUNG], LEASE * Decimal(leases), START, POLICY, raised_at=START if raised else None
    )
    assert [run.name for run in chosen] == names


def test_when_the_month_has_turned_one_lease_is_enough() -> None:
    assert list(to_resume([OLDEST], LEASE, START, POLICY)) == []
    assert list(to_resume([OLDEST], LEASE, NEXT_MONTH, POLICY)) == [OLDEST]


def test_a_young_one_never_overtakes_an_older_that_needs_more() -> None:
    dear = replace(OLDEST, offers=tuple(replace(o, max_price=Decimal(9)) for o in OLDEST.offers))
    assert list(to_resume([dear, YOUNG], LEASE * 3, START, POLICY, raised_at=START)) == []


@pytest.mark.parametrize(
    ("reason", "by", "status"),
    [
        (Reason.BUDGET, Reason.BUDGET, Status.LAUNCHING),
        (Reason.USER, Reason.BUDGET, Status.SUSPENDED),
        (Reason.USER, Reason.USER, Status.LAUNCHING),
        (Reason.RUN_BUDGET, Reason.USER, Status.LAUNCHING),
    ],
)
def test_who_may_resume_what(reason: Reason, by: Reason, status: Status) -> None:
    assert decide(suspended(reason=reason), ev.ResumeAsked("x", by), START, POLICY).run.status is status


def test_what_a_person_suspends_while_the_money_is_out_stays_suspended() -> None:
    run = decide(suspended(), ev.SuspendAsked("me"), START, POLICY).run
    assert not waiting(run)
    assert decide(run, ev.ResumeAsked("spot-relay", Reason.BUDGET), START, POLICY).run.status is Status.SUSPENDED


def test_a_raised_cost_usd_raises_the_runs_limit_and_a_lower_one_is_ignored() -> None:
    run = suspended(reason=Reason.RUN_BUDGET)
    for given, limit in ((Decimal(15), 15), (Decimal(5), 11)):
        after = decide(run, ev.ResumeAsked("me", cost_usd=given), START, POLICY).run
        assert after.limits.cost_usd == limit


def test_a_run_that_waits_for_its_first_money_stays_in_the_queue_until_there_is_some() -> None:
    run = new_run(limits=replace(new_run().limits, wait_for_budget=True))
    run = decide(run, ev.Submitted(), START, POLICY).run
    launch = run.attempts[0].launch
    assert launch
    refused = ev.LaunchRefused(1, launch.token, ev.Refusal.BUDGET, "No money.")
    run = replace(decide(run, refused, START, POLICY).run, attempts=())
    run = decide(run, ev.Tick(), START + timedelta(hours=2), POLICY).run
    assert (run.status, waits_for_money(run)) == (Status.QUEUED, Reason.BUDGET)
    run = decide(run, ev.ResumeAsked("spot-relay", Reason.BUDGET), START + timedelta(hours=2), POLICY).run
    assert run.status is Status.LAUNCHING
