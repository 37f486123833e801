"""From the facts in a run to what must happen next: what to launch, to end, to settle, and until when to wait.

`reconcile` asks nothing about how the facts came in, so an event, a repeat of it and the sweep all end at the same
place.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from chalicelib.core import events as ev
from chalicelib.core import leases
from chalicelib.core.apply import running_time, say
from chalicelib.core.calendar import turn
from chalicelib.core.model import Attempt, Launch, Offer, Phase, Policy, Reason, Run, Status, Wanted

_DAY = timedelta(days=1)


def reconcile(run: Run, now: datetime, policy: Policy) -> ev.Outcome:
    commands: list[ev.Command] = []
    run = _enforce_limits(run, now, policy)
    if not run.status.ended and run.wanted is Wanted.RUN:
        run = _launch_if_needed(run, now, policy, commands)
    for attempt in run.attempts:
        run = _tend(run, attempt, now, policy, commands)
    # Last: whatever else there is to do does not wait for the Scheduler.
    commands += [w for a in run.attempts if (w := _watchdog(a, now, policy))]
    run = _conclude(run, now, policy)
    return ev.Outcome(replace(run, deadline=next_deadline(run, now, policy)), tuple(commands))


def _enforce_limits(run: Run, now: datetime, policy: Policy) -> Run:
    if run.status.ended or run.wanted is not Wanted.RUN or running_time(run, now) < run.limits.duration:
        return run
    run = replace(run, wanted=Wanted.CANCEL, wanted_reason=Reason.MAX_DURATION)
    return say(run, Reason.MAX_DURATION, "The run used up limits.duration; raise it to go on from the last checkpoint.")


def staying(attempt: Attempt) -> bool:
    """Whether the attempt can be expected to carry the run on: alive, and nothing has condemned it."""
    condemned = attempt.notice_ends_at or attempt.terminate_asked_at or attempt.drain or attempt.ended_by
    return attempt.live and attempt.phase is not Phase.LEAVING and not condemned and not attempt.superseded


def _launch_if_needed(run: Run, now: datetime, policy: Policy, commands: list[ev.Command]) -> Run:
    if any(staying(a) for a in run.attempts):
        return run
    if run.retry_at and now < run.retry_at:
        return run
    newest = run.newest
    if newest and not newest.live and newest.instance_id is None and newest.lease and not newest.lease.settled:
        return run  # the refused launch's money comes back first; its number is then tried again
    if any(a.live and a.ended_by is Reason.LOST_CONTACT for a in run.attempts):
        return run  # silent but running: it is ended first, so that two never train at once
    started = [a for a in run.attempts if a.started_at]
    if len(started) >= run.limits.attempts:
        return _give_up(run, Reason.MAX_ATTEMPTS, f"limits.attempts ({run.limits.attempts}) is used up.")
    stuck = run.limits.attempts_without_progress
    if len(started) >= stuck and all(not _progressed(run, a) for a in started[-stuck:]):
        return _give_up(
            run, Reason.NO_PROGRESS, f"{stuck} attempts in a row published no new checkpoint; see the run's logs."
        )
    cooling = {c.pool for c in run.cooling if c.until > now}
    # A warm pool is better than none: when all cool, all are asked again. How soon, `retry_at` has said.
    offers = tuple(o for o in run.offers if o.pool not in cooling) or run.offers
    if not offers or run.offered_at is None or now - run.offered_at > policy.price_stale:
        # The sweep asks for prices each hour; what it could not learn is not guessed (I9).
        run = replace(run, retry_at=now + policy.retry_first)
        return say(run, Reason.PRICE_UNKNOWN, "No pool has a known price of today; the launch is tried again.")
    commands.append(ev.StartInstance(_next_number(run)))
    return _with_new_launch(run, offers, now, policy)


def _next_number(run: Run) -> int:
    newest = run.newest
    return newest.number if newest and _never_started(newest) else len(run.attempts) + 1


def _never_started(attempt: Attempt) -> bool:
    settled = attempt.lease is None or attempt.lease.settled
    refused = attempt.ended_by in (Reason.NO_CAPACITY, Reason.QUOTA, Reason.PRICE_UNKNOWN)
    return not attempt.live and attempt.instance_id is None and refused and settled


def _with_new_launch(run: Run, offers: tuple[Offer, ...], now: datetime, policy: Policy) -> Run:
    number = _next_number(run)
    before = run.attempt(number)
    tries = before.tries + 1 if before else 1
    seq = before.lease.seq + 1 if before and before.lease else 1
    lease = leases.first(now, seq, max(o.max_price for o in offers), run.limits.disk_gb, policy)
    attempt = Attempt(
        number=number,
        phase=Phase.LAUNCHING,
        phase_since=now,
        tries=tries,
        launch=Launch(f"{run.uid}-{number}-{tries}", offers, now),
        lease=lease,
        spent=before.spent if before else (),
    )
    for lower in run.live:
        if lower.number != run.baton and lower.number < number:
            run = run.put(replace(lower, superseded=True))
    return replace(run.put(attempt), retry_at=None)


def _progressed(run: Run, attempt: Attempt) -> bool:
    return attempt.step is not None and attempt.step > (attempt.from_step or 0)


def _give_up(run: Run, reason: Reason, message: str) -> Run:
    return say(replace(run, wanted=Wanted.CANCEL, wanted_reason=reason), reason, message)


def _tend(run: Run, attempt: Attempt, now: datetime, policy: Policy, commands: list[ev.Command]) -> Run:
    """One attempt: replay its launch, tell it to drain, end its instance, settle its lease."""
    if not attempt.live:
        if attempt.lease and not attempt.lease.settled:
            commands.append(ev.Settle(attempt.number))
        return run
    if attempt.instance_id is None:
        if attempt.launch and now >= attempt.launch.asked_at + policy.answer_within:
            commands.append(ev.StartInstance(attempt.number))
        return run
    run, attempt = _drain(run, attempt, now)
    instance_id = attempt.instance_id
    why = _must_end(run, attempt, now, policy)
    again = attempt.terminate_asked_at is None or now >= attempt.terminate_asked_at + policy.end_margin / 2
    if instance_id is not None and why is not None and again:
        commands.append(ev.EndInstance(attempt.number, instance_id, why))
        attempt = replace(attempt, terminate_asked_at=now)
        if (
            attempt.phase is Phase.BOOTING
            and attempt.ended_by is None
            and now >= attempt.phase_since + policy.claim_within
        ):
            attempt = replace(attempt, ended_by=Reason.BOOT_FAILED)
        run = run.put(attempt)
        if run.reason is Reason.STARTED and run.baton == attempt.number and not run.status.ended:
            # Nothing else was heard of it: its lease ran out while nobody was there to renew it.
            run = say(run, Reason.LEASE_END, f"The instance of attempt {attempt.number} is being ended: {why}.")
    return run


def _drain(run: Run, attempt: Attempt, now: datetime) -> tuple[Run, Attempt]:
    reason: Reason | None = None
    if run.wanted is not Wanted.RUN or run.status.ended:
        reason = run.wanted_reason
    elif attempt.number == run.baton and any(a.phase is Phase.READY and a.number > attempt.number for a in run.live):
        reason = Reason.HANDOFF
    if reason is None or attempt.drain or attempt.phase is Phase.LEAVING:
        return run, attempt
    attempt = replace(attempt, drain=reason)
    if attempt.phase is Phase.TRAINING:
        attempt = replace(attempt, phase_since=now)
    return run.put(attempt), attempt


def _must_end(run: Run, attempt: Attempt, now: datetime, policy: Policy) -> str | None:
    """Why the attempt's instance must be ended now, or None. The times are those of `limits_of`."""
    if attempt.terminate_asked_at:
        return "it was asked to end before"
    if attempt.ended_by is Reason.LOST_CONTACT:
        return "it runs but has not been heard of"
    if (run.wanted is not Wanted.RUN or run.status.ended) and attempt.phase not in (Phase.TRAINING, Phase.LEAVING):
        return "the run does not need it any more"
    return next((why for at, why in limits_of(attempt, policy) if now >= at), None)


def limits_of(attempt: Attempt, policy: Policy) -> list[tuple[datetime, str]]:
    """Until when each thing may last before the instance is ended."""
    limits: list[tuple[datetime, str]] = []
    if attempt.phase is Phase.BOOTING:
        limits.append((attempt.phase_since + policy.claim_within, "its agent never claimed the attempt"))
    if attempt.phase is Phase.LEAVING:
        limits.append((attempt.phase_since + policy.leave_within, "it reported its exit and did not power off"))
    if attempt.drain and attempt.phase is Phase.TRAINING:
        limits.append((attempt.phase_since + policy.claim_within, "it did not drain in time"))
    if attempt.notice_ends_at:
        limits.append((attempt.notice_ends_at + 2 * policy.after_notice, "its notice is over"))
    if attempt.lease:
        limits.append((attempt.lease.end + policy.grace, "its lease is over"))
    return limits


def _conclude(run: Run, now: datetime, policy: Policy) -> Run:
    """The status follows from the facts; only the ends SUCCEEDED and FAILED are said by an exit."""
    if run.status.ended:
        return run
    if run.wanted is not Wanted.RUN:
        if run.live:
            return replace(run, status=Status.STOPPING)
        if run.wanted is Wanted.SUSPEND:
            return replace(run, status=Status.SUSPENDED)
        by_person = run.wanted_reason is Reason.USER
        return replace(run, status=Status.CANCELLED if by_person else Status.FAILED)
    holder = run.holder
    if holder and staying(holder):
        return replace(run, status=Status.RUNNING)
    if run.live and run.baton is None:
        return replace(run, status=Status.LAUNCHING)
    if run.live:
        return replace(run, status=Status.RECOVERING)
    return replace(run, status=Status.QUEUED)


def next_deadline(run: Run, now: datetime, policy: Policy) -> datetime | None:
    """When the sweep must look again if nothing happens before; None only when nothing is left to do."""
    times: list[datetime] = []
    for attempt in run.attempts:
        if _watchdog(attempt, now, policy):
            times.append(now)
        if not attempt.live:
            if attempt.lease and not attempt.lease.settled:
                times.append(now)
            continue
        if attempt.instance_id is None:
            times.append(now)
        times += [at for at, _ in limits_of(attempt, policy)]
        if attempt.terminate_asked_at:
            times.append(attempt.terminate_asked_at + policy.end_margin / 2)
        if attempt.watchdog_again_at:
            times.append(attempt.watchdog_again_at)
        # Silence has no deadline: the sweep reads each attempt's last heartbeat beside the run.
    if not run.status.ended and run.wanted is Wanted.RUN:
        times += _also(run, now, policy)
    if times:
        return min(times)
    if run.status.ended:
        return now if run.untidy else None
    if run.status is Status.SUSPENDED:
        return turn(now, policy) if run.wanted_reason is Reason.BUDGET else now + 30 * _DAY
    return now


def _also(run: Run, now: datetime, policy: Policy) -> list[datetime]:
    """When a run that should run is to be looked at beside its attempts' limits."""
    times = [run.retry_at] if run.retry_at else []
    started = [a for a in run.live if a.started_at]
    if started:
        times.append(now + (run.limits.duration - running_time(run, now)) / len(started))
        # A renewal brings new prices with it; where none comes, the sweep asks before they are stale.
        times.append((run.offered_at or now) + 2 * policy.price_age)
    return times


def _watchdog(attempt: Attempt, now: datetime, policy: Policy) -> ev.SetWatchdog | None:
    """The Scheduler's entry follows the lease, and goes with the instance.

    It is set for a lease that is saved, so never to later than what is paid for. Scheduler takes the call that lands last: a slow
    older one puts the entry back to an earlier time, and the same time once more, later, makes that good.
    """
    if attempt.instance_id is None:
        return None
    wanted = attempt.lease.end + policy.grace if attempt.live and attempt.lease else None
    if wanted is not None and wanted <= now:
        return None  # what is late for the Scheduler is ended by us
    again = attempt.watchdog_again_at
    if wanted == attempt.watchdog_at and (wanted is None or again is None or now < again):
        return None
    return ev.SetWatchdog(attempt.number, attempt.instance_id, wanted, moves=attempt.watchdog_at is not None)
