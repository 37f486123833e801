"""What goes wrong in a rehearsal. A scenario looks at the run a few times a second and does its mischief when it is time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spotrelay.rehearsal.ec2_control import HostControl
from spotrelay.rehearsal.watch import Watch

WARNING = "EC2 Spot Instance Interruption Warning"


@dataclass
class Scene:
    """What a scenario sees and can do. `run` is the API's view, None before there is one; `at_step` is when to strike.

    `published` are the steps of whole checkpoints in the order they were first seen.
    """

    control: HostControl
    watch: Watch
    pools: list[tuple[str, str]]
    at_step: int
    say: Callable[[str], None]
    hide_agent: Callable[[bool], None]
    run: Mapping[str, Any] | None = None
    published: list[int] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    mark: int = 0

    def once(self, what: str) -> bool:
        """True the first time."""
        if what in self.done:
            return False
        self.done.add(what)
        return True

    def attempt(self, number: int) -> Mapping[str, Any] | None:
        attempts = self.run["attempts"] if self.run else []
        return attempts[number - 1] if len(attempts) >= number else None

    def instance(self, number: int) -> str | None:
        """The attempt's instance, while EC2 has it running."""
        found = self.watch.instances.get(number)
        return found["id"] if found and found["state"] == "running" else None

    def reached(self) -> bool:
        """Whether the first attempt is where it is to be struck; without a progress file, after three checkpoints."""
        if self.watch.last(1):
            return self.watch.last(1) >= self.at_step
        return len(self.published) >= 3

    def interrupt(self, number: int) -> None:
        instance = self.instance(number)
        if instance and self.once(f"interrupt {number}"):
            self.say(f"EC2 warns attempt {number} at step {self.watch.last(number)}")
            self.control.interrupt(instance)

    def refuse_all(self, refuse: bool) -> None:
        for kind, zone in self.pools:
            self.control.pool(kind, zone, capacity=0 if refuse else None, reset=not refuse)


@dataclass(frozen=True)
class Scenario:
    """`strike` is called again and again; `warned` says that no step may be lost; `attempts` must have had a part."""

    name: str
    summary: str
    strike: Callable[[Scene], None]
    prepare: Callable[[HostControl], None] = lambda control: None
    warned: bool = True
    attempts: int = 2


def _warned(scene: Scene) -> None:
    if scene.reached():
        scene.interrupt(1)


def _unwarned(scene: Scene) -> None:
    """Right after a checkpoint became whole: what is lost is what was trained since it was saved."""
    instance = scene.instance(1)
    if not instance or not scene.reached() or "kill 1" in scene.done:
        return
    if scene.once("mark"):
        scene.mark = len(scene.published)
    if len(scene.published) > scene.mark and scene.once("kill 1"):
        scene.say(f"EC2 takes attempt 1 away at step {scene.watch.last(1)}, without a word")
        scene.control.kill(instance)


def _no_capacity(scene: Scene) -> None:
    if scene.reached() and scene.once("refuse"):
        scene.say("no pool has capacity any more")
        scene.refuse_all(True)
    _warned(scene)
    refused = scene.run is not None and scene.run["reason"] == "no_capacity"
    if refused and scene.instance(1) is None and scene.once("give"):
        scene.say("the pools have capacity again")
        scene.refuse_all(False)


def _twice(scene: Scene) -> None:
    _warned(scene)
    second = scene.attempt(2)
    if second and second["phase"] in ("PREPARING", "READY") and "interrupt 1" in scene.done:
        scene.interrupt(2)


def _boot_failure(scene: Scene) -> None:
    if scene.reached() and scene.once("break"):
        scene.say("the agent vanishes from the bucket: the next instance can't boot")
        scene.hide_agent(True)
    _warned(scene)
    second = scene.attempt(2)
    if second and second["ended_by"] and scene.once("mend"):
        scene.say("the agent is back")
        scene.hide_agent(False)


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("calm", "nothing goes wrong", lambda scene: None, attempts=1),
        Scenario("warned", "EC2 warns, the replacement boots while the old instance trains on", _warned),
        Scenario("unwarned", "EC2 takes the instance away without a word", _unwarned, warned=False),
        Scenario(
            "lost-events",
            "no EC2 event arrives; the sweep finds out",
            _unwarned,
            lambda control: control.event_mode("lose"),
            warned=False,
        ),
        Scenario("no-capacity", "every pool refuses the replacement for a while", _no_capacity),
        Scenario(
            "quota",
            "5 vCPU: the replacement starts when the old instance is gone",
            _warned,
            lambda control: control.quota(5),
        ),
        Scenario(
            "duplicate-events",
            "every event arrives twice",
            _warned,
            lambda control: control.event_mode("duplicate"),
        ),
        Scenario("boot-failure", "the replacement never boots; another one does", _boot_failure, attempts=3),
        Scenario("twice", "the replacement is interrupted in the middle of the handoff", _twice, attempts=3),
    )
}


def reset(control: HostControl, pools: list[tuple[str, str]]) -> None:
    """Take back whatever a scenario changed."""
    control.event_mode("deliver")
    control.quota(None)
    control.boot(fail=False)
    for kind, zone in pools:
        control.pool(kind, zone, reset=True)
