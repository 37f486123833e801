"""A lease from its reservation to its last cent: what is settled always fits into what was reserved, month by month (I3)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.core import leases
from chalicelib.core.leases import Evidence
from chalicelib.core.ledger import Entry, line_changes, movements
from chalicelib.core.model import Attempt, Launch, Lease, Phase, PriceSource, Reason, Run, Usage
from chalicelib.core.money import by_month
from tests.core_world import OFFERS, POLICY, START, new_run

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
CAP, PRICE = Decimal("0.17"), Decimal("0.068")
DISK, ADDRESS = Decimal("0.005480"), Decimal("0.005")
HISTORY = PriceSource.SPOT_HISTORY


def attempt(lease: Lease | None = None, **facts: object) -> Attempt:
    held = lease or leases.first(START, 1, CAP, 50, POLICY)
    known = {"launch": Launch("token", OFFERS, START), "instance_id": "i-1", "pool": OFFERS[0].pool, **facts}
    return Attempt(1, Phase.TRAINING, START, lease=held, **known)  # type: ignore[arg-type]


def ended(after: timedelta, **facts: object) -> Attempt:
    return replace(attempt(**facts), phase=Phase.ENDED, ended_at=START + after)


def used(of: Attempt, now: timedelta, found: Evidence) -> Usage:
    return leases.usage(new_run(), of, START + now, found, POLICY)


def seconds(usage: Usage) -> float:
    return (usage.end - usage.start).total_seconds()


def test_a_launch_reserves_the_highest_cap_until_lease_grace_and_ending_are_over() -> None:
    lease = leases.first(START, 1, CAP, 50, POLICY)
    assert lease.end - lease.start == timedelta(minutes=50)
    assert lease.until - lease.end == timedelta(minutes=7)
    assert lease.reserved == ((CAP + DISK + ADDRESS) * 57 / 60).quantize(Decimal("0.000001"))


def test_it_shrinks_to_the_pool_that_ec2_chose_and_never_grows() -> None:
    lease = leases.first(START, 1, CAP, 50, POLICY)
    assert leases.shrunk(lease, Decimal("0.1"), 50, POLICY).reserved < lease.reserved
    assert leases.shrunk(lease, Decimal("0.2"), 50, POLICY) == lease


def test_a_renewal_settles_the_slice_and_reserves_the_next_from_now() -> None:
    before = attempt()
    slice_ = used(before, 30 * MINUTE, Evidence(usd_hour=PRICE, source=HISTORY))
    after = leases.renewed(before, slice_, START + 30 * MINUTE, POLICY)
    assert after.lease
    assert after.previous
    assert (after.lease.seq, after.lease.start) == (2, START + 30 * MINUTE)
    assert (after.previous.usage, after.cost) == (slice_, Decimal("0.039240"))


CASES = {
    "the price in force": (Evidence(usd_hour=PRICE, source=HISTORY), PRICE, HISTORY),
    "a price nobody names is the cap": (Evidence(), CAP, PriceSource.CAP),
    "a price above the cap is the cap": (Evidence(usd_hour=Decimal(9), source=HISTORY), CAP, PriceSource.CAP),
}


@pytest.mark.parametrize(("found", "price", "source"), CASES.values(), ids=CASES)
def test_what_is_settled_is_charged_at(found: Evidence, price: Decimal, source: PriceSource) -> None:
    usage = used(ended(20 * MINUTE), 20 * MINUTE, found)
    assert (usage.rates.instance, usage.source, seconds(usage)) == (price, source, 1200)


def test_ec2s_own_times_are_believed_within_ours() -> None:
    found = Evidence(launched_at=START + timedelta(seconds=5), ended_at=START + 10 * MINUTE)
    assert seconds(used(ended(11 * MINUTE), 12 * MINUTE, found)) == 595
    early = Evidence(launched_at=START - HOUR, ended_at=START + 2 * HOUR)
    assert seconds(used(ended(11 * MINUTE), 12 * MINUTE, early)) == 660


def test_a_minute_is_charged_at_least_and_only_once_an_attempt() -> None:
    assert seconds(used(ended(timedelta(seconds=4)), MINUTE, Evidence())) == 60
    first = attempt()
    later = leases.renewed(first, used(first, 30 * MINUTE, Evidence()), START + 30 * MINUTE, POLICY)
    gone = replace(later, phase=Phase.ENDED, ended_at=START + 30 * MINUTE + timedelta(seconds=4))
    assert seconds(used(gone, HOUR, Evidence())) == 4


def test_an_end_that_nobody_can_prove_settles_everything() -> None:
    lost = ended(2 * HOUR, end_proved=False)
    usage = used(lost, 2 * HOUR, Evidence(usd_hour=PRICE, source=HISTORY))
    assert usage.source is PriceSource.UNPROVED
    assert leases.settled(lost, usage, False, POLICY).cost == lost.reserved


@pytest.mark.parametrize(("after", "source"), [(6 * MINUTE, PriceSource.NO_INSTANCE), (2 * HOUR, PriceSource.UNPROVED)])
def test_a_launch_without_an_answer_is_free_only_while_ec2_remembers(after: timedelta, source: PriceSource) -> None:
    unanswered = ended(after, instance_id=None, ended_by=Reason.LOST_CONTACT)
    assert used(unanswered, after, Evidence()).source is source


SPOT = "Server.SpotInstanceTermination"
CREDITS = {
    "ec2 took it back after 59 minutes": (SPOT, 59 * MINUTE, True),
    "after an hour it is charged": (SPOT, 60 * MINUTE, False),
    "what we ended is charged": ("Client.UserInitiatedShutdown", 10 * MINUTE, False),
    "without a reason it is charged": ("", 10 * MINUTE, False),
}


@pytest.mark.parametrize(("reason", "life", "free"), CREDITS.values(), ids=CREDITS)
def test_the_first_hour(reason: str, life: timedelta, free: bool) -> None:
    of = ended(life)
    assert leases.credited(of, Evidence(START, START + life, reason)) is free
    assert not leases.credited(attempt(), Evidence(START, START + life, reason)), "it lives"
    assert not leases.credited(of, Evidence(None, START + life, reason)), "no proof"


def test_a_credit_gives_back_the_instance_and_keeps_volume_and_address() -> None:
    of = ended(30 * MINUTE)
    usage = used(of, 30 * MINUTE, Evidence(usd_hour=PRICE, source=HISTORY))
    after = leases.settled(of, usage, True, POLICY)
    assert after.credited == Decimal("0.034000")
    assert after.cost == Decimal("0.039240") - Decimal("0.034000")


moments = st.integers(0, 3 * 366 * 86400).map(lambda s: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=s))
spans = st.timedeltas(timedelta(), timedelta(hours=3))
prices = st.integers(0, 10**6).map(lambda n: Decimal(n) / 10**6)


@given(
    start=moments,
    since=spans,
    life=spans,
    cap=prices,
    price=prices,
    shift=st.timedeltas(-31 * 24 * HOUR, 31 * 24 * HOUR),
)
def test_in_every_month_what_is_settled_fits_into_what_was_reserved(
    start: datetime, since: timedelta, life: timedelta, cap: Decimal, price: Decimal, shift: timedelta
) -> None:
    policy = replace(POLICY, month_shift=shift)
    lease = leases.first(start, 1, cap, 50, policy)
    of = replace(attempt(lease), phase=Phase.ENDED, ended_at=start + since + life)
    found = Evidence(start + since, None, "", price, HISTORY)
    usage = leases.usage(new_run(), of, start + since + life, found, policy)
    held = by_month(lease.rate, lease.start, lease.until, policy)
    assert all(usd <= held[month] for month, usd in leases.costs(usage, policy).items())
    assert sum(held.values()) == lease.reserved


def run_with(of: Attempt) -> Run:
    return new_run().put(of)


def test_what_moves_is_the_difference_and_a_repeat_moves_nothing() -> None:
    before = run_with(attempt())
    assert [m.reserved for m in movements(None, before, POLICY)] == [before.attempts[0].reserved]
    usage = used(before.attempts[0], 30 * MINUTE, Evidence(usd_hour=PRICE, source=HISTORY))
    after = run_with(leases.renewed(before.attempts[0], usage, START + 30 * MINUTE, POLICY))
    (moved,) = movements(before, after, POLICY)
    assert (moved.reserved, moved.settled) == (0, Decimal("0.039240"))
    assert movements(after, after, POLICY) == ()
    assert line_changes(after, after, POLICY) == ()


def test_a_renewal_writes_two_lines_and_a_launch_that_never_was_leaves_none() -> None:
    before = run_with(attempt())
    usage = used(before.attempts[0], 30 * MINUTE, Evidence())
    after = run_with(leases.renewed(before.attempts[0], usage, START + 30 * MINUTE, POLICY))
    lines = [(c.seq, c.before, c.after.entry if c.after else None) for c in line_changes(before, after, POLICY)]
    assert lines == [(1, Entry.RESERVED, Entry.SETTLED), (2, None, Entry.RESERVED)]
    never = ended(MINUTE, instance_id=None, ended_by=Reason.NO_CAPACITY)
    gone = run_with(leases.settled(never, used(never, MINUTE, Evidence()), False, POLICY))
    assert [c.after for c in line_changes(before, gone, POLICY)] == [None]
