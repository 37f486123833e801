"""An instance's life as the agent leads it: claim, prepare, restore, train, save, beat, drain before the lease ends, power off.

What the controller, EC2 and the lease want of it is the real agent's own `Pulse`. The trainer makes a step a second and saves
every ten minutes. Heartbeats come every five minutes where the real agent's come every half: so months pass quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2] / "userdata/agent"))

from api import Refused, Unreachable
from clock import Clock
from pulse import DRAIN_BEFORE_LEASE_END_S, Pulse

from tests.sim.ec2 import Instance
from tests.sim.switch import Switch

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Agent", "Refused", "Unreachable"]

BEAT, URGENT, SAVE_EVERY = timedelta(minutes=5), timedelta(seconds=15), timedelta(minutes=10)
LOOK = timedelta(seconds=5)  # at the time, once there is a notice, whether or not a heartbeat hangs
SAVING = timedelta(seconds=20)  # a save and its upload
CLAIM_PATIENCE, REPORT_PATIENCE, GRACE = timedelta(seconds=540), timedelta(seconds=120), timedelta(minutes=5)


class VirtualClock(Clock):
    def __init__(self, clock: Callable[[], datetime]) -> None:
        super().__init__()
        self.now = clock  # type: ignore[method-assign]

    def monotonic(self) -> float:
        return self.now().timestamp()


class Agent:
    """`cut(span)`, `hang()` and `crash()` are what happens to it; the rest it does by itself."""

    def __init__(self, world: World, instance: Instance, prepare: timedelta) -> None:
        self.world, self.instance, self.prepare = world, instance, prepare
        self.clock = VirtualClock(lambda: world.now)
        self.pulse = Pulse(self._heartbeat, self, self.clock, self._renewed, lambda _: None, lambda _: None)
        self.dead_at: datetime | None = None  # since when it does nothing any more, and the instance runs on
        self.cut_at: datetime | None = None  # when it last lost the network, and when it had it again
        self.back_at: datetime | None = None
        self.fails = False  # its trainer ends with an error instead of a result
        self.from_step: int | None = None
        self.began: datetime | None = None
        self.stopped: datetime | None = None  # since when the trainer makes no more steps
        self.saved: int | None = None  # on its disk
        self.published: int | None = None
        self.final = False  # its last word is in the bucket
        self.leaving = self.saving = False
        self.urgent = self._beating = False
        self._beats = 0
        self.since = world.now
        self.torn: list[dict[str, int]] = []
        self.switch = Switch(world, instance)

    @property
    def name(self) -> tuple[str, int]:
        return self.instance.run, self.instance.attempt

    @property
    def training(self) -> bool:
        return self.began is not None and not self.leaving and self.alive

    @property
    def alive(self) -> bool:
        return self.instance.running and self.dead_at is None

    @property
    def connected(self) -> bool:
        return self.cut_at is None or (self.back_at is not None and self.world.now >= self.back_at)

    def step(self) -> int:
        """What the trainer has reached, or had when it stopped."""
        assert self.from_step is not None
        assert self.began is not None
        until = min(at for at in (self.world.now, self.stopped, self.instance.ended_at, self.dead_at) if at)
        return self.from_step + int((until - self.began).total_seconds())

    # -- what it does -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        answer = self._asked(lambda: self.world.routes.claim(self, ready=False), self.boot, self.power_off)
        if answer is None:
            return
        if answer["action"] != "prepare":
            self.power_off()
            return
        self._take(answer)
        self.world.routes.beats(self)
        self.since = self.world.now + self.prepare
        self._again(self.prepare, self.ready)
        self._again(URGENT, self.beat)

    def ready(self) -> None:
        if self.leaving or self._wished():
            return
        answer = self._asked(
            lambda: self.world.routes.claim(self, ready=True), self.ready, lambda: self.leave("boot_failed")
        )
        if answer is None or self.leaving:
            return
        self._take(answer)
        if answer["action"] == "wait":
            self.since = self.world.now
            self._again(URGENT, self.ready)
        elif answer["action"] == "restore":
            self._restore(answer)
        else:
            self.pulse.want(answer["action"], answer["reason"], answer["message"])
            self._wished()

    def _restore(self, answer: dict[str, Any]) -> None:
        """As `relay._restore`: a torn one is told of, and the next older one is tried."""
        newest = answer["checkpoint"]
        offered = [
            {"attempt": c["attempt"], "step": c["step"]} for c in [*([newest] if newest else []), *answer["older"]]
        ]
        offered = [c for c in offered if c not in self.torn]
        for each in offered:
            if not self.world.routes.is_torn(self, each["attempt"], each["step"]):
                self._begin(each)
                return
            self.torn.append(each)
        if offered:
            self._again(timedelta(seconds=1), self.ready)
        else:
            self._begin(None)

    def _begin(self, found: dict[str, int] | None) -> None:
        self.from_step, self.began = (found["step"] if found else 0), self.world.now
        self.world.routes.restored(self, found)
        self.pulse.tell(phase="train")
        self._again(SAVE_EVERY, self.save)
        total = self.world.totals[self.instance.run]
        self._again(timedelta(seconds=max(1, total - self.from_step)), self.finish)

    def save(self) -> None:
        if self.training:
            self.saved = self.step()
            self._publish()
            self._again(SAVE_EVERY, self.save)

    def beat(self) -> None:
        """Tell how it goes, and do as one is told; more often when there is a notice or a handoff."""
        if self.leaving:
            return
        if self._beating:  # the pulse is one thread
            self._again(timedelta(seconds=1), self.beat)
            return
        self.pulse.tell(step=self.step() if self.began else None)
        self._beating = True
        self.pulse.once()
        self._beating = False
        if not self.alive or self._wished():
            return
        pace = URGENT if self.urgent or self.pulse.noticed else BEAT
        left = timedelta(seconds=(self.pulse.seconds_left() or 0) - DRAIN_BEFORE_LEASE_END_S)
        after = URGENT if self.pulse.noticed else min(pace, max(left, timedelta(seconds=1)))
        self._beats += 1
        turn = self._beats
        self._again(after, lambda: self.beat() if turn == self._beats else None)

    def look(self) -> None:
        """As the main thread does all the time."""
        if not self._wished():
            self._again(LOOK, self.look)

    def finish(self) -> None:
        if self.training:
            self.stopped = self.world.now
            self.leave("exit_code" if self.fails else "done")

    def drain(self, reason: str) -> None:
        """Save what there is, and go."""
        self.leaving = self.saving = True
        self.stopped = self.world.now
        self.saved = self.step()
        self.world.tell(self, f"its trainer is told to save ({reason}), at step {self.saved}")

        def saved() -> None:
            if not self.connected:  # an upload that stalls goes on when the network is back
                self._again(URGENT, saved)
                return
            self._publish(final=True)
            self.saving = False
            self.leave(reason, drained=True)

        self._again(SAVING, saved)

    def leave(self, reason: str, drained: bool = False) -> None:
        self.leaving, self.since = True, self.world.now
        self._report(reason, drained)

    def _report(self, reason: str, drained: bool) -> None:
        def again() -> None:
            self._report(reason, drained)

        answer = self._asked(
            lambda: self.world.routes.exit(self, reason, drained), again, self.power_off, REPORT_PATIENCE
        )
        if answer is not None:
            self._again(timedelta(seconds=answer.get("linger_s", 0)) + URGENT, self.power_off)

    def power_off(self) -> None:
        self.switch.off()

    # -- what happens to it -----------------------------------------------------------------------------------------

    def noticed(self) -> None:
        """EC2's notice, seen in the metadata service within seconds."""
        self._again(LOOK, self.beat)
        self._again(2 * LOOK, self.look)

    def cut(self, span: timedelta) -> None:
        """It reaches neither the controller nor the bucket for a while; its trainer goes on."""
        if not self.connected or not self.alive:
            return
        self.cut_at, self.back_at = self.world.now, self.world.now + span
        self.world.tell(self, f"it loses the network for {span}")
        self._again(span, self._back)

    def _back(self) -> None:
        if self.saved is not None and self.saved != self.published and not self.leaving:
            self._publish()
        self.beat()

    def hang(self, switch_fails: bool = False) -> None:
        if self.alive:
            self.dead_at, self.switch.fails = self.world.now, switch_fails
            self.world.tell(self, "its agent hangs; the instance runs on")

    def crash(self) -> None:
        """The machine goes down without a word."""
        if self.alive:
            self.world.tell(self, "it crashes")
            self.power_off()

    # -- imds.Imds, as far as the pulse asks --------------------------------------------------------------------------

    def ends_at(self) -> datetime | None:
        return self.instance.notice_ends_at

    def rebalance(self) -> bool:
        return False

    # -- small things -------------------------------------------------------------------------------------------------

    def _wished(self) -> bool:
        """Whether it has begun to go because the pulse wants it."""
        if self.leaving or not self.pulse.wish:
            return self.leaving
        if self.pulse.wish == "superseded":
            self.leaving, self.stopped = True, self.world.now
            self._again(URGENT, self.power_off)
        elif self.began is None:
            self.leave(self.pulse.reason, drained=True)
        else:
            self.drain(self.pulse.reason)
        return True

    def _publish(self, final: bool = False) -> None:
        assert self.saved is not None
        if self.connected:
            self.published, self.final = self.saved, final
            self.world.routes.publish(self, self.saved, final)
            self.pulse.handover_s = SAVING.total_seconds()
            self.pulse.tell(checkpoint={"step": self.saved, "bytes": 1, "final": final})

    def _heartbeat(self, body: dict[str, Any], _: float) -> dict[str, Any]:
        answer = self.world.routes.heartbeat(self, body)
        self.urgent = answer.get("heartbeat_s", 30) < 30
        return answer

    def _asked(
        self,
        ask: Callable[[], dict[str, Any]],
        again: Callable[[], None],
        given_up: Callable[[], None],
        patience: timedelta = CLAIM_PATIENCE,
    ) -> dict[str, Any] | None:
        """The answer; None when there is none yet, and it is asked again until the patience is over. None for the dead."""
        try:
            answer = ask()
            return answer if self.alive else None
        except Refused:
            return {"action": "superseded", "reason": "superseded", "message": "", "linger_s": 0}
        except Unreachable:
            if self.world.now - self.since < patience:
                self._again(URGENT, again)
            else:
                given_up()
            return None

    def _take(self, answer: dict[str, Any]) -> None:
        self.pulse.take(answer, self.clock.monotonic())

    def _renewed(self, seconds: float) -> None:
        self.switch.arm(timedelta(seconds=seconds) + GRACE)

    def _again(self, after: timedelta, what: Callable[[], None]) -> None:
        self.world.later(after, self, what)
