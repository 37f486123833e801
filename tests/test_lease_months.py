"""I3 over the months' borders: what is settled of a slice fits, month by month, into what was reserved for it."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.core import leases
from chalicelib.core.calendar import pieces
from chalicelib.core.leases import Evidence
from chalicelib.core.ledger import movements
from chalicelib.core.model import PriceSource
from chalicelib.core.money import ZERO, by_month
from tests.core_world import POLICY, new_run
from tests.test_leases import CAP, DISK, attempt, ended, used

STARTS = st.one_of(
    st.integers(0, 3 * 365 * 86_400).map(lambda s: datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=s)),
    st.builds(
        lambda year, month, before: datetime(year, month, 1, tzinfo=UTC) - before,
        st.integers(2027, 2028),
        st.sampled_from([1, 2, 3, 7]),
        st.timedeltas(timedelta(), timedelta(hours=1)),
    ),
)
PRICES = st.decimals("0.000001", "40", places=6)
SHIFTS = st.sampled_from([timedelta(), timedelta(days=3, hours=5), timedelta(days=-10, seconds=7)])


@given(
    STARTS, st.timedeltas(timedelta(), timedelta(hours=2)), PRICES, PRICES, st.integers(8, 1000), SHIFTS, st.booleans()
)
def test_what_is_settled_fits_each_month_of_what_was_reserved(
    start: datetime, span: timedelta, cap: Decimal, price: Decimal, disk: int, shift: timedelta, proved: bool
) -> None:
    policy = replace(POLICY, month_shift=shift)
    run = new_run(limits=replace(new_run().limits, disk_gb=disk))
    lease = leases.first(start, 1, cap, disk, policy)
    held = ended(replace(attempt(), lease=lease), start + span, end_proved=proved)
    found = Evidence(None, None, "", price, PriceSource.SPOT_HISTORY)
    usage = leases.usage(run, held, start + span, found, policy)
    after_ = leases.settled(held, usage, False, policy)
    reserved = by_month(lease.rate, lease.start, lease.until, policy)
    assert sum(reserved.values()) == lease.reserved
    assert all(s.usd <= reserved[s.month] for s in after_.spent)
    assert sum(leases.costs(usage, policy).values(), ZERO) == after_.cost
    moved = movements(run.put(held), run.put(after_), policy)
    assert all(m.needs <= 0 for m in moved)
    assert {m.month: -m.reserved for m in moved} == reserved


@given(STARTS, st.lists(st.timedeltas(timedelta(seconds=1), timedelta(minutes=56)), min_size=1, max_size=8), PRICES)
def test_slices_sum_to_what_the_whole_would_have_cost_to_the_cent(
    start: datetime, spans: list[timedelta], price: Decimal
) -> None:
    held, now = attempt(start, price), start
    found = Evidence(None, None, "", price, PriceSource.SPOT_HISTORY)
    for span in spans:
        now = max(now + span, start + timedelta(minutes=1))
        held = leases.renewed(held, used(held, now, found), now, POLICY)
    whole = {month: price * seconds / 3600 + beside(month, seconds) for month, seconds in pieces(start, now, POLICY)}
    assert {s.month for s in held.spent} == set(whole)
    for spent in held.spent:
        # The slice over a month's turn has its disk at the dearer month's rate.
        over = Decimal("0.0006") if len(whole) > 1 else ZERO
        assert ZERO <= spent.usd - whole[spent.month] < over + Decimal("0.00001") * len(spans)


def beside(month: str, seconds: Decimal) -> Decimal:
    """The disk, as AWS divides a GB-month by the hours of the month, and the address."""
    hours = 24 * monthrange(int(month[:4]), int(month[5:]))[1]
    return (Decimal("0.08") * DISK / hours + Decimal("0.005")) * seconds / 3600


@pytest.mark.parametrize("shift", [timedelta(), timedelta(days=2)])
def test_a_lease_over_the_border_is_reserved_in_both_months(shift: timedelta) -> None:
    policy = replace(POLICY, month_shift=shift)
    start = datetime(2026, 12, 31, 23, 30, tzinfo=UTC) - shift
    run = new_run()
    lease = leases.first(start, 1, CAP, DISK, policy)
    moved = movements(run, run.put(replace(attempt(), lease=lease)), policy)
    assert [m.month for m in moved] == ["2026-12", "2027-01"]
    assert moved[0].reserved == pytest.approx(moved[1].reserved * 30 / 27, abs=Decimal("0.000002"))
