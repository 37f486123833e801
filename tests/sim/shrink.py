"""From a month in which an invariant broke to the fewest runs and troubles with which it still breaks, and its story.

A smaller month is another month: it counts when the same invariant breaks in it, whichever run it then is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.sim.plan import Plan, Trouble
from tests.sim.story import InvariantBroken

T = TypeVar("T")
Play = Callable[[Plan], object]

TRIES = 60  # months that are played on the way; most are small, or end early


def shrunk(planned: Plan, broken: InvariantBroken, play: Play) -> InvariantBroken:
    """The same break in the smallest month that was found, to be raised; `play` raises InvariantBroken."""
    search = _Search(planned, broken, play)
    if broken.run:
        search.fails(runs=[broken.run])  # most often it is the run's own
    for _ in range(2):  # what a trouble stood in the way of may be left out without it
        fewest([run.name for run in search.plan.runs], lambda names: search.fails(runs=names))
        fewest(search.plan.troubles, lambda troubles: search.fails(troubles=troubles))
    return search.told(planned)


def fewest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Halves, then smaller parts, are left out as long as what remains still fails (delta debugging)."""
    if items and fails([]):
        return []
    parts = 2
    while len(items) > 1:
        size = -(-len(items) // parts)
        for start in range(0, len(items), size):
            rest = [*items[:start], *items[start + size :]]
            if rest and fails(rest):
                items, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(items))
    return items


class _Search:
    def __init__(self, plan: Plan, broken: InvariantBroken, play: Play) -> None:
        self.plan, self.broken, self._play, self._left = plan, broken, play, TRIES

    def fails(self, runs: Sequence[str] | None = None, troubles: Sequence[Trouble] | None = None) -> bool:
        """Whether it breaks with only these; then that is what the search goes on with."""
        if not self._left:
            return False
        self._left -= 1
        smaller = self.plan
        if runs is not None:
            smaller = replace(smaller, runs=tuple(run for run in smaller.runs if run.name in runs))
        if troubles is not None:
            smaller = replace(smaller, troubles=tuple(troubles))
        try:
            self._play(smaller)
        except InvariantBroken as broken:
            if broken.rule == self.broken.rule:
                self.plan, self.broken = smaller, broken
                return True
        return False

    def told(self, whole: Plan) -> InvariantBroken:
        left = [f"{run.at:%d %b %H:%M:%S}  {run.text()}" for run in self.plan.runs]
        left += [f"{each.at:%d %b %H:%M:%S}  {each.text()}" for each in self.plan.troubles]
        before = f"{len(whole.runs):,} runs and {len(whole.troubles):,} troubles"
        self.broken.add(f"Of {before} of seed {whole.seed} these are enough:\n" + "\n".join(left))
        return self.broken
