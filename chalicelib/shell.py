"""The imperative shell: load, decide, save, perform. All of a run's changes go through here.

What is saved is an intent; what is performed comes back as another event. A crash between the two loses nothing: the run still
says what it waits for, and the next event or the sweep performs it again. Errors rise, so that Lambda retries.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import field, replace
from datetime import datetime
from typing import Protocol

from chalicelib.core import events as ev
from chalicelib.core import leases
from chalicelib.core.decide import decide
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Policy, Reason, Run, Wanted
from chalicelib.core.news import news, outlived, unpaid
from chalicelib.fleet import Unanswered
from chalicelib.metering import Meter
from chalicelib.store import Conflict, OverLimit, Store

_TRIES = 8  # saves lost in a row to other writers before the event is given back to Lambda's own retry


class Ec2(Protocol):
    """What the shell needs of EC2; `chalicelib.fleet.Fleet` is the real one."""

    def launch(self, run: str, attempt: Attempt) -> ev.Launched | ev.LaunchRefused: ...
    def find(self, run: str, attempt: Attempt) -> ev.Launched | None: ...
    def end(self, instance_id: str) -> None: ...


class Watchdog(Protocol):
    """Ends an instance whatever becomes of us; `chalicelib.watchdog.Watchdog` is the real one."""

    def set(self, instance_id: str, at: datetime, moves: bool) -> None: ...
    def clear(self, instance_id: str) -> None: ...


class Observer(Protocol):
    """Is told of what comes about and has no say in it; `chalicelib.telemetry.Telemetry` is the real one."""

    def concerns(self, run: str) -> None: ...
    def changed(self, before: Run, after: Run, now: datetime) -> None: ...
    def refused(self, run: Run, which: str) -> None: ...


class Nobody:
    """Watches nothing."""

    def concerns(self, run: str) -> None:
        return None

    def changed(self, before: Run, after: Run, now: datetime) -> None:
        return None

    def refused(self, run: Run, which: str) -> None:
        return None


Given = ev.Event | Callable[[Run], ev.Event | None]


@dataclass(frozen=True)
class Shell:
    """The store, what it acts on, and the policy by which it decides."""

    store: Store
    ec2: Ec2
    policy: Policy
    clock: Callable[[], datetime]
    meter: Meter
    watchdog: Watchdog
    observer: Observer = field(default_factory=Nobody)

    def on_instance(self, event: ev.Warned | ev.InstanceState) -> Run | None:
        """An event about an instance: one read when it is not ours."""
        name = self.store.run_on(event.instance_id)
        if name is None:
            return None
        self.observer.concerns(name)
        return self.tell(name, event)

    def tell(self, name: str, event: Given) -> Run | None:
        """Let a run know. Gives the run after everything that followed at once; None when there is no such run.

        An event that depends on more than the run is given as a function: it is made anew from each version that is
        tried, and None says that there is nothing to tell. A command that fails keeps none of the others from being
        performed; its error rises at the end. Raises OverLimit for a renewal that the money does not cover.
        """
        run, commands = self._change(name, event)
        tried: set[ev.Command] = set()
        failed: Exception | None = None
        # One at a time: what is still to do is asked for again when the answer to it is in the run, so nothing is done twice.
        while run is not None and (command := next((c for c in commands if c not in tried), None)):
            tried.add(command)
            try:
                answer = self._perform(run, command)
            except Exception as error:
                failed = failed or error
                continue
            if answer is not None:
                run, commands = self._change(name, answer)
        if failed:
            raise failed
        return run

    def _change(self, name: str, given: Given) -> tuple[Run | None, tuple[ev.Command, ...]]:
        for _ in range(_TRIES):
            before = self.store.load(name)
            if before is None:
                return None, ()
            event = given(before) if callable(given) else given
            if event is None:
                return before, ()
            now = self.clock()
            outcome = decide(before, event, now, self.policy)
            if _same(before, outcome.run):
                return before, outcome.commands
            try:
                with suppress(Conflict):
                    return self._save(before, outcome.run, now), outcome.commands
            except OverLimit as refusal:
                self.observer.refused(before, refusal.which)
                if isinstance(event, ev.Renewed):
                    raise  # nothing was launched for it: the lease it has stands
                refused = decide(outcome.run, _over_limit(outcome.run, refusal), now, self.policy).run
                unpaid = decide(_without_unpaid(before, refused), ev.Tick(), now, self.policy)
                with suppress(Conflict):
                    return self._save(before, unpaid.run, now), unpaid.commands
        raise Conflict(name)

    def _save(self, before: Run, after: Run, now: datetime) -> Run:
        saved = self.store.save(before, after, now, self.policy, notes(before, after), news(before, after))
        self.observer.changed(before, saved, now)
        return saved

    def _perform(self, run: Run, command: ev.Command) -> ev.Event | None:
        """Do it, and say what came of it; None when that is not known yet."""
        match command:
            case ev.StartInstance():
                return self._start(run, run.attempts[command.attempt - 1])
            case ev.EndInstance():
                self.ec2.end(command.instance_id)
                return None
            case ev.Settle():
                return self._settled(run, run.attempts[command.attempt - 1])
            case ev.SetWatchdog():
                if command.at is None:
                    self.watchdog.clear(command.instance_id)
                else:
                    self.watchdog.set(command.instance_id, command.at, command.moves)
                return ev.WatchdogSet(command.attempt, command.at)
            case ev.Note():
                return None

    def _settled(self, run: Run, attempt: Attempt) -> ev.Settled:
        assert attempt.lease is not None
        now = self.clock()
        found = self.meter.evidence(run, attempt, now)
        usage = leases.usage(run, attempt, now, found, self.policy)
        credit, outlived = leases.credited(attempt, found), leases.outlived(attempt, found)
        return ev.Settled(attempt.number, attempt.lease.seq, usage, credit, outlived)

    def _start(self, run: Run, attempt: Attempt) -> ev.Event | None:
        assert attempt.launch is not None
        over = self.clock() >= attempt.launch.asked_at + self.policy.replay_for
        if over or run.status.ended or run.wanted is not Wanted.RUN:
            # A replay would launch, where the call before it was never carried out, what nobody needs any more.
            found = self.ec2.find(run.name, attempt)
            return found or (ev.LaunchLost(attempt.number, attempt.launch.token) if over else None)
        try:
            return self.ec2.launch(run.name, attempt)
        except Unanswered:
            return None  # the saved request is replayed by the sweep


def notes(before: Run, after: Run) -> tuple[ev.Note, ...]:
    """The timeline's lines for a change: what the run says of itself, when it says something new."""
    found = [ev.Note(Reason.LEASE_END, unpaid(a), a.number) for a in outlived(before, after)]
    if (before.status, before.reason, before.message) != (after.status, after.reason, after.message):
        newest = after.newest
        found.insert(0, ev.Note(after.reason, after.message, newest.number if newest else None))
    return tuple(found)


def _same(before: Run, after: Run) -> bool:
    """Whether nothing but the next look changed; then there is nothing worth a write."""
    return replace(before, deadline=None) == replace(after, deadline=None) and before.deadline is not None


def _over_limit(run: Run, refusal: OverLimit) -> ev.LaunchRefused:
    newest = run.newest
    assert newest is not None
    assert newest.launch is not None
    kind = ev.Refusal.RUN_BUDGET if refusal.which == "run" else ev.Refusal.BUDGET
    what = "limits.cost_usd" if refusal.which == "run" else "the month's limit"
    return ev.LaunchRefused(
        newest.number, newest.launch.token, kind, f"{what} does not cover {refusal.needed} USD more."
    )


def _without_unpaid(before: Run, after: Run) -> Run:
    """A launch that could not be paid for never was: no attempt, no lease, nothing to settle."""
    if len(after.attempts) > len(before.attempts):
        return replace(after, attempts=after.attempts[: len(before.attempts)])
    return replace(after, attempts=before.attempts)
