"""I3 in the table: accounts and lines move together, under conditions, and only a lack of money is a refusal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from chalicelib.core import leases
from chalicelib.core.ledger import Entry, LineChange, line_changes
from chalicelib.core.model import Attempt, Phase, PriceSource, Rates, Run, Usage
from chalicelib.store import Conflict, OverLimit, Store
from tests.conftest import TABLE
from tests.core_world import OFFERS, POLICY, START, new_run
from tests.hooks import answers, cancelled, lose_answer

MONTH, NEXT = "2026-11", "2026-12"
CAP = Decimal("0.17")


def leased(run: Run, start: datetime = START, number: int = 1, seq: int = 1) -> Run:
    lease = leases.first(start, seq, CAP, 50, POLICY)
    return run.put(Attempt(number, Phase.TRAINING, start, lease=lease, instance_id=f"i-{number}", pool=OFFERS[0].pool))


def usage(minutes: int, start: datetime = START) -> Usage:
    rates = Rates(Decimal("0.06"), Decimal("0.005"), Decimal("0.005"))
    return Usage(start, start + timedelta(minutes=minutes), rates, PriceSource.SPOT_HISTORY)


def settled(run: Run, minutes: int = 6, credit: bool = False, number: int = 1) -> Run:
    gone = replace(run.attempts[number - 1], phase=Phase.ENDED, ended_at=START)
    assert gone.lease
    return run.put(leases.settled(gone, usage(minutes, gone.lease.start), credit, POLICY))


def save(store: Store, before: Run, after: Run) -> Run:
    return store.save(before, after, START, POLICY)


@pytest.fixture
def run(store: Store) -> Run:
    return store.create(new_run(), {}, "hash")


def sums(store: Store) -> tuple[Decimal, Decimal, Decimal]:
    account = store.ledger.month(MONTH)
    assert account["free"] == account["limit"] - account["reserved"] - account["settled"]
    return account["reserved"], account["settled"], account["free"]


# -- accounts and lines ----------------------------------------------------------------------------------------------


def test_month_run_and_the_runs_part_move_together(store: Store, run: Run) -> None:
    held = save(store, run, leased(run))
    reserved = held.attempts[0].reserved
    ledger = store.ledger
    assert sums(store) == (reserved, 0, 20 - reserved)
    assert ledger.runs(MONTH) == [{"run": run.name, "reserved": reserved, "settled": 0}]
    assert ledger.run(run.name) == {"free": 11 - reserved, "reserved": reserved, "settled": 0}
    save(store, held, settled(held))
    assert sums(store) == (0, Decimal("0.007"), Decimal("19.993"))
    assert ledger.runs(MONTH) == [{"run": run.name, "reserved": 0, "settled": Decimal("0.007")}]
    assert ledger.run(run.name) == {"free": Decimal("10.993"), "reserved": 0, "settled": Decimal("0.007")}


def test_a_line_is_reserved_then_settled_with_pool_seconds_rates_and_source(store: Store, run: Run) -> None:
    held = save(store, run, leased(run))
    [line] = store.ledger.lines(run.name)
    assert (line["entry"], line["usd"], line.get("rates")) == ("reserved", held.attempts[0].reserved, None)
    save(store, held, settled(held, credit=True))
    credit, line = store.ledger.lines(run.name)
    assert (line["entry"], line["usd"], line["pool"]) == ("settled", Decimal("0.007"), OFFERS[0].pool)
    assert (line["source"], line["rates"]["instance"]) == ("spot_history", Decimal("0.06"))
    assert (line["start"], line["end"]) == (START.isoformat(), (START + timedelta(minutes=6)).isoformat())
    assert (credit["entry"], credit["usd"]) == ("credit", Decimal("-0.006"))
    assert sums(store)[1] == Decimal("0.001") == sum(each["usd"] for each in (credit, line))


def test_a_lease_without_an_instance_leaves_no_line(store: Store, run: Run) -> None:
    held = save(store, run, leased(run))
    none = replace(usage(0), source=PriceSource.NO_INSTANCE)
    gone = replace(held.attempts[0], phase=Phase.ENDED, instance_id=None)
    save(store, held, held.put(leases.settled(gone, none, False, POLICY)))
    assert store.ledger.lines(run.name) == []
    assert sums(store) == (0, 0, 20)


def test_the_same_save_twice_changes_nothing_more(store: Store, run: Run) -> None:
    held = save(store, run, leased(run))
    before = sums(store)
    with pytest.raises(Conflict):
        save(store, run, leased(run))
    assert sums(store) == before
    save(store, held, settled(held))
    before = sums(store)
    with pytest.raises(Conflict):
        save(store, held, settled(held))
    assert sums(store) == before


@pytest.mark.parametrize("entry", [None, Entry.RESERVED, Entry.SETTLED, Entry.CREDIT])
def test_a_line_is_written_only_upon_what_it_must_be_before(store: Store, run: Run, entry: Entry | None) -> None:
    """The line says `reserved`: whoever takes it for anything else writes nothing."""
    held = save(store, run, leased(run))
    [change] = line_changes(held, settled(held), POLICY)
    items = store.ledger.line_items(run.name, (LineChange(change.attempt, change.seq, entry, change.after),))
    if entry is Entry.RESERVED:
        store._client.transact_write_items(TransactItems=items)
        assert store.ledger.lines(run.name)[0]["entry"] == "settled"
    else:
        with pytest.raises(ClientError, match="ConditionalCheckFailed"):
            store._client.transact_write_items(TransactItems=items)
        assert store.ledger.lines(run.name)[0]["entry"] == "reserved"


def test_a_lease_that_has_a_line_already_is_not_reserved_again(store: Store, run: Run) -> None:
    """Whatever a run's own item says, the sequence number of a lease is used once."""
    held = save(store, run, leased(run))
    before = sums(store)
    again = replace(leased(replace(run, attempts=())), version=held.version)
    with pytest.raises(Conflict):
        save(store, replace(run, version=held.version), again)
    assert sums(store) == before


def test_a_lease_over_the_border_moves_both_months(store: Store, run: Run) -> None:
    start = datetime(2026, 11, 30, 23, 40, tzinfo=UTC)
    held = save(store, run, leased(run, start))
    [november], [december] = store.ledger.runs(MONTH), store.ledger.runs(NEXT)
    assert november["reserved"] + december["reserved"] == held.attempts[0].reserved
    save(store, held, settled(held, 30))
    spent = {s.month: s.usd for s in settled(held, 30).attempts[0].spent}
    assert {m: store.ledger.month(m)["settled"] for m in (MONTH, NEXT)} == spent
    assert all(store.ledger.month(m)["reserved"] == 0 for m in (MONTH, NEXT))


# -- what refuses, and what does not ---------------------------------------------------------------------------------


def test_a_month_without_an_account_is_opened_and_the_reservation_tried_again(store: Store, run: Run) -> None:
    seen = answers(store._client, "TransactWriteItems")
    save(store, run, leased(run))
    assert len(seen) == 2
    second = another(store, "second")
    save(store, second, leased(second))
    assert len(seen) == 2 + 2  # created, and reserved at once


def another(store: Store, name: str, **changes: object) -> Run:
    return store.create(new_run(name=name, **changes), {}, "hash")


LEASE = leased(new_run()).attempts[0].reserved
LESS = LEASE - Decimal("0.000001")


@pytest.mark.parametrize(
    ("month", "own", "which"), [(LESS, LEASE, "month"), (LEASE, LESS, "run"), (LESS, LESS, "month")]
)
def test_a_refusal_says_whose_limit_and_how_much_was_needed(
    store: Store, month: Decimal, own: Decimal, which: str
) -> None:
    run = another(store, "poor", limits=replace(new_run().limits, cost_usd=own))
    with pytest.raises(OverLimit) as refusal:
        save(Store(store._client, TABLE, month), run, leased(run))
    assert (refusal.value.which, refusal.value.needed) == (which, LEASE)
    assert sums(store)[:2] == (0, 0)


def test_the_limit_can_be_used_to_its_last_millionth(store: Store, run: Run) -> None:
    exact = leased(run).attempts[0].reserved
    save(Store(store._client, TABLE, exact), run, leased(run))
    assert sums(store)[2] == 0


def test_a_raised_cost_of_the_run_is_free_for_its_next_lease(store: Store) -> None:
    run = another(store, "raised", limits=replace(new_run().limits, cost_usd=Decimal("0.01")))
    more = replace(run, limits=replace(run.limits, cost_usd=Decimal("0.51")))
    held = save(store, run, leased(more))
    assert store.ledger.run(run.name)["free"] == Decimal("0.51") - held.attempts[0].reserved


@pytest.mark.parametrize("times", [1, 5])
def test_a_conflict_of_transactions_is_no_refusal(store: Store, run: Run, times: int) -> None:
    pauses: list[float] = []
    patient = Store(store._client, TABLE, Decimal(20), pauses.append)
    answers(store._client, "TransactWriteItems", *[cancelled("None", "TransactionConflict")] * times)
    held = save(patient, run, leased(run))
    assert (len(pauses), sums(store)[0]) == (times, held.attempts[0].reserved)


def test_conflicts_without_end_give_the_event_back_to_be_tried_again(store: Store, run: Run) -> None:
    busy = cancelled("None", "TransactionConflict")
    answers(store._client, "TransactWriteItems", busy, always=True)
    with pytest.raises(Conflict):
        save(Store(store._client, TABLE, Decimal(20), lambda _: None), run, leased(run))


@pytest.mark.parametrize(
    "answer",
    [
        "ProvisionedThroughputExceededException",
        "InternalServerError",
        "ThrottlingException",
        cancelled("ThrottlingError"),
    ],
    ids=str,
)
def test_throttles_and_faults_rise_as_they_are(store: Store, run: Run, answer: str) -> None:
    answers(store._client, "TransactWriteItems", answer)
    with pytest.raises(ClientError):
        save(store, run, leased(run))
    assert sums(store) == (0, 0, 20)


def test_a_save_whose_answer_is_lost_is_found_done(store: Store, run: Run) -> None:
    store.ledger.open([MONTH])
    lose_answer(store._client, "TransactWriteItems")
    with pytest.raises(Exception, match="Read timeout"):
        save(store, run, leased(run))
    with pytest.raises(Conflict):
        save(store, run, leased(run))
    found = store.load(run.name)
    assert found
    assert found.attempts[0].reserved == sums(store)[0]
