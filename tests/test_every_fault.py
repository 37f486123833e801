"""Nothing is lost: a run's life is recorded call by call, then lived again once for each (call, fault), and ends as it should.

The calls are not listed by hand: the recording numbers what shell, sweep and routes ask of the table, EC2 and Scheduler, with
the lines that asked. `make faults` tries every scenario; `make test` every fault at every call of the main one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import pytest

from chalicelib.core import events as ev
from chalicelib.core.model import Status
from tests.calls import asker
from tests.conftest import TRIED
from tests.sim.ec2 import Instance
from tests.sim.faults import Kind
from tests.sim.world import World

NAME = "run-0"
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


@dataclass
class Recording:
    """Where each call came from: its name, and the line of the controller that asked."""

    sites: list[str] = field(default_factory=list)

    def into(self, world: World) -> Recording:
        world.faults.seen = lambda call: self.sites.append(f"{call} at {asker()}")
        return self


def running(world: World) -> list[Instance]:
    return [i for i in world.ec2.instances.values() if i.running]


def submit(world: World) -> None:
    """A person whose request was not answered asks again, as the same name and spec allow."""
    world.submit(NAME, Decimal(11), 1)
    while NAME not in world.store.saved:
        world.run_for(15 * SECOND)
        world.submit(NAME, Decimal(11), 1)


def warned(world: World) -> None:
    _taken_back(world, warned=True)


def unwarned(world: World) -> None:
    _taken_back(world, warned=False)


def _taken_back(world: World, warned: bool) -> None:
    submit(world)
    world.run_for(25 * MINUTE)
    for instance in running(world):
        world.interrupt(instance, warned=warned)
    world.run_for(180 * MINUTE)


def no_event_comes(world: World) -> None:
    world.events = "lose"
    unwarned(world)


def every_event_comes_twice(world: World) -> None:
    world.events = "duplicate"
    warned(world)


def cancelled(world: World) -> None:
    submit(world)
    world.run_for(25 * MINUTE)
    for _ in range(4):  # until it is answered
        world.ask(lambda: world.shell.tell(NAME, ev.CancelAsked("me")))
        world.run_for(20 * SECOND)
    world.run_for(60 * MINUTE)


def suspended_and_resumed(world: World) -> None:
    submit(world)
    world.run_for(15 * MINUTE)
    for asked in (ev.SuspendAsked("me"), ev.ResumeAsked("me")):
        for _ in range(4):
            world.ask(lambda asked=asked: world.shell.tell(NAME, asked))  # type: ignore[misc]
            world.run_for(20 * SECOND)
        world.run_for(30 * MINUTE)
    world.run_for(120 * MINUTE)


SCENARIOS: dict[Callable[[World], None], Status] = {
    warned: Status.SUCCEEDED,
    unwarned: Status.SUCCEEDED,
    no_event_comes: Status.SUCCEEDED,
    every_event_comes_twice: Status.SUCCEEDED,
    cancelled: Status.CANCELLED,
    suspended_and_resumed: Status.SUCCEEDED,
}
EVERY = os.environ.get("SPOT_RELAY_FAULTS") == "all"


def recorded(life: Callable[[World], None]) -> list[str]:
    world = World()
    recording = Recording().into(world)
    life(world)
    return recording.sites


def check_end(world: World, expected: Status) -> None:
    run = world.store.saved[NAME]
    assert run.status is expected, run.message
    assert not running(world), "a stray is left"
    assert not world.ec2.entries, "a watchdog's entry is left"
    assert all(account.reserved == 0 for account in world.store.ledger.months.values())
    world.check_bill()
    published = [steps for steps in world.bucket.steps.values() if steps]
    assert all(steps == sorted(steps) for steps in published)


@pytest.mark.parametrize("life", SCENARIOS if EVERY else [warned], ids=lambda life: life.__name__)
def test_a_fault_at_any_call_loses_nothing(life: Callable[[World], None]) -> None:
    sites = recorded(life)
    wrong: list[str] = []
    tried = 0
    for n in range(1, len(sites) + 1):
        for kind in Kind:
            world = World()
            world.faults.arm(n, kind)
            try:
                life(world)
                world.settle_down(timedelta(hours=8))
                check_end(world, SCENARIOS[life])
            except AssertionError as error:
                wrong.append(f"call {n}, {sites[n - 1]}, {kind}: {error}")
            tried += 1
    TRIED["faults"] = TRIED.get("faults", 0) + tried
    TRIED["fault sites"] = TRIED.get("fault sites", set()) | set(sites)
    assert not wrong, "\n".join(wrong)
