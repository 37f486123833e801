"""A number that was measured, what it should be, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """`name` is the same for every size of a measurement. `wanted` is the most that it may be, with `least` the least.

    `details` are the samples and counts that `reached` comes from.
    """

    name: str
    what: str
    reached: float
    wanted: float
    least: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.reached >= self.wanted if self.least else self.reached <= self.wanted

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}
