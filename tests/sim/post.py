"""EventBridge and Lambda's queue: events that come once, twice, late, in another order, or never; each tried three times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

from chalicelib.core import events as ev
from tests.sim.agent import Unreachable

if TYPE_CHECKING:
    from tests.sim.world import World

Event = ev.Warned | ev.InstanceState
MINUTE = timedelta(minutes=1)


class Post:
    """`fates(event)` gives how late each copy of an event comes; none is an event that is lost.

    Unless it is replaced, `events` (deliver, lose or duplicate) and `delays`, which the copies take in turn, decide.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.events = "deliver"
        self.delays: list[timedelta] = [timedelta()]
        self.fates: Callable[[Event], list[timedelta]] = self._in_turn
        self._turn = count()
        self._handled: set[tuple[str, Event]] = set()

    def send(self, event: Event) -> None:
        fates = self.fates(event)
        if not fates:
            self.world.tell_of(event.instance_id, f"the event {_name(event)} is lost")
        for late in fates:
            if late:
                self.world.at(self.world.now + late, lambda: self._deliver(event, 3))
            else:
                self._deliver(event, 3)

    def _deliver(self, event: Event, tries: int) -> None:
        """Asynchronous: tried three times, after a minute and after two (Lambda)."""
        world = self.world
        run = world.store.instances.get(event.instance_id)
        again = (run or "", event) in self._handled
        world.tell_of(event.instance_id, f"the event {_name(event)} comes{' again' if again else ''}")
        try:
            world.invoke(lambda: world.invariants.delivered(event, again))
            world.invoke(lambda: world.shell.on_instance(event))
            self._handled.add((run or "", event))
        except Unreachable:
            if tries > 1:
                world.at(world.now + (4 - tries) * MINUTE, lambda: self._deliver(event, tries - 1))

    def _in_turn(self, event: Event) -> list[timedelta]:
        if self.events == "lose":
            return []
        copies = 2 if self.events == "duplicate" else 1
        return [self.delays[next(self._turn) % len(self.delays)] for _ in range(copies)]


def _name(event: Event) -> str:
    return "of its interruption" if isinstance(event, ev.Warned) else f"that it is {event.state}"
