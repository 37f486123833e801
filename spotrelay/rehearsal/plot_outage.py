"""The controller is away until after a lease's end: the instance ends itself, and when it hangs, EventBridge Scheduler does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta

from spotrelay.rehearsal import bill
from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot
from spotrelay.rehearsal.stage import STAGE

GRACE_S, SCHEDULER_LATE_S = 300, 60  # scaled like every wait
# Scheduler knows whole seconds, and its entry is rounded down to one.
LOOSE = timedelta(seconds=1.5)
HANG_S = 10.0
POWERED_OFF, ENDED_BY_CALL = "Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown"


class ControllerDown(Plot):
    """In mid-training no function runs any more, until the lease is over and the instance gone."""

    instance = ""
    ends_by: datetime | None = None  # what the Scheduler's entry says: lease end and grace
    gave_up = False

    def strike(self) -> None:
        scene, instance = self.scene, self.scene.instance(1)
        if instance and scene.reached() and scene.once("outage"):
            self.instance = instance
            scene.say(f"the controller is gone, at step {scene.watch.last(1)} of attempt 1")
            scene.take_controller()
            self.begun()
        elif scene.away:
            self._look_at_schedule()
            if self._over() and scene.once("back"):
                scene.say("the controller is back")
                scene.give_controller()

    def begun(self) -> None:
        """The outage has begun."""

    @property
    def lease_end(self) -> datetime | None:
        return self.ends_by - self._scaled(GRACE_S) if self.ends_by else None

    def problems(self, outcome: Outcome) -> list[str]:
        life = bill.lives(self.scene.control.instances(), self.scene.control.events()).get(self.instance)
        if life is None or self.ends_by is None or self.lease_end is None:
            return ["the outage never came, or the Scheduler had no entry for the instance"]
        problems = ["the instance had not ended when it should have"] if self.gave_up else []
        return problems + self.end_wrong(life, self.lease_end, self.ends_by, outcome)

    def end_wrong(self, life: bill.Life, lease_end: datetime, ends_by: datetime, outcome: Outcome) -> list[str]:
        """What is wrong with how the instance ended."""
        problems = []
        self.scene.say(
            f"the instance powered off {(lease_end - life.ended).total_seconds():.1f} s before its lease end"
        )
        if life.reason != POWERED_OFF:
            problems.append(f"the instance ended by {life.reason}; it was to power off by itself")
        if life.ended > lease_end + LOOSE:
            problems.append(f"the instance ended at {life.ended}, and its lease at {lease_end}")
        last = outcome.watch.last(1)
        second = next((a for a in outcome.run["attempts"] if a["attempt"] == 2), None)
        if second and second["from_step"] != last:
            problems.append(f"attempt 2 went on from step {second['from_step']}, and attempt 1 had come to {last}")
        return problems

    def _look_at_schedule(self) -> None:
        scheduler = self.scene.stage.client("scheduler")
        with contextlib.suppress(scheduler.exceptions.ResourceNotFoundException):
            found = scheduler.get_schedule(GroupName=f"spot-relay-{STAGE}", Name=self.instance)
            self.ends_by = datetime.fromisoformat(found["ScheduleExpression"][3:-1]).replace(tzinfo=UTC)

    def _over(self) -> bool:
        if self.ends_by is None or self.lease_end is None:
            return False
        now = datetime.now(UTC)
        self.gave_up = now > self.ends_by + self._scaled(SCHEDULER_LATE_S) + timedelta(seconds=10)
        gone = self.scene.control.instance(self.instance)["state"] == "terminated"
        return self.gave_up or (gone and now > self.lease_end + LOOSE)

    def _scaled(self, seconds: float) -> timedelta:
        return timedelta(seconds=seconds * self.scene.stage.time_scale)


class ControllerAndAgentDown(ControllerDown):
    """The machine hangs as well: nothing on it runs, and no power-off is pending."""

    def begun(self) -> None:
        control = self.scene.control
        until = time.monotonic() + HANG_S
        while (pids := control.instance(self.instance)["pids"]) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        control.disarm(self.instance)
        self.scene.say("the instance hangs: nothing runs on it, and nothing will power it off")

    def end_wrong(self, life: bill.Life, lease_end: datetime, ends_by: datetime, outcome: Outcome) -> list[str]:
        problems = []
        after = (life.ended - ends_by).total_seconds()
        self.scene.say(f"the Scheduler ended the instance {after:+.1f} s from lease end and grace")
        if life.reason != ENDED_BY_CALL:
            problems.append(f"the instance ended by {life.reason}; it was to be terminated by a call")
        if not ends_by - LOOSE <= life.ended <= ends_by + self._scaled(SCHEDULER_LATE_S) + LOOSE:
            problems.append(f"the instance ended at {life.ended}; the Scheduler's entry was for {ends_by}")
        log = self.scene.stage.emulator.log_file.read_text(errors="replace")
        role = rf"{re.escape(self.instance)}: ec2:terminateInstances as \S*spot-relay-{STAGE}-scheduler done"
        if not re.search(role, log):
            problems.append("the Scheduler's role did not end the instance")
        return problems
