"""`decide(run, event, now, policy)`: the one place where it is decided what a run does next. Pure.

An event is first written into the run as a fact (`apply`), then what follows from all facts is worked out
(`reconcile`).
"""

from __future__ import annotations

from datetime import datetime

from chalicelib.core import apply
from chalicelib.core import events as ev
from chalicelib.core.model import Policy, Run
from chalicelib.core.reconcile import reconcile


def decide(run: Run, event: ev.Event, now: datetime, policy: Policy) -> ev.Outcome:
    """The run after `event`, with what has to be done. Saving the run comes first, then each command is performed.

    Performing may fail or happen twice: its answer comes back as another event, and until then the sweep's `Tick`
    asks again.
    """
    return reconcile(_with_fact(run, event, now, policy), now, policy)


def _with_fact(run: Run, event: ev.Event, now: datetime, policy: Policy) -> Run:
    match event:
        case ev.Warned():
            return apply.warned(run, event, now, policy)
        case ev.InstanceState():
            return apply.instance_state(run, event, now, policy)
        case ev.Launched():
            return apply.launched(run, event, now, policy)
        case ev.LaunchRefused():
            return apply.refused(run, event, now, policy)
        case ev.LaunchLost():
            return apply.launch_lost(run, event, now)
        case ev.Claimed():
            return apply.claimed(run, event, now, policy)
        case ev.Beat():
            return apply.beat(run, event, now, policy)
        case ev.Exited():
            return apply.exited(run, event, now, policy)
        case ev.Silent():
            return apply.silent(run, event, now)
        case ev.Settled():
            return apply.settled(run, event, policy)
        case ev.Renewed():
            return apply.renewed(run, event, now, policy)
        case ev.WatchdogSet():
            return apply.watchdog_set(run, event, now, policy)
        case ev.Priced():
            return apply.priced(run, event)
        case ev.CancelAsked() | ev.SuspendAsked() | ev.ResumeAsked():
            return apply.asked(run, event, now)
        case ev.Tidied():
            return apply.tidied(run)
        case ev.Submitted() | ev.Tick():
            return run
