"""Which runs go on when there is money again: the oldest first, and none before an older one that the money does not cover."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal

from chalicelib.core import leases
from chalicelib.core.apply import waits_for_money
from chalicelib.core.model import Policy, Reason, Run, Status

# Money that merely came back, from a lease that cost less than it had reserved, must cover so many leases: otherwise a run
# would be launched again and again for the last cents of a month. At the month's turn, or when the limit was raised after the
# run was refused, one is enough.
_LEASES_BACK = 2


def waiting(run: Run) -> bool:
    """Whether the run goes on when the month has money for it."""
    return waits_for_money(run) is Reason.BUDGET


def to_resume(
    runs: Iterable[Run], free: Decimal, now: datetime, policy: Policy, *, raised_at: datetime | None = None
) -> Iterator[Run]:
    """The runs to resume now, of these that come oldest first; none is asked for when the money is at its end.

    `free` is the month's; `raised_at` is when its limit was last raised.
    """
    for run in runs:
        needed = first_lease(run, now, policy)
        anew = _turned(run, now) or (raised_at is not None and (run.refused_at or run.created_at) <= raised_at)
        if free < needed * (1 if anew else _LEASES_BACK):
            return
        free -= needed
        yield run


def first_lease(run: Run, now: datetime, policy: Policy) -> Decimal:
    """USD that launching the run reserves."""
    highest = max((offer.max_price for offer in run.offers), default=Decimal(0))
    return leases.first(now, 1, highest, run.limits.disk_gb, policy).reserved


def _turned(run: Run, now: datetime) -> bool:
    """Whether the month has turned since it began to wait: until then a queued run tries no launch, a suspended one rests."""
    until = run.retry_at if run.status is Status.QUEUED else run.deadline
    return until is not None and until <= now
