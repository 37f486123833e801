"""Write what happened into the run: facts only. What follows from them is `reconcile`'s business.

Every function takes a run and an event and gives the run with the fact in it; an event that says nothing new (a repeat,
one that came late, one about an ended attempt) gives the run back unchanged, which makes repeats harmless (I7).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from chalicelib.core import events as ev
from chalicelib.core import leases
from chalicelib.core.calendar import turn
from chalicelib.core.model import Attempt, Cooling, Counted, Phase, Policy, Reason, Run, Status, Wanted

_GONE = ("shutting-down", "terminated", "stopping", "stopped")
_REFUSED = {
    ev.Refusal.CAPACITY: Reason.NO_CAPACITY,
    ev.Refusal.QUOTA: Reason.QUOTA,
    ev.Refusal.PRICE_UNKNOWN: Reason.PRICE_UNKNOWN,
}
_SUSPENDED = {
    Reason.USER: "Suspended by request.",
    Reason.BUDGET: "The month's money does not cover another lease: the run is drained and goes on when there is money.",
    Reason.RUN_BUDGET: "limits.cost_usd does not cover another lease: the run is drained; resume it with a higher cost_usd.",
}


def enter(attempt: Attempt, phase: Phase, now: datetime) -> Attempt:
    return attempt if attempt.phase is phase else replace(attempt, phase=phase, phase_since=now)


def end(attempt: Attempt, by: Reason, now: datetime) -> Attempt:
    """The attempt has no instance any more. What ended it keeps the first word said about it."""
    return replace(enter(attempt, Phase.ENDED, now), ended_at=now, ended_by=attempt.ended_by or by)


def say(run: Run, reason: Reason, message: str) -> Run:
    return replace(run, reason=reason, message=message)


def cool(run: Run, pools: tuple[str, ...], now: datetime, policy: Policy) -> Run:
    kept = tuple(c for c in run.cooling if c.until > now and c.pool not in pools)
    return replace(run, cooling=kept + tuple(Cooling(p, now + policy.cool_down) for p in pools))


def warned(run: Run, event: ev.Warned, now: datetime, policy: Policy) -> Run:
    attempt = run.on(event.instance_id)
    if attempt is None or not attempt.live or attempt.notice_ends_at:
        return run
    run = run.put(replace(attempt, notice_ends_at=event.ends_at))
    if attempt.pool:
        run = cool(run, (attempt.pool,), now, policy)
    if run.status.ended:
        return run
    return say(run, Reason.SPOT_INTERRUPTION, f"EC2 takes back the instance of attempt {attempt.number}.")


def instance_state(run: Run, event: ev.InstanceState, now: datetime, policy: Policy) -> Run:
    attempt = run.on(event.instance_id)
    if attempt is None or (event.state is not None and event.state not in _GONE):
        return run
    if not attempt.live:
        # Quota counts an instance until it has wholly ended: a launch refused while it was going is due now.
        if event.state != "terminated" or attempt.terminated or attempt.instance_id is None:
            return run
        return _retry_now(run.put(replace(attempt, terminated=True)))
    by_ec2 = attempt.notice_ends_at is not None or event.reason.startswith("Server.Spot")
    reason = Reason.SPOT_INTERRUPTION if by_ec2 else Reason.INSTANCE_ENDED
    if by_ec2 and attempt.pool:
        run = cool(run, (attempt.pool,), now, policy)
    if attempt.started_at:
        run = replace(run, ran=run.ran + (now - attempt.started_at))
    run = _retry_now(run)
    if run.refused_at and run.retry_at:
        # What money refused while this one lived is asked for anew: refused again, the run waits for money, and says so.
        run = replace(run, retry_at=None)
    known = event.state is not None
    ended = replace(end(attempt, reason, now), terminated=event.state == "terminated", end_proved=known)
    run = run.put(ended)
    if run.status.ended or run.wanted is not Wanted.RUN or attempt.phase is Phase.LEAVING:
        return run
    return say(run, ended.ended_by or reason, f"The instance of attempt {attempt.number} is gone.")


def _retry_now(run: Run) -> Run:
    """An instance of ours has given its quota back: a launch that was refused for it need not wait any longer."""
    newest = run.newest
    waits = newest is not None and newest.ended_by is Reason.QUOTA and run.retry_at is not None
    return replace(run, retry_at=None, refusals=0) if waits else run


def launched(run: Run, event: ev.Launched, now: datetime, policy: Policy) -> Run:
    """There is an instance: what was reserved for the dearest pool shrinks to the one that EC2 chose."""
    attempt = run.attempt(event.attempt)
    if attempt is None or attempt.launch is None or attempt.launch.token != event.token or attempt.instance_id:
        return run
    attempt = replace(attempt, instance_id=event.instance_id, pool=event.pool, started_at=now)
    cap = next((o.max_price for o in attempt.launch.offers if o.pool == event.pool), None) if attempt.launch else None
    if attempt.lease and cap is not None:
        attempt = replace(attempt, lease=leases.shrunk(attempt.lease, cap, run.limits.disk_gb, policy))
    if attempt.phase is Phase.LAUNCHING:
        attempt = enter(attempt, Phase.BOOTING, now)
    return replace(run.put(attempt), refusals=0, retry_at=None)


def refused(run: Run, event: ev.LaunchRefused, now: datetime, policy: Policy) -> Run:
    """No instance came of it. The lease goes back through `Settle`; the same number is tried again with a new token."""
    attempt = run.attempt(event.attempt)
    if attempt is None or attempt.phase is not Phase.LAUNCHING or attempt.launch is None:
        return run
    if attempt.launch.token != event.token:
        return run
    run = run.put(end(attempt, _REFUSED.get(event.kind, Reason.LAUNCH_REFUSED), now))
    if event.kind is ev.Refusal.CAPACITY:
        run = cool(run, event.pools, now, policy)
    wait = min(policy.retry_first * 2 ** min(run.refusals, 10), policy.retry_most)
    run = replace(run, refusals=run.refusals + 1, retry_at=now + wait)
    if event.kind in (ev.Refusal.BUDGET, ev.Refusal.RUN_BUDGET):
        reason = Reason.BUDGET if event.kind is ev.Refusal.BUDGET else Reason.RUN_BUDGET
        run = replace(run, refused_at=now) if reason is Reason.BUDGET else run
        if reason is Reason.BUDGET and run.limits.wait_for_budget and not run.baton:
            # It has not begun: it stays in the queue until there is money, which the sweep finds out.
            run = replace(run, retry_at=turn(now, policy))
        else:
            run = replace(run, wanted=Wanted.SUSPEND, wanted_reason=reason)
        return say(run, reason, event.message)
    if event.kind is ev.Refusal.FATAL:
        run = replace(run, wanted=Wanted.CANCEL, wanted_reason=Reason.LAUNCH_REFUSED)
        return say(run, Reason.LAUNCH_REFUSED, event.message)
    return say(run, _REFUSED[event.kind], event.message)


def launch_lost(run: Run, event: ev.LaunchLost, now: datetime) -> Run:
    attempt = run.attempt(event.attempt)
    if attempt is None or attempt.phase is not Phase.LAUNCHING or attempt.launch is None:
        return run
    if attempt.launch.token != event.token:
        return run
    return run.put(end(attempt, Reason.LOST_CONTACT, now))


def claimed(run: Run, event: ev.Claimed, now: datetime, policy: Policy) -> Run:
    """An agent is there; when it is ready and nobody before it can still publish, the baton is its own (I1)."""
    attempt = run.attempt(event.attempt)
    if attempt is None or not attempt.live or run.status.ended:
        return run
    if attempt.instance_id is None and attempt.phase is Phase.LAUNCHING:
        # The launch succeeded unseen: the shell has checked that EC2's tags name this attempt.
        attempt = replace(attempt, instance_id=event.instance_id, started_at=now)
    if attempt.instance_id != event.instance_id or superseded(run, attempt):
        return run
    if attempt.phase in (Phase.LAUNCHING, Phase.BOOTING):
        attempt = enter(attempt, Phase.PREPARING, now)
    if event.ready and attempt.phase is Phase.PREPARING:
        attempt = enter(attempt, Phase.READY, now)
    run = run.put(attempt)
    if (
        attempt.phase is Phase.READY
        and event.ready
        and event.published is not None
        and run.wanted is Wanted.RUN
        and not blocked(run, attempt, now, policy)
    ):
        run = take_baton(run, attempt, event.published, now)
    return run


def superseded(run: Run, attempt: Attempt) -> bool:
    """Whether a higher attempt holds the baton, or was launched while this one never held it and is condemned."""
    if run.baton is not None and run.baton > attempt.number:
        return True
    return attempt.superseded


def blocked(run: Run, attempt: Attempt, now: datetime, policy: Policy) -> bool:
    """Whether the baton's holder may still publish, so that `attempt` must wait."""
    holder = run.holder
    if holder is None or holder.number == attempt.number or not holder.live or holder.handed_over:
        return False
    return holder.notice_ends_at is None or now < holder.notice_ends_at + policy.after_notice


def may_take(run: Run, number: int, now: datetime, policy: Policy) -> bool:
    """Whether a ready claim of this attempt would move the baton, so that what was published is to be listed first."""
    attempt = run.attempt(number)
    if attempt is None or not attempt.live or run.baton == number or superseded(run, attempt):
        return False
    return run.wanted is Wanted.RUN and not run.status.ended and not blocked(run, attempt, now, policy)


def take_baton(run: Run, attempt: Attempt, published: tuple[Counted, ...], now: datetime) -> Run:
    """Move the baton, and fix in the same write what counts of every earlier attempt."""
    fixed = {c.attempt: c.step for c in run.counted}
    listed = {c.attempt: c.step for c in published}
    counted = tuple(Counted(n, fixed.get(n, listed.get(n, -1))) for n in range(1, attempt.number))
    start = newest_counted(counted)
    attempt = replace(enter(attempt, Phase.TRAINING, now), from_step=start.step if start else 0)
    run = replace(run.put(attempt), baton=attempt.number, counted=counted)
    if attempt.notice_ends_at:
        return run  # it trains as long as it may; what is to become of the run is said already
    return say(run, Reason.STARTED, f"Attempt {attempt.number} trains from step {attempt.from_step}.")


def newest_counted(counted: tuple[Counted, ...]) -> Counted | None:
    """The checkpoint to restore: highest attempt, then highest step, among those that count."""
    whole = [c for c in counted if c.step >= 0]
    return max(whole, key=lambda c: (c.attempt, c.step)) if whole else None


def beat(run: Run, event: ev.Beat, now: datetime, policy: Policy) -> Run:
    attempt = run.attempt(event.attempt)
    if attempt is None or not attempt.live or attempt.instance_id != event.instance_id:
        return run
    if event.notice_ends_at:
        run = warned(run, ev.Warned(event.instance_id, event.notice_ends_at), now, policy)
    if run.baton != event.attempt or event.step is None:
        return run
    attempt = run.attempts[event.attempt - 1]
    step = max(attempt.step or 0, event.step)
    return run.put(replace(attempt, step=step, handed_over=attempt.handed_over or event.final))


def exited(run: Run, event: ev.Exited, now: datetime, policy: Policy) -> Run:
    attempt = run.attempt(event.attempt)
    if attempt is None or attempt.instance_id != event.instance_id or attempt.phase in (Phase.LEAVING, Phase.ENDED):
        return run
    held = run.baton == attempt.number
    unheard = held and attempt.drain is None and attempt.notice_ends_at is None
    attempt = replace(
        enter(attempt, Phase.LEAVING, now),
        handed_over=True,
        exit_code=event.code,
        ended_by=Reason.SPOT_INTERRUPTION if attempt.notice_ends_at and event.drained else event.reason,
        step=attempt.step if event.step is None else max(attempt.step or 0, event.step),
    )
    run = run.put(attempt)
    if event.drained and unheard and not run.status.ended:
        run = _left_by_itself(run, attempt, event, now, policy)
    if event.drained or event.reason in (Reason.BOOT_FAILED, Reason.SUPERSEDED) or run.status.ended:
        return run
    if not held and event.reason is Reason.DONE:
        return run
    return finish(run, event, now)


def _left_by_itself(run: Run, attempt: Attempt, event: ev.Exited, now: datetime, policy: Policy) -> Run:
    """Its notice, or the end of its lease, is heard of only now: neither an event nor a heartbeat came through."""
    if event.reason is not Reason.SPOT_INTERRUPTION:
        return say(run, event.reason, f"Attempt {attempt.number} has saved and left.")
    if attempt.pool:
        run = cool(run, (attempt.pool,), now, policy)
    return say(run, event.reason, f"EC2 takes back the instance of attempt {attempt.number}.")


def finish(run: Run, event: ev.Exited, now: datetime) -> Run:
    done = event.reason is Reason.DONE
    if done:
        return replace(say(run, Reason.DONE, event.message), status=Status.SUCCEEDED)
    if run.wanted is Wanted.CANCEL and run.wanted_reason is Reason.USER:
        return run
    return replace(say(run, event.reason, event.message), status=Status.FAILED)


def settled(run: Run, event: ev.Settled, policy: Policy) -> Run:
    attempt = _leased(run, event.attempt, event.seq)
    if attempt is None or attempt.live:
        return run
    return run.put(replace(leases.settled(attempt, event.usage, event.credit, policy), outlived=event.outlived))


def renewed(run: Run, event: ev.Renewed, now: datetime, policy: Policy) -> Run:
    """Nothing is reserved for the dead, nor for one that was told to go."""
    attempt = _leased(run, event.attempt, event.seq)
    if attempt is None or not attempt.live or attempt.drain or run.status.ended:
        return run
    if event.priced:
        run = priced(run, event.priced)
    return run.put(leases.renewed(attempt, event.usage, now, policy))


def _leased(run: Run, number: int, seq: int) -> Attempt | None:
    """The attempt while its lease is this very one and open."""
    attempt = run.attempt(number)
    lease = attempt.lease if attempt else None
    return attempt if lease is not None and lease.seq == seq and not lease.settled else None


def watchdog_set(run: Run, event: ev.WatchdogSet, now: datetime, policy: Policy) -> Run:
    """The entry stands at a time; a time that is new is to be set once more, when no older call can land any more."""
    attempt = run.attempt(event.attempt)
    if attempt is None:
        return run
    again = attempt.watchdog_again_at
    if event.at is None:
        again = None
    elif event.at != attempt.watchdog_at:
        again = now + policy.lands_within
    elif again is not None and now >= again:
        again = None
    return run.put(replace(attempt, watchdog_at=event.at, watchdog_again_at=again))


def tidied(run: Run) -> Run:
    """Only of a run that has ended: one that goes on will have more checkpoints."""
    return replace(run, tidied=run.untidy or run.tidied)


def priced(run: Run, event: ev.Priced) -> Run:
    if not event.offers:
        return run
    waited = run.reason is Reason.PRICE_UNKNOWN and not run.status.ended
    return replace(run, offers=event.offers, offered_at=event.at, retry_at=None if waited else run.retry_at)


def silent(run: Run, event: ev.Silent, now: datetime) -> Run:
    """It runs and says nothing: end it first, launch when it is gone."""
    attempt = run.attempt(event.attempt)
    if attempt is None or attempt.phase not in (Phase.PREPARING, Phase.READY, Phase.TRAINING) or attempt.ended_by:
        return run
    run = run.put(replace(attempt, ended_by=Reason.LOST_CONTACT))
    return say(run, Reason.LOST_CONTACT, f"Attempt {attempt.number} has gone silent; its instance is being ended.")


def asked(run: Run, event: ev.CancelAsked | ev.SuspendAsked | ev.ResumeAsked, now: datetime) -> Run:
    if run.status.ended or run.wanted is Wanted.CANCEL:
        return run
    if isinstance(event, ev.CancelAsked):
        return say(replace(run, wanted=Wanted.CANCEL, wanted_reason=Reason.USER), Reason.USER, "Cancelled by request.")
    if isinstance(event, ev.SuspendAsked):
        if run.wanted is Wanted.SUSPEND:
            if event.reason is Reason.USER and run.wanted_reason is not Reason.USER:
                # What a person suspended is not resumed by money.
                run = replace(run, wanted_reason=Reason.USER)
                return say(run, Reason.USER, "Suspended by request; it stays so when there is money again.")
            return run
        run = replace(run, wanted=Wanted.SUSPEND, wanted_reason=event.reason)
        run = replace(run, refused_at=now) if event.reason is Reason.BUDGET else run
        return say(run, event.reason, _SUSPENDED[event.reason])
    return resumed(run, event)


def resumed(run: Run, event: ev.ResumeAsked) -> Run:
    if event.reason is not Reason.USER and waits_for_money(run) is not Reason.BUDGET:
        return run
    if event.cost_usd is not None and event.cost_usd > run.limits.cost_usd:
        run = replace(run, limits=replace(run.limits, cost_usd=event.cost_usd))
    if run.wanted is Wanted.SUSPEND or waits_for_money(run):
        run = replace(run, wanted=Wanted.RUN, retry_at=None, refusals=0)
        return say(
            run, event.reason, "Resumed: there is money again." if event.reason is not Reason.USER else "Resumed."
        )
    return run


def waits_for_money(run: Run) -> Reason | None:
    """BUDGET or RUN_BUDGET while the run waits for nothing else."""
    if run.status is Status.SUSPENDED and run.wanted_reason in (Reason.BUDGET, Reason.RUN_BUDGET):
        return run.wanted_reason
    if run.status is Status.QUEUED and run.reason is Reason.BUDGET and run.retry_at is not None:
        return Reason.BUDGET
    return None


def running_time(run: Run, now: datetime) -> timedelta:
    """Running time of all attempts up to now; overlapping attempts count each."""
    return run.ran + sum((now - a.started_at for a in run.live if a.started_at), timedelta())
