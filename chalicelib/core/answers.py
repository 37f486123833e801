"""What an agent is told, read off the run as it stands. Pure; the same run gives the same answer, so a repeat is harmless."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from chalicelib.core.apply import newest_counted, superseded
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Counted, Phase, Policy, Reason, Run, Wanted


class Action(StrEnum):
    PREPARE = "prepare"
    WAIT = "wait"
    RESTORE = "restore"
    CONTINUE = "continue"
    DRAIN = "drain"
    STOP = "stop"
    SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Answer:
    """`checkpoint` is what to restore, only beside RESTORE; None there means to start from nothing."""

    action: Action
    reason: str = ""
    message: str = ""
    checkpoint: Counted | None = None
    older: tuple[Counted, ...] = ()  # what else counts, newest first, should the newest be torn


def claim(run: Run, number: int, ready: bool) -> Answer:
    """The answer to a claim by attempt `number`, after the claim was written into the run."""
    attempt = run.attempt(number)
    over = _over(run, attempt)
    if over is not None or attempt is None:
        return over or _superseded()
    if attempt.drain or run.wanted is not Wanted.RUN:
        return Answer(Action.STOP, run.wanted_reason, run.message)
    if not ready:
        return Answer(Action.PREPARE)
    if run.baton != number:
        return Answer(Action.WAIT)
    newest = newest_counted(run.counted)
    older = sorted((c for c in run.counted if c.step >= 0 and c != newest), key=lambda c: -c.attempt)
    return Answer(Action.RESTORE, checkpoint=newest, older=tuple(older))


def heartbeat(run: Run, number: int) -> Answer:
    """The answer to a heartbeat of attempt `number`."""
    attempt = run.attempt(number)
    over = _over(run, attempt)
    if over is not None or attempt is None:
        return over or _superseded()
    if attempt.drain is None:
        return Answer(Action.CONTINUE)
    cancelled = run.wanted is Wanted.CANCEL
    holds = run.baton == number
    action = Action.DRAIN if holds and not cancelled else Action.STOP
    return Answer(action, attempt.drain, run.message)


def _over(run: Run, attempt: Attempt | None) -> Answer | None:
    if attempt is None or not attempt.live or superseded(run, attempt):
        return _superseded()
    if run.status.ended and attempt.phase is not Phase.LEAVING:
        return Answer(Action.STOP, run.reason, run.message)
    return None


def _superseded() -> Answer:
    return Answer(Action.SUPERSEDED, Reason.SUPERSEDED, "A later attempt carries the run on; publish nothing more.")


def beat_every(run: Run, number: int, policy: Policy) -> timedelta:
    """How often the attempt should be heard of: quickly while a handoff is under way."""
    attempt = run.attempt(number)
    handoff = any(a.phase in (Phase.PREPARING, Phase.READY) for a in run.live if a.number != number)
    urgent = attempt is not None and (attempt.notice_ends_at or attempt.drain or handoff)
    return policy.heartbeat_urgent if urgent else policy.heartbeat


def linger(run: Run, number: int, now: datetime, policy: Policy) -> timedelta:
    """How long to wait for EC2 to end the instance before powering off.

    An instance that EC2 interrupts within its first hour is free, one that ends itself is charged (AWS); so it waits, unless
    the run is waiting for its quota, until a moment after the notice.
    """
    attempt = run.attempt(number)
    if attempt is None or attempt.notice_ends_at is None or attempt.started_at is None:
        return timedelta()
    needed = any(a.ended_by is Reason.QUOTA for a in run.attempts[number:])
    until = attempt.notice_ends_at + 2 * policy.after_notice
    if needed or now - attempt.started_at >= timedelta(hours=1):
        return timedelta()
    return max(timedelta(), until - now)


def renewal_due(attempt: Attempt, now: datetime, policy: Policy) -> bool:
    """Whether a heartbeat should reserve the next slice: little is left, and nothing has condemned the attempt."""
    lease = attempt.lease
    going = attempt.drain or attempt.terminate_asked_at or attempt.phase is Phase.LEAVING
    if lease is None or going or not attempt.live:
        return False
    return lease.end - now < policy.renew_below
