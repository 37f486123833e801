"""Which money moves with a change of a run, and which lines of the ledger it writes. Pure: worked out from before and after.

`free` is kept beside what is reserved and settled because a conditional write can compare one attribute with a number,
not add three: `free = limit - settled - reserved`, and a reservation succeeds only while `free` covers it (I3).
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from chalicelib.core.frozen import dataclass
from chalicelib.core.leases import costs
from chalicelib.core.model import Attempt, Lease, Policy, PriceSource, Rates, Run
from chalicelib.core.money import ZERO, by_month


@dataclass(frozen=True)
class Movement:
    """What one attempt moves in one month: USD added to reserved and to settled (negative takes away)."""

    month: str  # yyyy-mm, UTC
    attempt: int
    reserved: Decimal
    settled: Decimal

    @property
    def needs(self) -> Decimal:
        """How much must be free."""
        return self.reserved + self.settled


class Entry(StrEnum):
    RESERVED = "reserved"
    SETTLED = "settled"
    CREDIT = "credit"


@dataclass(frozen=True)
class Line:
    """One line of the ledger: a lease as it stands, or a credit. `usd` is what it reserves, has cost, or gives back."""

    entry: Entry
    attempt: int
    seq: int
    pool: str | None
    start: datetime
    end: datetime
    rates: Rates | None  # None while only reserved: then `usd` is at the price cap
    source: PriceSource | None
    usd: Decimal


@dataclass(frozen=True)
class LineChange:
    """`before` is what the line must be now: None means that it must not be there. `after` None deletes it."""

    attempt: int
    seq: int
    before: Entry | None
    after: Line | None


def movements(before: Run | None, after: Run, policy: Policy) -> tuple[Movement, ...]:
    """Every movement between two versions of a run, by attempt and month."""
    found: list[Movement] = []
    for attempt in after.attempts:
        old = before.attempt(attempt.number) if before else None
        if old is not None and (old.lease, old.spent) == (attempt.lease, attempt.spent):
            continue
        held_before, held_after = _held(old, policy), _held(attempt, policy)
        spent_before, spent_after = _spent(old), _spent(attempt)
        for month in sorted({*held_before, *held_after, *spent_before, *spent_after}):
            reserved = held_after.get(month, ZERO) - held_before.get(month, ZERO)
            settled = spent_after.get(month, ZERO) - spent_before.get(month, ZERO)
            if reserved or settled:
                found.append(Movement(month, attempt.number, reserved, settled))
    return tuple(found)


def line_changes(before: Run | None, after: Run, policy: Policy) -> tuple[LineChange, ...]:
    """Every line that is new, changed, or not worth keeping: a lease that no instance ever used leaves none."""
    found: list[LineChange] = []
    for attempt in after.attempts:
        old = before.attempt(attempt.number) if before else None
        known = {lease.seq: lease for lease in _leases(old)}
        for lease in _leases(attempt):
            was = known.get(lease.seq)
            if was == lease:
                continue
            entry = None if was is None else Entry.SETTLED if was.settled else Entry.RESERVED
            unused = lease.usage is not None and lease.usage.source is PriceSource.NO_INSTANCE
            line = None if unused else _line(attempt, lease, policy)
            if line is not None or entry is not None:
                found.append(LineChange(attempt.number, lease.seq, entry, line))
        if attempt.credited is not None and (old is None or old.credited is None):
            found.append(LineChange(attempt.number, 0, None, _credit(attempt)))
    return tuple(found)


def _leases(attempt: Attempt | None) -> list[Lease]:
    return [lease for lease in (attempt.previous, attempt.lease) if lease] if attempt else []


def _line(attempt: Attempt, lease: Lease, policy: Policy) -> Line:
    used = lease.usage
    if used is None:
        entry, start, end, usd = Entry.RESERVED, lease.start, lease.until, lease.reserved
        return Line(entry, attempt.number, lease.seq, attempt.pool, start, end, None, None, usd)
    usd = sum(costs(used, policy).values(), ZERO)
    return Line(
        Entry.SETTLED, attempt.number, lease.seq, attempt.pool, used.start, used.end, used.rates, used.source, usd
    )


def _credit(attempt: Attempt) -> Line:
    used = attempt.lease.usage if attempt.lease else None
    assert used is not None
    assert attempt.credited is not None
    return Line(
        Entry.CREDIT, attempt.number, 0, attempt.pool, used.end, used.end, used.rates, used.source, -attempt.credited
    )


def _held(attempt: Attempt | None, policy: Policy) -> dict[str, Decimal]:
    lease = attempt.lease if attempt else None
    return {} if lease is None or lease.settled else by_month(lease.rate, lease.start, lease.until, policy)


def _spent(attempt: Attempt | None) -> dict[str, Decimal]:
    return {s.month: s.usd for s in attempt.spent} if attempt else {}
