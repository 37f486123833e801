"""What came of one scenario, and how the report says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spotrelay.rehearsal.watch import Watch


@dataclass
class Outcome:
    """`run` and `ledger` are the API's views. `problems` is empty when all is proven.

    `months` is what the run settled in each calendar month (yyyy-mm), `billed_usd` what its instances cost by the host's
    own record; None: not worked out.
    """

    scenario: str
    run: dict[str, Any]
    watch: Watch
    published: list[int]
    time_scale: float
    problems: list[str] = field(default_factory=list)
    steps_lost: int = 0
    downtime_s: float = 0.0
    relaunch_calls: int | None = None
    ledger: dict[str, Any] = field(default_factory=dict)
    months: dict[str, str] = field(default_factory=dict)
    billed_usd: str | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        attempts = [
            {
                "attempt": a["attempt"],
                "instance_id": a["instance_id"],
                "pool": a["pool"],
                "from_step": a["from_step"],
                "to_step": self.watch.last(a["attempt"]) or a["step"],
                "ended_by": a["ended_by"],
            }
            for a in self.run["attempts"]
        ]
        return {
            "run": self.run["name"],
            "scenario": self.scenario,
            "status": self.run["status"],
            "attempts": attempts,
            "steps_lost": self.steps_lost,
            "downtime_s": self.downtime_s,
            "relaunch_calls": self.relaunch_calls,
            "cost_usd": self.run["cost_usd"],
            "billed_usd": self.billed_usd,
            "months_usd": self.months,
            "time_scale": self.time_scale,
            "seconds": self.seconds,
            "problems": self.problems,
        }
