"""The table and its stand-in of the simulated world keep the same promises: one version wins, money moves whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import PriceSource, Rates, Reason, Run, Usage
from chalicelib.ledger import LimitTooLow
from chalicelib.store import Conflict, Exists, OverLimit, Store
from tests.core_world import OFFERS, POLICY, START, new_run
from tests.sim.table import FakeStore

MONTH = "2026-11"
PRICE = Rates(Decimal("0.068"), Decimal("0.005556"), Decimal("0.005"))


@pytest.fixture(params=["dynamodb", "memory"])
def table(request: pytest.FixtureRequest, store: Store) -> Any:
    return store if request.param == "dynamodb" else FakeStore(Decimal(20))


def tell(table: Any, run: Run, event: ev.Event, after: timedelta = timedelta()) -> Run:
    now = START + after
    return table.save(run, decide(run, event, now, POLICY).run, now, POLICY)  # type: ignore[no-any-return]


def launched(table: Any, **changes: Any) -> Run:
    run = tell(table, table.create(new_run(**changes), {"name": "x"}, "hash"), ev.Submitted())
    launch = run.attempts[0].launch
    assert launch
    return tell(table, run, ev.Launched(1, launch.token, "i-1", OFFERS[0].pool))


def used(minutes: int, since: int = 0) -> Usage:
    start = START + timedelta(minutes=since)
    return Usage(start, start + timedelta(minutes=minutes), PRICE, PriceSource.SPOT_HISTORY)


def test_a_name_is_taken_once_and_what_is_saved_is_what_is_loaded(table: Any) -> None:
    run = launched(table)
    with pytest.raises(Exists):
        table.create(new_run(), {}, "hash")
    assert table.load(run.name) == run
    assert table.load("another") is None
    assert table.spec(run.name) == ({"name": "x"}, "hash")
    assert (table.run_on("i-1"), table.run_on("i-2")) == (run.name, None)
    assert list(table.live()) == [run.name]


def test_of_two_writers_one_wins(table: Any) -> None:
    run = launched(table)
    tell(table, run, ev.CancelAsked("me"))
    with pytest.raises(Conflict):
        tell(table, run, ev.SuspendAsked("me"))


def test_a_lease_is_reserved_renewed_and_settled_line_by_line(table: Any) -> None:
    run = launched(table)
    held = table.ledger.month(MONTH)["reserved"]
    assert held == run.attempts[0].reserved > 0
    run = tell(table, run, ev.Renewed(1, 1, used(30)), timedelta(minutes=30))
    run = tell(table, run, ev.InstanceState("i-1", "terminated"), timedelta(minutes=50))
    run = tell(table, run, ev.Settled(1, 2, used(20, since=30)), timedelta(minutes=50))
    lines = table.ledger.lines(run.name)
    assert [(line["entry"], line["seq"], line["usd"]) for line in lines[:2]] == [
        ("settled", 1, Decimal("0.039278")),
        ("settled", 2, Decimal("0.026186")),
    ]
    settled = Decimal("0.065464")
    assert table.ledger.month(MONTH)["settled"] == run.attempts[0].cost == settled
    assert table.ledger.runs(MONTH)[0]["settled"] == table.ledger.run(run.name)["settled"] == settled
    month = table.ledger.month(MONTH)
    assert month["free"] == month["limit"] - month["reserved"] - month["settled"]


def test_a_credit_is_a_line_of_its_own_and_gives_money_back(table: Any) -> None:
    run = launched(table)
    run = tell(table, run, ev.InstanceState("i-1", "terminated"), timedelta(minutes=20))
    run = tell(table, run, ev.Settled(1, 1, used(20), credit=True), timedelta(minutes=20))
    entries = {line["entry"]: line["usd"] for line in table.ledger.lines(run.name) if int(line["attempt"]) == 1}
    assert entries["credit"] == Decimal("-0.022666")
    assert entries["settled"] + entries["credit"] == run.attempts[0].cost == table.ledger.month(MONTH)["settled"]


@pytest.mark.parametrize(("which", "limit", "cost"), [("month", "0.10", "11"), ("run", "20", "0.10")])
def test_what_is_not_covered_changes_nothing(table: Any, which: str, limit: str, cost: str) -> None:
    run = table.create(new_run(limits=replace(new_run().limits, cost_usd=Decimal(cost))), {}, "hash")
    table.ledger.open([MONTH])
    table.ledger.set_limit(Decimal(limit), [MONTH], START)
    with pytest.raises(OverLimit, match=which):
        tell(table, run, ev.Submitted())
    assert table.load(run.name) == run
    assert table.ledger.month(MONTH)["reserved"] == 0
    assert table.ledger.lines(run.name) == []


def test_a_limit_never_goes_below_what_is_held(table: Any) -> None:
    run = launched(table)
    table.ledger.open([MONTH])
    with pytest.raises(LimitTooLow, match=MONTH):
        table.ledger.set_limit(run.attempts[0].reserved - Decimal("0.01"), [MONTH], START)
    table.ledger.set_limit(run.attempts[0].reserved, [MONTH], START)
    assert table.ledger.month(MONTH)["free"] == 0
    assert table.ledger.limit() == run.attempts[0].reserved


def test_raising_cost_usd_gives_the_run_more(table: Any) -> None:
    run = launched(table)
    run = tell(table, run, ev.SuspendAsked("spot-relay", Reason.RUN_BUDGET))
    before = table.ledger.run(run.name)["free"]
    tell(table, run, ev.ResumeAsked("me", cost_usd=Decimal(15)))
    assert table.ledger.run(run.name)["free"] == before + 4 - (
        table.load(run.name).attempts[-1].reserved if len(table.load(run.name).attempts) > 1 else 0
    )
