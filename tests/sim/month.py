"""A month of many runs from one seed: what is asked of the controller, what goes wrong, and what came of it.

`plan(seed, runs)` is what will happen, as data; `play(plan)` lives it, checks every invariant, and gives the world. What awaits
one attempt is drawn from the seed and its name, so that leaving other runs out changes nothing for it. `live` does both, for
figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random

from chalicelib.core import events as ev
from chalicelib.core.model import Attempt, Status
from tests.sim.agent import Agent
from tests.sim.ec2 import Instance
from tests.sim.faults import Kind
from tests.sim.plan import DAYS, HOUR, MINUTE, SECOND, START, Asked, Plan, Trouble, plan
from tests.sim.shrink import shrunk
from tests.sim.story import InvariantBroken
from tests.sim.world import World

AFTERWARDS = timedelta(days=5)
Prepare = Callable[[World], None]
LATE = (*(timedelta(),) * 6, 5 * SECOND, 40 * SECOND, 3 * MINUTE, 20 * MINUTE, 3 * HOUR)


def as_it_is(world: World) -> None:
    """Nothing is changed."""


@dataclass(frozen=True)
class Outcome:
    """What came of a month. USD are what EC2 really charged; `overspend_usd` is the most beyond a month's limit, at any moment.

    `waiting` are the runs that wait for money or for a person at its end; `steps_lost` is what was trained twice, of `steps`.
    """

    seed: int
    runs: int
    ended: dict[str, int]
    waiting: int
    attempts: int
    interruptions: int
    restores: int
    steps: int
    steps_lost: int
    spent_usd: Decimal
    limit_usd: Decimal
    overspend_usd: Decimal
    events: int
    aws_calls: int
    seconds: float

    def text(self) -> str:
        ended = ", ".join(f"{n} {status.lower()}" for status, n in self.ended.items())
        return (
            f"month {self.seed}: {self.runs:,} runs ({ended}, {self.waiting} wait), {self.attempts:,} attempts, "
            f"{self.interruptions} interruptions, {self.steps_lost:,} of {self.steps:,} steps trained twice, "
            f"{self.spent_usd:.2f} USD spent (limit {self.limit_usd} a month), {self.overspend_usd:.2f} overspent; "
            f"{self.events:,} events, {self.aws_calls:,} AWS calls in {self.seconds:.1f} s"
        )


def live(seed: int, runs: int = 1000, prepare: Prepare = as_it_is) -> Outcome:
    """Plan and play a month. Raises story.InvariantBroken, shrunk, whose message tells the story of the run concerned.

    `prepare` is given the world before anything happens.
    """
    began = time.perf_counter()
    planned = plan(seed, runs)
    try:
        world = play(planned, prepare)
    except InvariantBroken as broken:
        raise shrunk(planned, broken, lambda smaller: play(smaller, prepare)) from None
    kept = world.store.saved.values()
    ended = {status.value: sum(run.status is status for run in kept) for status in Status if status.ended}
    return Outcome(
        seed=seed,
        runs=len(kept),
        ended=ended,
        waiting=len(kept) - sum(ended.values()),
        attempts=len(world.ec2.instances),
        interruptions=world.invariants.interruptions,
        restores=world.invariants.baton.restores,
        steps=sum(agent.step() - (agent.from_step or 0) for agent in world.agents.values() if agent.began),
        steps_lost=world.invariants.baton.steps_lost,
        spent_usd=sum(world.ec2.bill(world.now, world.month).values(), Decimal(0)),
        limit_usd=planned.limit_usd,
        overspend_usd=max(Decimal(0), world.invariants.overspend),
        events=world.happened,
        aws_calls=world.faults.calls,
        seconds=time.perf_counter() - began,
    )


@dataclass
class _Month:
    world: World
    plan: Plan
    depth: dict[str, int] = field(default_factory=dict)  # of troubles that may overlap
    saves: dict[tuple[str, int], int] = field(default_factory=dict)  # checkpoints published, by attempt
    tries: dict[str, int] = field(default_factory=dict)  # launches asked for, by run

    def price(self, each: Trouble) -> None:
        self.world.price(self.world.ec2.pools[each.which], Decimal(str(each.much)))

    def capacity(self, each: Trouble) -> None:
        self.world.ec2.pools[each.which].capacity = not self._on(each)

    def away(self, each: Trouble) -> None:
        self.world.down = self._on(each)

    def silent(self, each: Trouble) -> None:
        self.world.ec2.silent = self._on(each)

    def quota(self, each: Trouble) -> None:
        self.world.ec2.vcpus = 9 if self._on(each) else None

    def fault(self, each: Trouble) -> None:
        self.world.faults.arm(each.which, list(Kind)[int(each.much * len(Kind))])

    def stray(self, each: Trouble) -> None:
        """Of an attempt that has ended, where there is one, else of a run that is not known."""
        run = self.world.store.saved.get(f"run-{each.which:04d}")
        ended = [a.number for a in run.attempts if not a.live and a.instance_id] if run else []
        self.world.stray(run.name if run and ended else "nobody", ended[-1] if ended else 1)

    def _on(self, each: Trouble) -> bool:
        key = f"{each.what} {each.which}"
        self.depth[key] = self.depth.get(key, 0) + (1 if each.much else -1)
        return self.depth[key] > 0

    def boots(self, instance: Instance) -> tuple[float, float]:
        rng = Random(f"{self.plan.seed}/{instance.run}/{instance.attempt}/boots")
        return rng.uniform(15, 90), rng.uniform(5, 240)

    def born(self, agent: Agent) -> None:
        """What awaits an attempt."""
        run, number = agent.name
        rng = Random(f"{self.plan.seed}/{run}/{number}")
        lives = timedelta(hours=rng.expovariate(1 / 5))
        what: Callable[[], object] = lambda: self._warned(agent, rng)  # noqa: E731
        chance = rng.random()
        if chance < 0.25:
            what = lambda: self.world.interrupt(agent.instance, warned=False)  # noqa: E731
        elif chance < 0.35:
            what = agent.crash
        elif chance < 0.45:
            what = agent.hang
        if chance < 0.9:
            self.world.at(self.world.now + lives, what)
        if rng.random() < 0.2:
            span = timedelta(seconds=rng.choice((20, 100, 240, 1200, 7200)))
            self.world.at(self.world.now + timedelta(hours=rng.uniform(0, 3)), lambda: agent.cut(span))
        agent.fails = rng.random() < 0.02
        lag = Random(f"{self.plan.seed}/{run}/{number}/listed").choice((0, 0, 0, 5, 40, 150))
        agent.instance.listed_at = self.world.now + lag * SECOND

    def _warned(self, agent: Agent, rng: Random) -> None:
        """Now and then EC2 is late, the network fails in the last minutes, or both: then a last word comes too late."""
        late, cut = rng.choice(
            ((0, 0), (0, 0), (0, 0), (20, 0), (90, 0), (0, rng.uniform(60, 240)), (90, rng.uniform(150, 200)))
        )
        self.world.interrupt(agent.instance, warned=True, late=late * SECOND)
        if cut:
            agent.cut(cut * SECOND)

    def asked(self, run: str, attempt: Attempt) -> None:
        """A launch is about to be asked for: now and then its answer is lost, or the process ends."""
        self.tries[run] = self.tries.get(run, 0) + 1
        rng = Random(f"{self.plan.seed}/{run}/{attempt.number}/{self.tries[run]}")
        if rng.random() < 0.06:
            self.world.faults.arm(1, rng.choice(list(Kind)))

    def tears(self, agent: Agent, step: int) -> bool:
        self.saves[agent.name] = nth = self.saves.get(agent.name, 0) + 1
        bad_disk = Random(f"{self.plan.seed}/{agent.name}").random() < 0.04
        return bad_disk or Random(f"{self.plan.seed}/{agent.name}/{nth}").random() < 0.03

    def fates(self, event: ev.Warned | ev.InstanceState) -> list[timedelta]:
        agent = self.world.agents[event.instance_id]
        what = event.state if isinstance(event, ev.InstanceState) else "warned"
        rng = Random(f"{self.plan.seed}/{agent.name}/{what}")
        if rng.random() < 0.1:
            return []
        return [rng.choice(LATE) for _ in range(2 if rng.random() < 0.15 else 1)]


_DO = {what: getattr(_Month, what) for what in ("price", "capacity", "away", "silent", "quota", "fault", "stray")}
_LATER: dict[str, Callable[[], ev.Event]] = {
    "suspend": lambda: ev.SuspendAsked("me"),
    "resume": lambda: ev.ResumeAsked("me"),
    "cancel": lambda: ev.CancelAsked("me"),
}


def play(planned: Plan, prepare: Prepare = as_it_is) -> World:
    """Live the month, and some days afterwards in which nothing goes wrong. Raises story.InvariantBroken."""
    world = World(planned.limit_usd, START, name=f"seed {planned.seed}")
    month = _Month(world, planned)
    world.boots = month.boots
    world.born, world.asked, world.routes.tears, world.post.fates = month.born, month.asked, month.tears, month.fates
    prepare(world)
    for run in planned.runs:
        _submit(world, run)
    for trouble in planned.troubles:
        world.at(trouble.at, lambda trouble=trouble: _DO[trouble.what](month, trouble))  # type: ignore[misc]
    for _ in range(DAYS * 24):
        world.run_for(HOUR)
        world.check_bill()
    world.faults.disarm()
    world.settle_down(AFTERWARDS)
    world.check_bill()
    world.invariants.check_secrets()
    for each in world.store.saved.values():
        world.invariants.check_end(each)
    return world


def _submit(world: World, run: Asked) -> None:
    def act() -> None:
        world.submit(run.name, run.cost_usd, run.hours, wait=run.wait)
        if run.name not in world.store.saved:
            world.at(world.now + 10 * MINUTE, act)  # it was not answered: they ask again

    world.at(run.at, act)
    for after, what in run.later:
        world.at(run.at + after, lambda what=what: world.ask(lambda: world.shell.tell(run.name, _LATER[what]())))  # type: ignore[misc]


if __name__ == "__main__":
    asked = argparse.ArgumentParser(prog="make month")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--runs", type=int, default=1000)
    given = asked.parse_args()
    print(live(given.seed, given.runs).text())
