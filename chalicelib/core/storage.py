"""What the bucket costs, reserved ahead: what is stored today is paid for until the month ends, since nothing stops it.

Each day that has passed is settled at the most that was stored in it, the rest of the month stays reserved. Pure.
A GB is 10^9 bytes here, which is never less than what AWS counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from chalicelib.core import calendar
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO, up

_GB = Decimal(10**9)


@dataclass(frozen=True)
class Stored:
    """A month's account of storage. `day` is the day (from 1) that is not settled yet, `most` the bytes seen in it."""

    month: str
    seq: int
    day: int
    most: int
    reserved: Decimal
    settled: Decimal
    measured_at: datetime
    days: int  # of the month
    headroom: int = 0  # bytes reserved for that nobody has stored yet


def measured(before: Stored | None, size: int, headroom: int, now: datetime, policy: Policy) -> tuple[Stored, ...]:
    """The accounts after `size` bytes were found now: this month's, and before it last month's, closed.

    `headroom` bytes are reserved for as well: what live runs may add before it is measured again.
    """
    month, (day, days) = calendar.month(now, policy), calendar.days(now, policy)
    closed: tuple[Stored, ...] = ()
    if before is not None and before.month != month:
        rest = before.days - before.day + 1
        if before.reserved:
            usd = _settled(before, size, rest, policy)
            closed = (replace(before, seq=before.seq + 1, day=before.days + 1, reserved=ZERO, settled=usd),)
        before = None
    if before is None:
        fresh = Stored(month, 1, day, size, ZERO, ZERO, now, days)
        reserved = _usd(size + headroom, days - day + 1, days, policy)
        return (*closed, replace(fresh, reserved=reserved, headroom=headroom))
    passed = day - before.day
    settled = _settled(before, size, passed, policy)
    most = max(size, 0 if passed else before.most)
    reserved = _usd(max(most, size + headroom), days - day + 1, days, policy)
    after = replace(
        before,
        seq=before.seq + 1,
        day=day,
        most=most,
        reserved=reserved,
        settled=settled,
        measured_at=now,
        headroom=headroom,
    )
    return (after,)


def within(before: Stored | None, after: Stored, free: Decimal) -> Stored:
    """The same with no more reserved than is free: what is stored is stored, and what money there is goes to it first."""
    held = (before.reserved + before.settled) if before and before.month == after.month else ZERO
    room = max(ZERO, held + free - after.settled)
    return replace(after, reserved=min(after.reserved, room))


def _settled(before: Stored, size: int, days: int, policy: Policy) -> Decimal:
    """With so many more days settled, out of what is reserved for them, at the most that can have been there."""
    most = max(before.most, size)
    return before.settled + min(before.reserved, _usd(most, days, before.days, policy))


def _usd(size: int, days: int, of: int, policy: Policy) -> Decimal:
    return up(policy.storage_usd_gb_month * size / _GB * days / of)
