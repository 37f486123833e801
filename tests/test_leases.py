"""I3: a lease reserves at the highest price until its very end; what is settled is never more, in no calendar month."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from chalicelib.core import answers, leases
from chalicelib.core.leases import Evidence
from chalicelib.core.ledger import Entry, line_changes, movements
from chalicelib.core.model import Attempt, Launch, Phase, PriceSource, Reason, Run
from chalicelib.core.money import ZERO, by_month, rates
from tests.core_world import OFFERS, POLICY, START, new_run

CAP, SPOT = Decimal("0.34"), Decimal("0.068")
DISK = 50
NOVEMBER = Decimal("0.005556") + Decimal("0.005")  # 50 GB x 0.08 USD in a month of 720 hours, rounded up; the address
HOUR = timedelta(hours=1)
SPENT_FOR = POLICY.lease + POLICY.grace + POLICY.end_margin


def attempt(start: datetime = START, cap: Decimal = CAP, **changes: object) -> Attempt:
    """Attempt 1 on an instance, with its first lease open."""
    lease = leases.first(start, 1, cap, DISK, POLICY)
    held = Attempt(1, Phase.TRAINING, start, lease=lease, instance_id="i-1", pool=OFFERS[0].pool, started_at=start)
    return replace(held, **changes)  # type: ignore[arg-type]


def ended(held: Attempt, at: datetime, **changes: object) -> Attempt:
    return replace(held, phase=Phase.ENDED, ended_at=at, **changes)  # type: ignore[arg-type]


def used(held: Attempt, now: datetime, found: Evidence | None = None) -> leases.Usage:
    return leases.usage(new_run(), held, now, found or Evidence(None, None, "", SPOT, PriceSource.SPOT_HISTORY), POLICY)


def after(minutes: float, start: datetime = START) -> datetime:
    return start + timedelta(minutes=minutes)


# -- reserving -------------------------------------------------------------------------------------------------------


def test_a_launch_reserves_the_highest_cap_until_grace_and_ending_are_over() -> None:
    lease = leases.first(START, 1, CAP, DISK, POLICY)
    assert lease.until - START == SPENT_FOR == timedelta(minutes=57)
    hourly = CAP + rates(ZERO, DISK, POLICY).disk + Decimal("0.005")
    assert lease.rate == hourly
    assert lease.reserved == pytest.approx(hourly * 57 / 60, abs=Decimal("0.000001"))


@pytest.mark.parametrize(("chosen", "kept"), [("0.136", "0.136"), ("0.34", "0.34"), ("0.90", "0.34")])
def test_the_reservation_shrinks_to_the_chosen_pool_and_never_grows(chosen: str, kept: str) -> None:
    lease = leases.first(START, 1, CAP, DISK, POLICY)
    shrunk = leases.shrunk(lease, Decimal(chosen), DISK, POLICY)
    assert shrunk == replace(leases.first(START, 1, Decimal(kept), DISK, POLICY), seq=lease.seq)


def test_a_renewal_settles_the_slice_and_reserves_the_next_from_its_very_end() -> None:
    held, now = attempt(), after(26)
    usage = used(held, now)
    renewed = leases.renewed(held, usage, now, POLICY)
    assert renewed.previous == replace(held.lease, usage=usage)  # type: ignore[type-var]
    assert renewed.lease == leases.first(now, 2, CAP, DISK, POLICY)
    assert renewed.cost == by_month(SPOT + NOVEMBER, START, now, POLICY)["2026-11"]


def test_what_passes_between_asking_the_price_and_writing_the_renewal_is_paid_by_the_next_slice() -> None:
    held, asked = attempt(), after(26)
    late = asked + timedelta(seconds=7)
    renewed = leases.renewed(held, used(held, asked), late, POLICY)
    assert renewed.lease
    assert renewed.lease.start == asked
    assert renewed.lease.end == late + POLICY.lease


# -- what was used ---------------------------------------------------------------------------------------------------

DAY = timedelta(days=1)
SECONDS = [
    # what happened, seconds used, price, source
    ("measured", ended(attempt(), after(10)), Evidence(None, None, "", SPOT), 600, SPOT, None),
    (
        "from the launch as EC2 says it",
        ended(attempt(), after(10)),
        Evidence(after(1), None, "", SPOT),
        540,
        SPOT,
        None,
    ),
    ("until the end as EC2 says it", ended(attempt(), after(10)), Evidence(None, after(9), "", SPOT), 540, SPOT, None),
    ("never longer than we saw it", ended(attempt(), after(10)), Evidence(None, after(11), "", SPOT), 600, SPOT, None),
    ("a minute at least", ended(attempt(), after(0.2)), Evidence(None, None, "", SPOT), 60, SPOT, None),
    ("a minute from its launch", ended(attempt(), after(1.1)), Evidence(after(1), None, "", SPOT), 60, SPOT, None),
    ("never past the reservation", ended(attempt(), after(90)), Evidence(None, None, "", SPOT), 3420, SPOT, None),
    ("no price: the cap", ended(attempt(), after(10)), Evidence(), 600, CAP, PriceSource.CAP),
    ("a price above the cap: the cap", ended(attempt(), after(10)), Evidence(None, None, "", DISK), 600, CAP, None),
    ("an end nobody can prove: all of it", ended(attempt(), after(10), end_proved=False), Evidence(), 3420, CAP, None),
    ("still running", attempt(), Evidence(None, None, "", SPOT), 1560, SPOT, None),
]


@pytest.mark.parametrize(
    ("held", "found", "seconds", "price", "source"), [c[1:] for c in SECONDS], ids=[c[0] for c in SECONDS]
)
def test_used_is(held: Attempt, found: Evidence, seconds: int, price: Decimal, source: PriceSource | None) -> None:
    usage = used(held, after(26), found)
    assert (usage.end - usage.start).total_seconds() == seconds
    assert usage.rates.instance == price
    assert source in (None, usage.source)


def test_an_end_that_nobody_can_prove_settles_all_that_was_reserved() -> None:
    held = ended(attempt(), after(10), end_proved=False)
    usage = used(held, after(30))
    assert usage.source is PriceSource.UNPROVED
    assert leases.settled(held, usage, False, POLICY).cost == held.reserved


@pytest.mark.parametrize(("minutes", "source"), [(6, PriceSource.NO_INSTANCE), (120, PriceSource.UNPROVED)])
def test_a_launch_without_an_answer_is_free_only_while_ec2_would_remember_its_instance(
    minutes: int, source: PriceSource
) -> None:
    held = attempt(instance_id=None, launch=Launch("token", OFFERS, START))
    lost = ended(held, after(minutes), ended_by=Reason.LOST_CONTACT)
    assert used(lost, after(minutes)).source is source


def test_what_no_instance_used_costs_nothing() -> None:
    held = ended(replace(attempt(), instance_id=None), after(3))
    usage = used(held, after(3))
    assert usage.source is PriceSource.NO_INSTANCE
    assert leases.settled(held, usage, False, POLICY).cost == 0


def test_the_minute_that_ec2_bills_at_least_is_paid_once_an_attempt() -> None:
    held = attempt()
    held = leases.renewed(held, used(held, after(26)), after(26), POLICY)
    gone = ended(held, after(26) + timedelta(seconds=5))
    usage = used(gone, after(27))
    assert (usage.end - usage.start).total_seconds() == 5


# -- what EC2 gives back ---------------------------------------------------------------------------------------------

TOOK = "Server.SpotInstanceTermination"


@pytest.mark.parametrize(
    ("reason", "launched", "gone", "credit"),
    [
        (TOOK, START, after(59.9), True),
        ("Server.SpotInstanceShutdown", START, after(5), True),
        (TOOK, START, after(60), False),
        ("Client.UserInitiatedShutdown", START, after(5), False),
        ("Client.InstanceInitiatedShutdown", START, after(5), False),
        ("", START, after(5), False),
        (TOOK, None, after(5), False),
        (TOOK, START, None, False),
    ],
)
def test_only_what_ec2_itself_took_within_the_first_hour_is_free(
    reason: str, launched: datetime | None, gone: datetime | None, credit: bool
) -> None:
    assert leases.credited(ended(attempt(), after(70)), Evidence(launched, gone, reason, SPOT)) is credit
    assert not leases.credited(attempt(), Evidence(launched, gone, reason, SPOT))  # not while it runs


def test_a_credit_gives_back_the_instance_over_all_slices_and_not_disk_and_address() -> None:
    held = leases.renewed(attempt(), used(attempt(), after(26)), after(26), POLICY)
    gone = ended(held, after(50))
    usage = used(gone, after(51))
    paid, free = leases.settled(gone, usage, False, POLICY), leases.settled(gone, usage, True, POLICY)
    around = (NOVEMBER * 50 / 60).quantize(Decimal("0.0001"))
    assert free.cost.quantize(Decimal("0.0001")) == around
    assert free.credited == paid.cost - free.cost
    again = sum((s.instance_usd for s in free.spent), ZERO)
    assert again == 0


# -- from version to version -----------------------------------------------------------------------------------------


def changes(before: Run | None, now: Run) -> list[tuple[int, Entry | None, Entry | None]]:
    return [(c.seq, c.before, c.after.entry if c.after else None) for c in line_changes(before, now, POLICY)]


def test_each_lease_has_one_line_that_is_reserved_then_settled() -> None:
    empty, held = new_run(), attempt()
    one = empty.put(held)
    assert changes(empty, one) == [(1, None, Entry.RESERVED)]
    renewed = leases.renewed(held, used(held, after(26)), after(26), POLICY)
    two = one.put(renewed)
    assert changes(one, two) == [(1, Entry.RESERVED, Entry.SETTLED), (2, None, Entry.RESERVED)]
    gone = ended(renewed, after(40))
    three = two.put(leases.settled(gone, used(gone, after(41)), True, POLICY))
    assert changes(two, three) == [(2, Entry.RESERVED, Entry.SETTLED), (0, None, Entry.CREDIT)]
    assert changes(three, three) == []
    assert movements(three, three, POLICY) == ()


def test_a_lease_that_no_instance_used_leaves_no_line() -> None:
    held = replace(attempt(), instance_id=None, phase=Phase.ENDED, ended_at=after(1))
    before = new_run().put(held)
    unused = before.put(leases.settled(held, used(held, after(1)), False, POLICY))
    assert changes(before, unused) == [(1, Entry.RESERVED, None)]
    assert changes(new_run(), unused) == []
    assert sum(m.needs for m in movements(before, unused, POLICY)) == -held.reserved


def test_the_lines_of_a_run_sum_to_what_it_has_cost() -> None:
    held = attempt(datetime(2026, 11, 30, 23, 50, tzinfo=UTC))
    start = held.phase_since
    run = new_run()
    versions = [run, run.put(held)]
    for minutes in (26, 52):
        now = after(minutes, start)
        held = leases.renewed(held, used(held, now), now, POLICY)
        versions.append(run.put(held))
    held = ended(held, after(55, start))
    versions.append(run.put(leases.settled(held, used(held, after(56, start)), True, POLICY)))
    lines: dict[int, Decimal] = {}
    for old, new in pairwise(versions):
        lines |= {c.seq: c.after.usd for c in line_changes(old, new, POLICY) if c.after}
    assert sum(lines.values()) == versions[-1].attempts[0].cost


# -- who is renewed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "changes", "due"),
    [
        (24, {}, False),
        (26, {}, True),
        (26, {"drain": Reason.BUDGET}, False),
        (26, {"phase": Phase.LEAVING}, False),
        (26, {"phase": Phase.ENDED}, False),
        (26, {"lease": None}, False),
        (26, {"terminate_asked_at": after(25)}, False),
    ],
)
def test_a_lease_is_renewed_late_and_for_nobody_that_is_going(
    minutes: int, changes: dict[str, object], due: bool
) -> None:
    assert answers.renewal_due(attempt(**changes), after(minutes), POLICY) is due


@pytest.mark.parametrize(("ended_after", "minutes"), [(None, 0), (50, 0), (57, 0), (60, 3), (24 * 60, 1383)])
def test_what_an_instance_lived_after_its_paid_time_is_known(ended_after: float | None, minutes: float) -> None:
    found = Evidence(ended_at=after(ended_after) if ended_after is not None else None)
    assert leases.outlived(attempt(), found) == timedelta(minutes=minutes)
