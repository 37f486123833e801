"""The bucket in memory: what `bucket.Bucket` asks of S3, and which of the checkpoints there are torn.

Which checkpoints are restorable and which are pruned is the real class' own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from chalicelib.bucket import Bucket
from chalicelib.core.model import Counted, Run
from tests.sim.faults import Faults

_CHECKPOINT = re.compile(r"runs/(?P<run>[^/]+)/checkpoints/(?P<attempt>\d+)/(?P<step>\d+)/")


class SimBucket(Bucket):
    """`pruning(run, attempt, step)` is called before a checkpoint is deleted."""

    def __init__(self, faults: Faults, pruning: Callable[[str, int, int], None]) -> None:
        super().__init__(None, "spot-relay-sim")
        self.steps: dict[
            tuple[str, int], list[int]
        ] = {}  # published and not pruned, by run and attempt, in their order
        self.torn: set[tuple[str, int, int]] = set()  # with a manifest that its bytes differ from
        self._of: dict[str, list[int]] = {}
        self._faults, self._pruning = faults, pruning

    def put(self, run: str, attempt: int, step: int, torn: bool = False) -> None:
        """An agent publishes; what is there already is its own retry."""
        steps = self.steps.setdefault((run, attempt), [])
        if attempt not in self._of.setdefault(run, []):
            self._of[run].append(attempt)
        if step not in steps:
            steps.append(step)
            if torn:
                self.torn.add((run, attempt, step))

    def published(self, run: Run, before: int) -> tuple[Counted, ...]:
        self._faults.read("s3", "ListObjectsV2 published")
        return super().published(run, before)

    def restorable(self, run: Run, most: int = 10) -> list[Counted]:
        self._faults.read("s3", "ListObjectsV2 restorable")
        return super().restorable(run, most)

    def attempts(self, run: str) -> list[int]:
        return sorted(self._of.get(run, []))

    def source(self, run: str) -> None:
        """Nothing is stored."""

    def _steps(self, run: str, attempt: int) -> list[int]:
        return list(self.steps.get((run, attempt), ()))

    def _head(self, key: str) -> dict[str, Any] | None:
        """The manifest: each checkpoint here has one."""
        run, attempt, step = _parsed(key)
        return {"ContentLength": 1} if step in self.steps.get((run, attempt), ()) else None

    def _delete(self, run: str, attempt: int, steps: list[int]) -> None:
        for step in steps:
            self._pruning(run, attempt, step)
            self.steps[run, attempt].remove(step)


def _parsed(key: str) -> tuple[str, int, int]:
    found = _CHECKPOINT.match(key)
    assert found, key
    return found["run"], int(found["attempt"]), int(found["step"])
