"""What the sweep must know of a run at least: enough to leave a healthy one alone, small enough to read ten thousand at once.

A glance is written with its run into the index `live`, which is read without consistency: it says where to look, never what is
true. Whoever finds a reason to act loads the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from chalicelib.core import events as ev
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Phase, Policy, Run
from chalicelib.core.resuming import waiting

if TYPE_CHECKING:
    from chalicelib.instances import Instance

_HEARD = (Phase.PREPARING, Phase.READY, Phase.TRAINING)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Watched:
    """A live attempt: its instance, since when it is where it is, and whether its agent must be heard of."""

    number: int
    instance_id: str | None
    since: datetime
    heard: bool


@dataclass(frozen=True)
class Glance:
    """`due` is the run's deadline. `waits`: it goes on when there is money, and there is nothing else to do for it."""

    name: str
    created_at: datetime
    due: datetime
    waits: bool = False
    attempts: tuple[Watched, ...] = ()


def glance(run: Run) -> Glance:
    """The run has something left to do: it has a deadline."""
    assert run.deadline is not None
    tidy = all(a.watchdog_at is None and (a.lease is None or a.lease.settled) for a in run.attempts)
    rests = tidy and not run.live and waiting(run)
    return Glance(run.name, run.created_at, run.deadline, rests, tuple(watched(a) for a in run.live))


def watched(attempt: Attempt) -> Watched:
    since = max(attempt.phase_since, attempt.started_at or attempt.phase_since)
    return Watched(attempt.number, attempt.instance_id, since, attempt.phase in _HEARD)


def to_text(given: Glance) -> str:
    """One attribute of an item: it costs a tenth of a map's time to read, and half of its bytes."""
    attempts = [[a.number, a.instance_id, a.since.isoformat(), int(a.heard)] for a in given.attempts]
    return json.dumps(
        [given.created_at.isoformat(), given.due.isoformat(), int(given.waits), attempts], separators=(",", ":")
    )


def from_text(name: str, text: str | None) -> Glance:
    """What `to_text` made. An item without one, or with one that can't be read, is a run to be looked at now."""
    try:
        created, due, waits, attempts = json.loads(text or "")
        found = tuple(Watched(n, i, datetime.fromisoformat(since), bool(heard)) for n, i, since, heard in attempts)
        return Glance(name, datetime.fromisoformat(created), datetime.fromisoformat(due), bool(waits), found)
    except (ValueError, TypeError):
        return Glance(name, _LONG_AGO, _LONG_AGO)


def happened(
    attempts: Iterable[Watched],
    by_id: Mapping[str, Instance],
    heard: Mapping[int, datetime],
    listening: datetime,
    now: datetime,
    policy: Policy,
) -> Iterator[ev.Event]:
    """What EC2's list and the heartbeats say about a run's live attempts that the run does not know yet. Pure.

    `listening` is since when there has been somebody to hear heartbeats: before that, silence says nothing of an agent.
    """
    for attempt in attempts:
        if attempt.instance_id is None:
            continue
        instance = by_id.get(attempt.instance_id)
        # EC2's list may lag behind a launch by minutes: absence proves an end only some time after it.
        if instance is None:
            if now - attempt.since >= policy.replay_for:
                yield ev.InstanceState(attempt.instance_id, None)
        elif not instance.alive:
            yield ev.InstanceState(attempt.instance_id, instance.state, instance.reason)
        elif attempt.heard:
            last = max(heard.get(attempt.number, attempt.since), attempt.since, listening)
            if now - last >= policy.silence:
                yield ev.Silent(attempt.number)


def should_be_heard(glances: Iterable[Glance], now: datetime, policy: Policy) -> list[tuple[str, int]]:
    """Run and number of each attempt whose last heartbeat must be known: of a younger one silence says nothing yet."""
    return [(g.name, a.number) for g in glances for a in g.attempts if a.heard and now - a.since >= policy.silence]


def oldest_first(glances: Iterable[Glance], now: datetime) -> list[Glance]:
    """What has waited longest for the sweep comes first, so that no pass that ends early forgets the same runs again."""
    return sorted(glances, key=lambda g: (min(g.due, now), g.created_at, g.name))
