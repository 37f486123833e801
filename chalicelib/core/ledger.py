"""Which money moves with a change of a run, worked out from the run before and after, so that one write saves both.

`free` is kept beside what is reserved and settled because a conditional write can compare one attribute with a number,
not add three: `free = limit - settled - reserved`, and a reservation succeeds only while `free` covers it (I3).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from chalicelib.core.model import Attempt, Lease, Run
from chalicelib.core.money import up

_ZERO = Decimal(0)


@dataclass(frozen=True)
class Movement:
    """What one attempt's lease moves in one month: USD added to reserved and to settled (negative takes away)."""

    month: str  # yyyy-mm, UTC
    attempt: int
    seq: int
    reserved: Decimal
    settled: Decimal

    @property
    def needs(self) -> Decimal:
        """How much must be free."""
        return self.reserved + self.settled


def movements(before: Run | None, after: Run) -> tuple[Movement, ...]:
    """Every movement between two versions of a run, by attempt and month."""
    found: list[Movement] = []
    for attempt in after.attempts:
        old = before.attempt(attempt.number) if before else None
        found += _of_attempt(attempt.number, old.lease if old else None, attempt)
    return tuple(found)


def _of_attempt(number: int, old: Lease | None, attempt: Attempt) -> list[Movement]:
    new = attempt.lease
    if new is None or new == old:
        return []
    held_before, spent_before = _held(old), _spent(old)
    held_after, spent_after = _held(new), _spent(new)
    found = []
    for month in sorted({*held_before, *held_after, *spent_before, *spent_after}):
        reserved = held_after.get(month, _ZERO) - held_before.get(month, _ZERO)
        settled = spent_after.get(month, _ZERO) - spent_before.get(month, _ZERO)
        if old is not None and old.settled and new.seq != old.seq:
            settled = spent_after.get(month, _ZERO)  # a new lease under the same number: what was settled stays
        if reserved or settled:
            found.append(Movement(month, number, new.seq, reserved, settled))
    return found


def _held(lease: Lease | None) -> dict[str, Decimal]:
    return {} if lease is None or lease.settled else split(lease.reserved, lease.start, lease.end)


def _spent(lease: Lease | None) -> dict[str, Decimal]:
    return split(lease.cost, lease.start, lease.end) if lease is not None and lease.settled else {}


def split(usd: Decimal, start: datetime, end: datetime) -> dict[str, Decimal]:
    """An amount over the calendar months (UTC) between two times, by duration; each share is rounded up."""
    if end <= start or _month(start) == _month(end):
        return {_month(start): usd}
    shares: dict[str, Decimal] = {}
    whole = Decimal(str((end - start).total_seconds()))
    at = start
    while at < end:
        turn = min(end, _next_month(at))
        shares[_month(at)] = up(usd * Decimal(str((turn - at).total_seconds())) / whole)
        at = turn
    return shares


def _month(at: datetime) -> str:
    return f"{at:%Y-%m}"


def _next_month(at: datetime) -> datetime:
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1)
