"""Time for the agent: one object that is passed in, so that tests need no waiting and a rehearsal can be short.

Durations that the agent chooses itself (polls, margins, bounds) go through `scaled`; what the controller says (lease,
heartbeat, when to ask again, how long to linger) is real seconds and is never scaled.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime


class Clock:
    """Wall clock (UTC), monotonic clock (seconds) and sleep. `scale` shortens durations in a rehearsal."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    @classmethod
    def from_environment(cls) -> Clock:
        try:
            scale = float(os.environ.get("SPOT_RELAY_TIME_SCALE") or 1)
        except ValueError:
            scale = 1.0
        return cls(scale if scale > 0 else 1.0)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep real seconds; callers scale."""
        time.sleep(max(0.0, seconds))

    def scaled(self, seconds: float, least: float = 0.0) -> float:
        return max(seconds * self.scale, least)
