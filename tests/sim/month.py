"""A month of many runs from one seed: what is asked of the controller, what goes wrong, and what came of it.

`plan(seed, runs)` is what will happen, as data; `play(plan)` lives it, checks every invariant, and gives the world. What awaits
one attempt is drawn from the seed and its name, so that leaving other runs out changes nothing for it. `live` does both, for
figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from chalicelib.core import events as ev
from chalicelib.core.model import Status
from tests.sim.agent import Agent
from tests.sim.faults import Kind
from tests.sim.world import World

START = datetime(2026, 12, 1, tzinfo=UTC)
DAYS, AFTERWARDS = 31, timedelta(days=5)
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
LATE = (*(timedelta(),) * 6, 5 * SECOND, 40 * SECOND, 3 * MINUTE, 20 * MINUTE, 3 * HOUR)


@dataclass(frozen=True)
class Asked:
    """A run that somebody submits, `hours` long, and what they ask of it later, if anything (suspend, resume, cancel)."""

    name: str
    at: datetime
    hours: float
    cost_usd: Decimal
    wait: bool
    later: tuple[tuple[timedelta, str], ...] = ()


@dataclass(frozen=True)
class Trouble:
    """Something that concerns everything: `what` is a key of `_DO`, `which` and `much` say how."""

    at: datetime
    what: str
    which: int = 0
    much: float = 0.0


@dataclass(frozen=True)
class Plan:
    seed: int
    limit_usd: Decimal
    runs: tuple[Asked, ...]
    troubles: tuple[Trouble, ...]


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


def live(seed: int, runs: int = 1000) -> Outcome:
    """Plan and play a month. Raises story.InvariantBroken, whose message tells the story of the run concerned."""
    began = time.perf_counter()
    planned = plan(seed, runs)
    world = play(planned)
    kept = world.store.saved.values()
    ended = {status.value: sum(run.status is status for run in kept) for status in Status if status.ended}
    return Outcome(
        seed=seed,
        runs=len(kept),
        ended=ended,
        waiting=len(kept) - sum(ended.values()),
        attempts=len(world.ec2.instances),
        interruptions=world.invariants.interruptions,
        restores=world.invariants.restores,
        steps=sum(agent.step() - (agent.from_step or 0) for agent in world.agents.values() if agent.began),
        steps_lost=world.invariants.steps_lost,
        spent_usd=sum(world.ec2.bill(world.now, world.month).values(), Decimal(0)),
        limit_usd=planned.limit_usd,
        overspend_usd=max(Decimal(0), world.invariants.overspend),
        events=world.happened,
        aws_calls=world.faults.calls,
        seconds=time.perf_counter() - began,
    )


def plan(seed: int, runs: int = 1000) -> Plan:
    rng = Random(f"month/{seed}")
    asked = tuple(sorted((_asked(Random(f"{seed}/{n}"), n) for n in range(runs)), key=lambda run: run.at))
    need = sum(run.hours for run in asked) * 0.08
    limit = Decimal(max(1, round(need * rng.uniform(0.6, 1.6))))
    troubles: list[Trouble] = []
    for pool in range(3):
        troubles += [Trouble(_when(rng), "price", pool, round(rng.uniform(0.03, 0.12), 4)) for _ in range(60)]
        troubles += [Trouble(_when(rng), "price", pool, round(rng.uniform(0.15, 0.4), 4)) for _ in range(2)]
        for _ in range(6):
            troubles += _span(rng, "capacity", pool, rng.uniform(0.2, 20))
    for _ in range(rng.randrange(1, 3)):
        troubles += _span(rng, "away", 0, rng.uniform(10, 80))
    for _ in range(8):
        troubles += _span(rng, "away", 0, rng.uniform(0.02, 1.5))
    troubles += _span(rng, "silent", 0, rng.uniform(1, 12))
    troubles += _span(rng, "quota", 0, rng.uniform(5, 60))
    troubles += [Trouble(_when(rng), "fault", rng.randrange(1, 20), rng.random()) for _ in range(runs // 4)]
    return Plan(seed, limit, asked, tuple(sorted(troubles, key=lambda each: each.at)))


def _asked(rng: Random, number: int) -> Asked:
    hours = round(min(8.0, 0.2 + rng.expovariate(0.6)), 2)
    enough = rng.random() < 0.93
    cost = Decimal(str(round(hours * 0.2 + 0.5 if enough else 0.15 + hours * 0.04, 2)))
    later: list[tuple[timedelta, str]] = []
    if rng.random() < 0.06:
        at = timedelta(hours=rng.uniform(0.1, hours))
        later = [(at, "suspend"), (at + timedelta(hours=rng.uniform(0.5, 30)), "resume")]
    elif rng.random() < 0.04:
        later = [(timedelta(hours=rng.uniform(0.01, hours)), "cancel")]
    return Asked(f"run-{number:04d}", _when(rng, DAYS - 2), hours, cost, rng.random() < 0.7, tuple(later))


def _when(rng: Random, days: float = DAYS) -> datetime:
    return START + timedelta(seconds=round(rng.uniform(60, days * 86400)))


def _span(rng: Random, what: str, which: int, hours: float) -> list[Trouble]:
    at = _when(rng)
    return [Trouble(at, what, which, 1), Trouble(at + timedelta(hours=hours), what, which, 0)]


@dataclass
class _Month:
    world: World
    plan: Plan
    depth: dict[str, int] = field(default_factory=dict)  # of troubles that may overlap

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

    def _on(self, each: Trouble) -> bool:
        key = f"{each.what} {each.which}"
        self.depth[key] = self.depth.get(key, 0) + (1 if each.much else -1)
        return self.depth[key] > 0

    def born(self, agent: Agent) -> None:
        """What awaits an attempt."""
        run, number = agent.name
        rng = Random(f"{self.plan.seed}/{run}/{number}")
        lives = timedelta(hours=rng.expovariate(1 / 5))
        what: Callable[[], object] = lambda: self.world.interrupt(agent.instance, warned=True)  # noqa: E731
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

    def tears(self, agent: Agent, step: int) -> bool:
        return Random(f"{self.plan.seed}/{agent.name}/{step}").random() < 0.01

    def fates(self, event: ev.Warned | ev.InstanceState) -> list[timedelta]:
        agent = self.world.agents[event.instance_id]
        what = event.state if isinstance(event, ev.InstanceState) else "warned"
        rng = Random(f"{self.plan.seed}/{agent.name}/{what}")
        if rng.random() < 0.1:
            return []
        return [rng.choice(LATE) for _ in range(2 if rng.random() < 0.15 else 1)]


_DO = {what: getattr(_Month, what) for what in ("price", "capacity", "away", "silent", "quota", "fault")}
_LATER: dict[str, Callable[[], ev.Event]] = {
    "suspend": lambda: ev.SuspendAsked("me"),
    "resume": lambda: ev.ResumeAsked("me"),
    "cancel": lambda: ev.CancelAsked("me"),
}


def play(planned: Plan, prepare: Callable[[World], None] = lambda world: None) -> World:
    """Live the month, and some days afterwards in which nothing goes wrong. Raises story.InvariantBroken.

    `prepare` is given the world before anything happens.
    """
    world = World(planned.limit_usd, START, name=f"seed {planned.seed}, {len(planned.runs)} runs")
    month = _Month(world, planned)
    world.born, world.tears, world.post.fates = month.born, month.tears, month.fates
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


def without(planned: Plan, runs: frozenset[str] = frozenset(), troubles: frozenset[int] = frozenset()) -> Plan:
    """The plan with these runs, and these troubles by their place, left out."""
    return replace(
        planned,
        runs=tuple(run for run in planned.runs if run.name not in runs),
        troubles=tuple(each for n, each in enumerate(planned.troubles) if n not in troubles),
    )


if __name__ == "__main__":
    asked = argparse.ArgumentParser(prog="make month")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--runs", type=int, default=1000)
    given = asked.parse_args()
    print(live(given.seed, given.runs).text())
