"""What is kept beside runs in memory: heartbeats, and the acts of the sweep.

An agent that lives and reaches a controller that is there beats every half minute; only one in ten of those beats is played,
so when it was last heard of is worked out by the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from chalicelib.core.model import Run
from chalicelib.core.news import News
from chalicelib.records import Beat, Glimpse

Heard = Callable[[str, int, datetime], datetime]


class SimRecords:
    """`heard_at(run, attempt, played)`: when the attempt was last heard of, `played` being the last beat that was played."""

    def __init__(self, heard_at: Heard) -> None:
        self._heard_at = heard_at
        self._beats: dict[str, dict[int, Beat]] = {}

    def heard(self, run: str, beat: Beat) -> None:
        self._beats.setdefault(run, {})[beat.attempt] = beat

    def beats(self, run: str) -> dict[int, Beat]:
        found = self._beats.get(run, {})
        return {n: replace(beat, at=self._heard_at(run, n, beat.at)) for n, beat in found.items()}

    def heard_of(self, attempts: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Glimpse]:
        found = {}
        for run, number in attempts:
            beat = self._beats.get(run, {}).get(number)
            if beat is not None:
                found[run, number] = Glimpse(self._heard_at(run, number, beat.at), beat.checkpoint_at)
        return found

    def left(self, *told: Any) -> None:
        """Results are not kept."""


class SimActs:
    """`recorded` are the names of what the sweep has written down before it did it."""

    def __init__(self) -> None:
        self.recorded: dict[str, News] = {}

    def record(self, what: str, news: News, now: datetime, run: Run | None = None) -> bool:
        first = what not in self.recorded
        self.recorded.setdefault(what, news)
        return first
