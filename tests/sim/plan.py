"""What will happen in a month, as data drawn from a seed: runs that are asked for, and troubles that concern everything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

START = datetime(2026, 12, 1, tzinfo=UTC)
DAYS = 31
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@dataclass(frozen=True)
class Asked:
    """A run that somebody submits, `hours` long, and what they ask of it later, if anything (suspend, resume, cancel)."""

    name: str
    at: datetime
    hours: float
    cost_usd: Decimal
    wait: bool
    later: tuple[tuple[timedelta, str], ...] = ()

    def text(self) -> str:
        asked = "".join(f", then somebody asks to {what} it after {after}" for after, what in self.later)
        return f"{self.name} is submitted: {self.hours} h for {self.cost_usd} USD at most{asked}"


@dataclass(frozen=True)
class Trouble:
    """Something that concerns everything: price (of the pool `which`, `much` USD an hour), capacity (of a pool; `much` 1 when it
    goes, 0 when it comes back), away (controller), silent (prices), quota, fault (at the call `which` from now), or stray.
    """

    at: datetime
    what: str
    which: int = 0
    much: float = 0.0

    def text(self) -> str:
        return f"{self.what} {self.which}: {self.much:g}"


@dataclass(frozen=True)
class Plan:
    seed: int
    limit_usd: Decimal
    runs: tuple[Asked, ...]
    troubles: tuple[Trouble, ...]


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
    troubles += [Trouble(_when(rng), "stray", rng.randrange(runs), rng.random()) for _ in range(5)]
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
