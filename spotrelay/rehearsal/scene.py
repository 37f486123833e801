"""What a scenario is made of: the scene it sees, the plot that does the mischief, and what is asked of the run afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spotrelay.rehearsal.ec2_control import HostControl
from spotrelay.rehearsal.stage import Stage
from spotrelay.rehearsal.watch import Watch


@dataclass
class Scene:
    """What a plot sees and can do. `run` and `budget` are the API's views, None before there is one.

    `seed` decides what is left to chance, `at_step` is when to strike; `published` are the steps of whole checkpoints in
    the order they were first seen.
    """

    stage: Stage
    spec: Mapping[str, Any]
    watch: Watch
    pools: list[tuple[str, str]]
    at_step: int
    say: Callable[[str], None]
    seed: int = 1
    run: Mapping[str, Any] | None = None
    budget: Mapping[str, Any] | None = None
    published: list[int] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    mark: int = 0
    away: bool = False
    _outage: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def control(self) -> HostControl:
        return self.stage.control

    @property
    def name(self) -> str:
        return str(self.spec["name"])

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

    def take_controller(self) -> None:
        """No function of ours runs from now on, until `give_controller`."""
        self._outage.enter_context(self.stage.outage())
        self.away = True

    def give_controller(self) -> None:
        """The controller is back. Asked twice, does nothing more."""
        self._outage.close()
        self.away = False


class Plot:
    """What goes wrong in one run. A plot does nothing by itself; the real ones say when and what."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def prepare(self) -> None:
        """Before the run is submitted."""

    def strike(self) -> None:
        """A few times a second while the run is followed."""

    def problems(self, outcome: Any) -> list[str]:
        """What should have been seen and was not, once the run has ended (`outcome.Outcome`)."""
        return []

    def unwarned_losses(self) -> int | None:
        """How often training was cut off without a word, each time at the cost of an interval at most; None: as the
        scenario says.
        """
        return None

    def months(self) -> dict[str, str]:
        """USD that the run settled in months that are over (yyyy-mm), as the API showed it in them."""
        return {}

    def clean(self) -> None:
        """Take back what was changed; called whatever happened."""


@dataclass(frozen=True)
class Scenario:
    """`warned` says that no step may be lost; `attempts` must have had a part.

    `crowded`: events that have waited come all at once, and one that loses the race for the run looks again, which costs
    calls; so that a relaunch's are not counted.
    `time_scale` None takes the rehearsal's own. `dearer` multiplies the Spot prices, so that a few seconds cost cents.
    `when` is between which parts of the training it strikes, `lasts_s` how long the quickstart is made to train.
    """

    name: str
    summary: str
    plot: Callable[[Scene], Plot] = Plot
    warned: bool = True
    attempts: int = 2
    crowded: bool = False
    time_scale: float | None = None
    dearer: float = 1.0
    when: tuple[float, float] = (0.3, 0.55)
    lasts_s: float | None = None
