"""What is counted and timed, worked out from a run before and after a change. Pure; nothing is decided by it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Policy, Run
from chalicelib.core.reconcile import limits_of


class Name(StrEnum):
    """A metric's name; docs/observability.md says what each is good for."""

    RELAUNCH_TIME = "RelaunchTime"  # seconds from EC2's warning to the launch's answer
    DEADLINE_LAG = "DeadlineLag"  # seconds from when something was due to when it was done
    STEPS_LOST = "StepsLost"  # steps that were trained and are trained again
    LEASES_REFUSED = "LeasesRefused"
    STRAYS_ENDED = "StraysEnded"
    POISON_SEEN = "PoisonSeen"

    @property
    def unit(self) -> str:
        """CloudWatch's word for it."""
        return "Seconds" if self in (Name.RELAUNCH_TIME, Name.DEADLINE_LAG) else "Count"


@dataclass(frozen=True)
class Figure:
    """One value of a metric, and the attempt it was taken from."""

    name: Name
    value: float
    attempt: Attempt


def figures(before: Run, after: Run, now: datetime, policy: Policy) -> tuple[Figure, ...]:
    """How long the relaunch took, how late a deadline was acted upon."""
    found = []
    for attempt in after.attempts:
        old = before.attempt(attempt.number)
        if attempt.instance_id and (old is None or old.instance_id is None):
            warned_at = _warned_at(after, attempt, policy)
            if warned_at is not None:
                found.append(Figure(Name.RELAUNCH_TIME, (now - warned_at).total_seconds(), attempt))
        due = _due(before, old, attempt, now, policy)
        if due is not None:
            found.append(Figure(Name.DEADLINE_LAG, (now - due).total_seconds(), attempt))
    return tuple(figure for figure in found if figure.value > 0)


def steps_lost(furthest: int | None, restored: int | None) -> int:
    """What was trained beyond the checkpoint that the next attempt goes on from."""
    return max(0, (furthest or 0) - (restored or 0))


def _warned_at(run: Run, attempt: Attempt, policy: Policy) -> datetime | None:
    """When EC2 warned the attempt before, if it did."""
    last = run.attempt(attempt.number - 1)
    return last.notice_ends_at - policy.notice if last and last.notice_ends_at else None


def _due(before: Run, old: Attempt | None, attempt: Attempt, now: datetime, policy: Policy) -> datetime | None:
    """Since when what was done now had been due: a launch that waited for its time, an instance that was to be ended."""
    if attempt.launch and (old is None or old.launch != attempt.launch):
        return before.retry_at if before.retry_at and before.retry_at <= now else None
    if attempt.terminate_asked_at and old and old.terminate_asked_at is None:
        return min((at for at, _ in limits_of(old, policy) if at <= now), default=None)
    return None
