"""What the bucket costs, reserved ahead: what is stored today is paid for until the month ends, since nothing stops it.

Each day that has passed is settled at the most that was stored in it, the rest of the month stays reserved. Where the month
has no money left for it, the gap is kept: it is owed, and nothing else gets money before it does. Pure.
A GB is 10^9 bytes here, which is never less than what AWS counts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from chalicelib.core import calendar
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO, up

_GB = Decimal(10**9)
_IDLE, _LIVE, _FAST = timedelta(days=1), timedelta(hours=1), timedelta(minutes=10)
_PER_RUN = 10**9  # bytes that each live run may add before it is measured again, until it has been seen to add more


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
    grew: int = 0  # bytes, between the last two measurements
    owed: Decimal = ZERO  # of days that have passed, and the month had no money for it
    short: Decimal = ZERO  # of days to come, likewise

    @property
    def gap(self) -> Decimal:
        """USD that storage costs in this month and that the ledger does not hold."""
        return self.owed + self.short


def due(before: Stored, now: datetime, live: int, policy: Policy) -> bool:
    """Whether to measure: each day, each hour while runs live, more often while they add more than was reserved for."""
    if calendar.month(now, policy) != before.month or calendar.days(now, policy)[0] != before.day:
        return True
    if before.headroom and not live:
        return True  # nothing is added any more: what was reserved for it is free again
    every = _IDLE if not live else _FAST if 2 * before.grew > _PER_RUN * live else _LIVE
    return now - before.measured_at >= every


def measured(before: Stored | None, size: int, live: int, now: datetime, policy: Policy) -> tuple[Stored, ...]:
    """The accounts after `size` bytes were found now: this month's last, and before it each month that has ended meanwhile.

    What `live` runs may add before it is measured again is reserved for as well: 1 GB each, or twice what came last.
    """
    month, (day, days) = calendar.month(now, policy), calendar.days(now, policy)
    grew = max(0, size - before.most) if before else 0
    fresh = Stored(month, 0, day, size, ZERO, ZERO, now, days)
    accounts = [before or fresh]
    if accounts[0].month > month:  # a rehearsal's calendar goes back, when it is over
        accounts = [replace(accounts[0], seq=accounts[0].seq + 1, reserved=ZERO, owed=ZERO, short=ZERO), fresh]
    while accounts[-1].month != month:
        accounts[-1] = _settled(accounts[-1], size, accounts[-1].days + 1, policy)
        accounts.append(_following(accounts[-1], size, now, policy))
    last = accounts[-1]
    headroom = max(_PER_RUN * live, 2 * grew) if live else 0
    most = max(size, last.most) if last.day == day else size
    last = _settled(last, size, day, policy)
    reserved = _usd(max(most, size + headroom), days - day + 1, days, policy)
    accounts[-1] = replace(last, most=most, reserved=reserved, measured_at=now, headroom=headroom, grew=grew)
    return tuple(accounts)


def within(before: Stored | None, after: Stored, free: Decimal) -> Stored:
    """The same with no more than is free in its month: days that have passed are settled first, the rest is a gap."""
    held = (before.reserved + before.settled) if before and before.month == after.month else ZERO
    room = held + free
    settled = min(after.settled, room)
    reserved = min(after.reserved, room - settled)
    return replace(
        after, settled=settled, reserved=reserved, owed=after.settled - settled, short=after.reserved - reserved
    )


def _settled(account: Stored, size: int, until: int, policy: Policy) -> Stored:
    """With the days before `until` settled, at the most that can have been there, and with what was owed."""
    usd = _usd(max(account.most, size), until - account.day, account.days, policy)
    return replace(
        account, seq=account.seq + 1, day=until, reserved=ZERO, settled=account.settled + account.owed + usd, owed=ZERO
    )


def _following(ended: Stored, size: int, now: datetime, policy: Policy) -> Stored:
    """The next month, of which nothing is settled yet: what is there now may have been there since its first hour."""
    first = datetime.fromisoformat(f"{ended.month}-01T00:00:00+00:00") - policy.month_shift
    turned = calendar.turn(first, policy)
    month, (_, days) = calendar.month(turned, policy), calendar.days(turned, policy)
    return Stored(month, 0, 1, max(ended.most, size), ZERO, ZERO, now, days)


def _usd(size: int, days: int, of: int, policy: Policy) -> Decimal:
    return up(policy.storage_usd_gb_month * size / _GB * days / of)
