"""A raised limit is not forgotten: whatever fails after it is written, the sweep lets go on what had waited before it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from chalicelib import housekeeping, money
from chalicelib.contracts.money import BudgetChange
from chalicelib.core.model import Run, Status
from chalicelib.core.resuming import first_lease, to_resume
from chalicelib.store import Store
from chalicelib.sweep import Report
from tests.controlled import ME, SPEC, Deployed
from tests.core_world import POLICY, START
from tests.hooks import Answer, answers, cancelled
from tests.test_ledger import MONTH, NEXT

MINUTE = timedelta(minutes=1)
ONE_LEASE = "0.20"  # covers one, and not two


class Waits(Deployed):
    """A run of one lease's money less than the month has."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.limit("0.01")
        self.submit(limits={"wait_for_budget": True})
        self.clock.now += MINUTE

    def limit(self, usd: str) -> None:
        money.set_limit(self.c, BudgetChange.model_validate({"limit_usd": usd}), ME)

    def saved(self) -> Run:
        run = self.c.store.load(str(SPEC["name"]))
        assert run
        return run

    def sweep(self) -> Status:
        self.clock.now += MINUTE
        report = Report()
        run = self.saved()
        report.waiting[run.name] = run.created_at
        housekeeping.after_runs(self.c, [], report, self.clock.now)
        report.check()
        return self.saved().status


@pytest.fixture
def stage(store: Store) -> Waits:
    return Waits(store)


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("Scan", ["InternalServerError"]),
        ("PutItem", ["InternalServerError"]),
        ("TransactWriteItems", [None, "InternalServerError"]),
    ],
    ids=["which runs wait", "today's offers", "the resumption"],
)
def test_a_raise_whose_request_fails_midway_lets_the_run_go_on_with_the_next_sweep(
    stage: Waits, operation: str, given: list[Answer]
) -> None:
    answers(stage.c.store._client, operation, *given)
    with pytest.raises(ClientError, match="InternalServerError"):
        stage.limit(ONE_LEASE)
    assert stage.saved().status is Status.QUEUED
    assert stage.sweep() is Status.LAUNCHING


def test_a_raise_that_is_asked_again_after_it_failed_lets_the_run_go_on_at_once(stage: Waits) -> None:
    answers(stage.c.store._client, "Scan", "InternalServerError")
    with pytest.raises(ClientError, match="InternalServerError"):
        stage.limit(ONE_LEASE)
    stage.limit(ONE_LEASE)
    assert stage.saved().status is Status.LAUNCHING


def test_money_that_came_back_after_a_raise_must_still_cover_two_leases_of_a_run_refused_since(stage: Waits) -> None:
    stage.limit("0.02")
    stage.clock.now += MINUTE
    stage.submit(name="later", limits={"wait_for_budget": True})
    later = stage.c.store.load("later")
    assert later
    raised_at, lease = stage.c.store.ledger.raised_at(), first_lease(later, stage.clock.now, POLICY)
    assert raised_at == stage.clock.now - MINUTE
    assert not list(to_resume([later], lease, stage.clock.now, POLICY, raised_at=raised_at))
    assert list(to_resume([later], 2 * lease, stage.clock.now, POLICY, raised_at=raised_at)) == [later]


def test_when_the_limit_was_raised_is_written_with_it_and_kept(store: Store) -> None:
    ledger = store.ledger
    ledger.open([MONTH, NEXT])
    steps = [("20", None), ("15", None), ("16", 2), ("16", 2), ("12", 2), ("13", 5)]
    for n, (usd, raised) in enumerate(steps):
        ledger.set_limit(Decimal(usd), [MONTH, NEXT], START + n * MINUTE)
        assert ledger.raised_at() == (START + raised * MINUTE if raised is not None else None)
        assert ledger.limit() == Decimal(usd)


def test_a_limit_that_was_not_set_was_not_raised(store: Store) -> None:
    store.ledger.open([MONTH])
    answers(store._client, "TransactWriteItems", cancelled("None", "ConditionalCheckFailed"), always=True)
    with pytest.raises(TimeoutError):
        store.ledger.set_limit(Decimal(30), [MONTH], START)
    assert (store.ledger.raised_at(), store.ledger.limit()) == (None, 20)
