"""What came of taking one part of the permissions away."""

from __future__ import annotations

from dataclasses import dataclass

from spotrelay.privileges.decisions import Decision
from spotrelay.privileges.statements import Part


@dataclass(frozen=True)
class Broken:
    """What happened without a part: `refused` is the first call for want of it, `unused` are its actions nobody called."""

    part: Part
    refused: Decision | None
    status: str
    unused: tuple[str, ...]
    seconds: float

    @property
    def idle(self) -> bool:
        """Whether nothing was wrong without it."""
        return self.refused is None and self.status == "SUCCEEDED"
