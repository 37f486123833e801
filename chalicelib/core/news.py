"""What a person is told by mail, worked out from a run before and after a change. Pure."""

from __future__ import annotations

from enum import StrEnum

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Run, Status, Wanted
from chalicelib.core.money import ZERO, cost


class Kind(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    RELAUNCHED = "relaunched"
    ENDED = "ended"  # an instance or volume that no run accounts for
    OUTLIVED = "outlived"  # an instance lived longer than was paid for
    THRESHOLD = "threshold"
    LIMIT = "limit"
    UNREADABLE = "unreadable"  # a record or an event that can't be understood

    @property
    def digest(self) -> bool:
        """Whether it can wait and be told together with others."""
        return self is Kind.RELAUNCHED


@dataclass(frozen=True)
class News:
    """A mail: `message` is the whole of it; `run` is None where it is about none."""

    kind: Kind
    subject: str
    message: str
    run: str | None = None


_ENDS = {Status.SUCCEEDED: Kind.SUCCEEDED, Status.FAILED: Kind.FAILED, Status.SUSPENDED: Kind.SUSPENDED}


def news(before: Run, after: Run) -> tuple[News, ...]:
    found = []
    kind = _ENDS.get(after.status) if after.status is not before.status else None
    if kind:
        found.append(_news(kind, after, f"{after.name} {kind.value}: {after.message}"))
    if before.wanted is Wanted.SUSPEND and after.wanted is Wanted.RUN:
        found.append(_news(Kind.RESUMED, after, f"{after.name} resumed: {after.message}"))
    for attempt in after.attempts[1:]:
        old = before.attempt(attempt.number)
        if attempt.instance_id and (old is None or old.instance_id is None):
            where = f"on {attempt.instance_id} ({attempt.pool})"
            last = after.attempts[attempt.number - 2]
            why = f" after {last.ended_by.value}" if last.ended_by else ""
            found.append(_news(Kind.RELAUNCHED, after, f"{after.name}: attempt {attempt.number} {where}{why}."))
    found += [_news(Kind.OUTLIVED, after, f"{after.name}: {unpaid(attempt)}") for attempt in outlived(before, after)]
    return tuple(found)


def outlived(before: Run, after: Run) -> list[Attempt]:
    """Attempts of which it was learned just now that their instance lived longer than was paid for."""
    return [a for a in after.attempts if a.outlived and not getattr(before.attempt(a.number), "outlived", None)]


def unpaid(attempt: Attempt) -> str:
    used = attempt.lease.usage if attempt.lease else None
    usd = cost(used.rates.total, attempt.outlived) if used else ZERO
    minutes = attempt.outlived.total_seconds() / 60
    return (
        f"The instance {attempt.instance_id} of attempt {attempt.number} lived {minutes:.1f} min longer than was paid for: "
        f"about {usd:.2f} USD that the ledger does not hold."
    )


def _news(kind: Kind, run: Run, message: str) -> News:
    return News(kind, f"Spot Relay: {run.name} {kind.value}", message, run.name)
