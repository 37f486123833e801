"""What may never be untrue in a world, checked where it could come about: at each save, each call to EC2, each answer to an
agent, each pass of the sweep. The names are the design's: I1 to I9.

The truth is the world's own (what was published when, which instance runs, what EC2 charges), never what the controller says
of it. An error raised here may be caught by the controller's own code; `check`, which the world calls after everything that
happens, raises it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Attempt, Phase, Reason, Run, Status, Wanted
from chalicelib.core.resuming import waiting
from chalicelib.sweep import Report
from tests.sim.agent import Agent
from tests.sim.baton import Baton
from tests.sim.ec2 import MINUTE, Instance
from tests.sim.story import InvariantBroken

if TYPE_CHECKING:
    from tests.sim.world import World

CANARY = "planted-secret-0f3b"
OVERDUE = 15  # passes of the sweep that worked and left something due undone
SCHEDULER_LATE = timedelta(seconds=60)
# What a fault, or the money, lets a part of the sweep fail with; anything else is a defect.
_FAILURES = ("CallFailed", "NoAnswer", "Conflict", "Unanswered", "Died", "OverLimit")


class Invariants:
    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: InvariantBroken | None = None
        self.baton = Baton(self)
        self.interruptions = self.checked = 0
        self.overspend = Decimal(0)  # USD, the most that EC2 charged in a month beyond its limit
        self._moved = True  # money, since I3 was last looked at
        self._strays: dict[str, int] = {}  # passes that worked, by instance
        self._overdue: dict[str, int] = {}  # and by run
        self._launched: set[tuple[str, int]] = set()

    def fail(self, rule: str, run: str | None, what: str) -> NoReturn:
        known = f"{self.world.name}: " if self.world.name else ""
        self.broken = self.broken or InvariantBroken(rule, run, known + what, self.world.story.of(run))
        raise self.broken

    def tell(self, run: str, text: str) -> None:
        self.world.story.tell(self.world.now, run, text)

    # -- each save ------------------------------------------------------------------------------------------------------

    def saved(self, before: Run | None, after: Run, notes: Sequence[ev.Note]) -> None:
        self._moved = True
        for note in notes:
            self.tell(after.name, f"{after.status.value} ({note.reason.value}): {note.message}")
        self._i3_the_run_keeps_to_its_limit(after)
        self._i6_says_what_it_waits_for(after)
        if before is not None:
            self.baton.saved(before, after)
            self._i9_no_blind_start(before, after)
            if before.status.ended and after.status is not before.status:
                self.fail("I7", after.name, f"an end ({before.status}) was changed to {after.status}")

    def _i6_says_what_it_waits_for(self, run: Run) -> None:
        if run.status.ended:
            return
        if run.deadline is None:
            self.fail("I6", run.name, f"it is {run.status.value} and has no deadline")
        if run.reason is Reason.STARTED and run.status is not Status.RUNNING:
            self.fail("I6", run.name, f"it is {run.status.value} and says that it trains: {run.message}")
        waits = (
            run.status is Status.QUEUED
            and run.retry_at is not None
            and run.retry_at - self.world.now > timedelta(hours=1)
        )
        if waits and run.reason is not Reason.BUDGET:
            self.fail("I6", run.name, f"it waits until {run.retry_at} and does not say for what: {run.message}")
        if not run.message.strip().endswith("."):
            self.fail("I6", run.name, f"it is {run.status.value} and says no sentence: {run.message!r}")

    def _i9_no_blind_start(self, before: Run, after: Run) -> None:
        for attempt in after.attempts[-1:]:
            was = before.attempt(attempt.number)
            launch = attempt.launch
            if launch is None or (was is not None and was.launch is not None and was.launch.token == launch.token):
                continue
            oldest = launch.asked_at - self.world.policy.price_stale
            unknown = [o for o in launch.offers if self.world.ec2.told.get(o, oldest - MINUTE) < oldest]
            if unknown or not launch.offers:
                self.fail("I9", after.name, f"a launch is saved for prices that EC2 has not named lately: {unknown}")

    # -- each call to EC2 -----------------------------------------------------------------------------------------------

    def launching(self, name: str, attempt: Attempt) -> None:
        """Before CreateFleet: exactly this request is saved, and paid for."""
        run = self.world.store.saved[name]
        kept = run.attempt(attempt.number)
        if kept is None or kept.launch is None or attempt.launch is None or kept.launch != attempt.launch:
            self.fail("I9", name, f"a launch of attempt {attempt.number} is asked for that is not saved")
        if kept.lease is None or kept.lease.settled or kept.lease.reserved <= 0:
            self.fail("I3", name, f"a launch of attempt {attempt.number} is asked for that nothing is reserved for")
        if run.status.ended or run.wanted is not Wanted.RUN:
            self.fail("I2", name, f"a launch of attempt {attempt.number} is asked for, and nobody needs it any more")

    def started(self, instance: Instance) -> None:
        name = (instance.run, instance.attempt)
        if name in self._launched:
            self.fail("I7", instance.run, f"attempt {instance.attempt} has been launched a second time")
        self._launched.add(name)

    def ending(self, instance_id: str) -> None:
        """Before TerminateInstances: what was launched and is not recorded yet is adopted instead."""
        instance = self.world.ec2.instances[instance_id]
        run = self.world.store.saved.get(instance.run)
        attempt = run.attempt(instance.attempt) if run else None
        if instance.running:
            self.tell(instance.run, f"the controller ends the instance of attempt {instance.attempt}")
        if attempt is not None and attempt.live and attempt.instance_id is None:
            self.fail(
                "I2", instance.run, f"{instance_id} was launched and not recorded yet, and is ended instead of adopted"
            )
        if (
            attempt is not None
            and attempt.live
            and attempt.instance_id == instance_id
            and not attempt.terminate_asked_at
        ):
            self.fail("I2", instance.run, f"{instance_id} of a live attempt is ended, and the run does not say why")
        agent = self.world.agents[instance_id]
        if attempt is not None and attempt.ended_by is not None and attempt.ended_by.value == "lost_contact":
            lost = (
                not agent.alive
                or not agent.connected
                or (agent.cut_at is not None)
                or attempt.instance_id != instance_id
            )
            if not lost:
                self.fail(
                    "I5", instance.run, f"attempt {instance.attempt} is ended for its silence, and it lives and speaks"
                )

    # -- each event, each answer ------------------------------------------------------------------------------------------

    def delivered(self, event: ev.Warned | ev.InstanceState, again: bool) -> None:
        """Before an event is handled: a repeat, and what comes late, does no more than a pass of the sweep would."""
        name = self.world.store.instances.get(event.instance_id)
        run = self.world.store.saved.get(name or "")
        attempt = run.on(event.instance_id) if run else None
        if run is None or attempt is None:
            return
        new = isinstance(event, ev.InstanceState) and event.state == "terminated" and not attempt.terminated
        if not again and (attempt.live or new):
            return
        self._i7_changes_nothing(run, event, "again" if again else "late")

    def asked_again(self, name: str, event: ev.Event) -> None:
        """After a request was carried out: the same once more."""
        if (run := self.world.store.saved.get(name)) is not None:
            self._i7_changes_nothing(run, event, "asked again")

    def _i7_changes_nothing(self, run: Run, event: ev.Event, how: str) -> None:
        now, policy = self.world.now, self.world.policy
        if decide(run, event, now, policy) != decide(run, ev.Tick(), now, policy):
            self.fail("I7", run.name, f"{event} {how} changes something")

    def answered(self, agent: Agent, answer: dict[str, Any]) -> None:
        said = {k: v for k, v in answer.items() if k not in ("credentials", "command_credentials", "spec")}
        if CANARY in repr(said):
            self.fail("I8", agent.instance.run, f"a secret is in an answer: {said}")

    # -- each pass of the sweep -------------------------------------------------------------------------------------------

    def swept(self, report: Report) -> None:
        unexpected = {what: why for what, why in report.failed.items() if not why.startswith(_FAILURES)}
        if unexpected:
            self.fail("I6", next(iter(unexpected)), f"the sweep fails with what is no fault of AWS: {unexpected}")
        for what, why in report.failed.items():
            self.world.story.tell(self.world.now, None, f"the sweep fails at {what}: {why}")
        if report.failed:
            return
        self._i2_no_strays()
        self._i6_nothing_is_stuck()

    def _i2_no_strays(self) -> None:
        strays: dict[str, int] = {}
        for instance in self.world.ec2.running.values():
            run = self.world.store.saved.get(instance.run)
            attempt = run.attempt(instance.attempt) if run else None
            young = run is None and self.world.now - instance.launched_at < self.world.policy.young
            if young or self.world.ec2.lags(instance):
                continue
            if attempt is None or not attempt.live or attempt.instance_id not in (instance.instance_id, None):
                strays[instance.instance_id] = passes = self._strays.get(instance.instance_id, 0) + 1
                if passes >= 2:
                    self.fail(
                        "I2", instance.run, f"{instance} has no live attempt and outlives two passes of the sweep"
                    )
        self._strays = strays

    def _i6_nothing_is_stuck(self) -> None:
        overdue: dict[str, int] = {}
        if self.world.ec2.silent:
            return  # a run whose prices have grown old is due until EC2 names new ones
        for seen in self.world.store.live_glances():
            if seen.due <= self.world.now and not seen.waits:
                overdue[seen.name] = passes = self._overdue.get(seen.name, 0) + 1
                if passes > OVERDUE and not waiting(self.world.store.saved[seen.name]):
                    self.fail(
                        "I6", seen.name, f"what was due at {seen.due} is not done after {passes} passes of the sweep"
                    )
        self._overdue = overdue

    # -- the money, and secrets -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """After everything that happens. I3: the ledger keeps to its limits, and no instance outlives what is paid for it."""
        if self.broken:
            raise self.broken
        self.checked += 1
        if self._moved:
            self._moved = False
            self._i3_the_ledger_keeps_to_its_limits()
        now, policy = self.world.now, self.world.policy
        for instance in self.world.ec2.running.values():
            run = self.world.store.saved.get(instance.run)
            attempt = run.attempt(instance.attempt) if run else None
            if attempt is None or attempt.instance_id != instance.instance_id or attempt.lease is None:
                continue
            if now > attempt.lease.end + policy.grace + SCHEDULER_LATE + MINUTE:
                self.fail("I3", instance.run, f"{instance} outlives {attempt.lease}")

    def _i3_the_ledger_keeps_to_its_limits(self) -> None:
        ledger = self.world.store.ledger
        for name, account in ledger.months.items():
            held = account.settled + account.reserved
            if (
                held > account.limit
                or account.free != account.limit - held
                or min(account.reserved, account.settled) < 0
            ):
                self.fail("I3", None, f"{name}: {account}")

    def _i3_the_run_keeps_to_its_limit(self, run: Run) -> None:
        account = self.world.store.ledger.of_runs[run.name]
        held = account.settled + account.reserved
        if held > run.limits.cost_usd or account.free != account.limit - held:
            self.fail("I3", run.name, f"{account}, of {run.limits.cost_usd} USD")

    def check_bill(self) -> None:
        """I3: what EC2 really charges is never more than what the ledger has settled and reserved, in any month."""
        self.check()
        for name, usd in self.world.ec2.bill(self.world.now, self.world.month).items():
            account = self.world.store.ledger.months[name]
            self.overspend = max(self.overspend, usd - account.limit)
            if usd > account.settled + account.reserved:
                self.fail("I3", None, f"{name}: EC2 charges {usd} USD, and the ledger has {account}")

    def check_secrets(self) -> None:
        """I8: nothing that was handed out as a credential is kept anywhere."""
        store = self.world.store
        kept = {"runs": store.saved, "specs": store.specs, "notes": store.told, "mail": store.news}
        kept |= {
            "heartbeats": vars(self.world.c.records),
            "acts": vars(self.world.c.acts),
            "ledger": store.ledger.lines_of,
        }
        for where, what in kept.items():
            if CANARY in repr(what):
                self.fail("I8", None, f"a secret is kept among the {where}")

    def check_end(self, run: Run) -> None:
        """I6, when nothing hinders any more: it has ended, or a person or the money must do something."""
        if run.status.ended or run.wanted is Wanted.SUSPEND or waiting(run):
            return
        if any(a.live and a.phase is Phase.TRAINING for a in run.attempts):
            return  # it goes on, as its limits allow
        self.fail(
            "I6", run.name, f"it is {run.status.value} ({run.reason.value}) when nothing hinders it: {run.message}"
        )
