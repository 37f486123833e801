"""A number that was measured, and what it should be at most."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    what: str
    reached: float
    wanted: float

    @property
    def ok(self) -> bool:
        return self.reached <= self.wanted

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}
