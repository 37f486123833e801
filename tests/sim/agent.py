"""An instance's life as the agent leads it: claim, prepare, restore, train, save, beat, drain before the lease ends, power off.

The trainer makes a step a second and saves every ten minutes. Heartbeats come every five minutes where the real agent's come
every half, so that months pass quickly; the world says meanwhile that it was heard.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.sim.ec2 import BY_ITSELF, Instance

if TYPE_CHECKING:
    from tests.sim.world import World

BEAT, URGENT, SAVE_EVERY = timedelta(minutes=5), timedelta(seconds=15), timedelta(minutes=10)
SAVING = timedelta(seconds=40)
DRAIN_BEFORE, GRACE, BOOT_SWITCH = timedelta(minutes=4), timedelta(minutes=5), timedelta(minutes=50)


class Unreachable(Exception):
    """No answer from the controller."""


class Agent:
    def __init__(self, world: World, instance: Instance, prepare: timedelta) -> None:
        self.world, self.instance, self.prepare = world, instance, prepare
        self.dead = False  # it does nothing any more, and the instance runs on
        self.switch_fails = False  # `shutdown -P` has no effect
        self.from_step: int | None = None
        self.began: datetime | None = None
        self.saved: int | None = None
        self.leaving = False
        self.lease_until: datetime | None = None
        self.off_at: datetime | None = None
        self._arm(BOOT_SWITCH)

    @property
    def name(self) -> tuple[str, int]:
        return self.instance.run, self.instance.attempt

    @property
    def training(self) -> bool:
        return self.began is not None and not self.leaving and self.alive

    @property
    def alive(self) -> bool:
        return self.instance.running and not self.dead

    def step(self) -> int:
        assert self.from_step is not None
        assert self.began is not None
        return self.from_step + int((self.world.now - self.began).total_seconds())

    def boot(self) -> None:
        try:
            answer = self.world.claim(self, ready=False)
        except Unreachable:
            self._again(URGENT, self.boot)
            return
        if answer["action"] != "prepare":
            self.power_off()
            return
        self._take(answer)
        self._again(self.prepare, self.ready)
        self._again(BEAT, self.beat)

    def ready(self) -> None:
        if self.leaving:
            return
        try:
            answer = self.world.claim(self, ready=True)
        except Unreachable:
            self._again(URGENT, self.ready)
            return
        self._take(answer)
        if answer["action"] == "wait":
            self._again(URGENT, self.ready)
        elif answer["action"] == "restore":
            found = answer["checkpoint"]
            self.from_step, self.began = (found["step"] if found else 0), self.world.now
            self._again(SAVE_EVERY, self.save)
            total = self.world.total_steps(self.instance.run)
            self._again(timedelta(seconds=max(1, total - self.from_step)), self.finish)
        else:
            self.drain("superseded" if answer["action"] == "superseded" else "user")

    def save(self) -> None:
        if self.training:
            self.saved = self.step()
            self.world.publish(self, self.saved)
            self._again(SAVE_EVERY, self.save)

    def beat(self) -> None:
        """Tell how it goes, and do as one is told; more often when there is a notice or a handoff."""
        if self.leaving:
            return
        pace = URGENT if self.instance.notice_ends_at else BEAT
        try:
            answer = self.world.heartbeat(self)
        except Unreachable:
            answer = {}
        self._take(answer)
        action = answer.get("action", "continue")
        if action != "continue":
            self.drain(answer.get("reason") or "handoff", silent=action == "superseded")
            return
        if answer and answer["heartbeat_s"] < 30:
            pace = URGENT
        left = (self.lease_until or self.world.now) - self.world.now - DRAIN_BEFORE
        if left <= timedelta():
            self.drain("lease_end")
            return
        self._again(min(pace, left), self.beat)

    def finish(self) -> None:
        if self.training:
            self.leave("done")

    def drain(self, reason: str, silent: bool = False) -> None:
        """Save what there is, and go."""
        if self.leaving:
            return
        self.leaving = True
        if silent or self.began is None:
            self.world.later(URGENT, self, self.power_off) if silent else self.leave(reason, drained=True)
            return
        step = self.step()

        def saved() -> None:
            self.saved = step
            self.world.publish(self, step)
            self.leave(reason, drained=True)

        self._again(SAVING, saved)

    def leave(self, reason: str, drained: bool = False) -> None:
        self.leaving = True
        try:
            answer = self.world.exit(self, reason, drained)
            linger = timedelta(seconds=answer.get("linger_s", 0))
        except Unreachable:
            linger = timedelta()
        self._again(linger + URGENT, self.power_off)

    def power_off(self) -> None:
        self.world.ec2.stop(self.instance.instance_id, BY_ITSELF)

    def noticed(self) -> None:
        """EC2's notice, seen in the metadata service within seconds."""
        self._again(URGENT, self.beat)
        assert self.instance.notice_ends_at
        left = self.instance.notice_ends_at - self.world.now - timedelta(seconds=45)
        self._again(max(URGENT, left), lambda: self.drain("spot_interruption"))

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("lease_s") is not None:
            self.lease_until = self.world.now + timedelta(seconds=answer["lease_s"])
            self._arm(self.lease_until - self.world.now + GRACE)

    def _arm(self, span: timedelta) -> None:
        self.off_at = at = self.world.now + timedelta(minutes=max(1, int(span.total_seconds() // 60)))

        def fires() -> None:
            if self.off_at == at and not self.switch_fails:
                self.power_off()

        # The switch is the machine's: an agent that is dead does not keep it from firing.
        self.world.at(at, fires)

    def _again(self, after: timedelta, what: Callable[[], None]) -> None:
        self.world.later(after, self, what)
