"""I1, I4 and I5: who has the baton, what counts, and what is restored, against what was really published by whom and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chalicelib.core.model import Run
from tests.sim.agent import SAVE_EVERY, Agent

if TYPE_CHECKING:
    from tests.sim.invariants import Invariants


class Baton:
    def __init__(self, invariants: Invariants) -> None:
        self.world, self.fail = invariants.world, invariants.fail
        self.restores = self.steps_lost = 0
        self._counts: dict[tuple[str, int], frozenset[int]] = {}  # steps published before the baton passed the attempt

    def saved(self, before: Run, after: Run) -> None:
        name = after.name
        if before.baton == after.baton:
            if before.counted != after.counted:
                self.fail("I1", name, f"what counts was changed from {before.counted} to {after.counted}")
            return
        if after.baton is None or (before.baton or 0) > after.baton:
            self.fail("I1", name, f"the baton went from {before.baton} back to {after.baton}")
        fixed = {c.attempt: c.step for c in before.counted}
        for number in range(1, after.baton):
            step = next((c.step for c in after.counted if c.attempt == number), None)
            if number in fixed:
                if step != fixed[number]:
                    self.fail("I1", name, f"step {fixed[number]} of attempt {number} counted; now it is {step}")
                continue
            steps = frozenset(self.world.bucket.steps.get((name, number), ()))
            self._counts[name, number] = steps
            if step != max(steps, default=-1):
                self.fail(
                    "I5",
                    name,
                    f"of attempt {number}, which published {sorted(steps)}, step {step} is the last to count",
                )
        self._i5_holder_has_had_its_say(before, after)

    def _i5_holder_has_had_its_say(self, before: Run, after: Run) -> None:
        """The baton moves while its holder still trains only when its notice is over."""
        now, holder = self.world.now, self.world.by_attempt.get((after.name, before.baton or 0))
        if holder is None or not holder.alive or holder.final or (holder.leaving and not holder.training):
            return
        notice = holder.instance.notice_ends_at
        if notice is None or now < notice + self.world.policy.after_notice:
            self.fail(
                "I5", after.name, f"attempt {after.baton} took the baton while attempt {before.baton} could still save"
            )

    def claimed(self, agent: Agent, answer: dict[str, Any]) -> None:
        """What is offered for restoring: exactly what counts and is not known to be torn, the newest first."""
        if answer["action"] != "restore":
            return
        name, number = agent.name
        run = self.world.store.saved[name]
        if run.baton != number:
            self.fail("I1", name, f"attempt {number} is told to restore, and attempt {run.baton} has the baton")
        offered = [
            (c["attempt"], c["step"])
            for c in [*([answer["checkpoint"]] if answer["checkpoint"] else []), *answer["older"]]
        ]
        for each in offered:
            if each[1] not in self._counts.get((name, each[0]), ()):
                self.fail(
                    "I1", name, f"step {each[1]} of attempt {each[0]} is offered, and was published after it counted"
                )
        torn = {(t["attempt"], t["step"]) for t in agent.torn}
        there = self._there(name, number)[:10]
        if offered != [each for each in there if each not in torn]:
            self.fail("I5", name, f"{offered} are offered where {there} count and {sorted(torn)} are torn")

    def restored(self, agent: Agent, found: dict[str, int] | None) -> None:
        name, number = agent.name
        taken = (found["attempt"], found["step"]) if found else None
        whole = [each for each in self._there(name, number) if (name, *each) not in self.world.bucket.torn]
        if taken != (whole[0] if whole else None):
            self.fail("I4" if taken not in whole else "I5", name, f"{taken} is restored where {whole[:3]} are whole")
        before = max(
            (n for n in range(1, number) if (a := self.world.by_attempt.get((name, n))) and a.began), default=None
        )
        if before is None:
            return
        self.restores += 1
        holder = self.world.by_attempt[name, before]
        lost = max(0, holder.step() - (taken[1] if taken else 0))
        self.steps_lost += lost
        if any(run == name for run, _, _ in self.world.bucket.torn):
            return
        if holder.final and lost:
            self.fail("I5", name, f"attempt {before} said its last word, and {lost} of its steps are lost")
        healthy = holder.cut_at is None and holder.dead_at is None
        if healthy and lost > SAVE_EVERY.total_seconds() + 60:
            self.fail("I5", name, f"{lost} steps of attempt {before} are lost, more than between two checkpoints")

    def pruning(self, name: str, attempt: int, step: int) -> None:
        """I5: what could be restored stays, as many as the spec keeps."""
        baton = self.world.store.saved[name].baton or 0
        newest = self._there(name, baton + 1)
        if (attempt, step) in newest[: self.world.store.specs[name][0]["checkpoint"]["keep"]]:
            self.fail("I5", name, f"step {step} of attempt {attempt} is deleted, one of the newest: {newest}")

    def _there(self, name: str, number: int) -> list[tuple[int, int]]:
        """(attempt, step) of all that counts for this attempt and was not pruned, newest first."""
        found = []
        for n in range(number - 1, 0, -1):
            kept = self.world.bucket.steps.get((name, n), ())
            found += [(n, step) for step in sorted(self._counts.get((name, n), kept), reverse=True) if step in kept]
        return found
