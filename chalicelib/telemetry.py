"""What the controller says of itself: log lines that name run, attempt and instance, and metrics inside the log (EMF).

CloudWatch reads the metrics out of the log by itself. A custom metric is charged for the hours in which it has a value, so
nothing is said of a zero. It never decides or raises anything on its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from chalicelib.core.figures import Name, figures
from chalicelib.core.model import Attempt, Policy, Run

if TYPE_CHECKING:
    from chalicelib.sweep import Report

logger = Logger(service="spot-relay")
NAMESPACE = "SpotRelay"


class Telemetry:
    """One per Lambda environment. Implements `shell.Observer`."""

    def __init__(self, stage: str, policy: Policy) -> None:
        self._stage, self._policy = stage, policy

    def concerns(self, run: str) -> None:
        """Every line from here to the end of the invocation is about this run."""
        logger.append_keys(run=run)

    def changed(self, before: Run, after: Run, now: datetime) -> None:
        """A change was saved: a line for each attempt that moved on, or one for the run; and what there is to count."""
        moved = [a for a in after.attempts if _place(a) != _place(before.attempt(a.number))]
        for attempt in moved:
            logger.info("attempt", extra=about(after, attempt))
        if not moved and (before.status, before.reason) != (after.status, after.reason):
            logger.info("run", extra=about(after))
        for figure in figures(before, after, now, self._policy):
            self.count(figure.name, figure.value, **about(after, figure.attempt))

    def refused(self, run: Run, which: str) -> None:
        """The money of the `month` or of the `run` did not cover a lease."""
        keys = {**about(run, run.newest), "limit": which}
        logger.warning("lease refused", extra=keys)
        self.count(Name.LEASES_REFUSED, 1, **keys)

    def swept(self, report: Report) -> None:
        """A pass of the sweep is over: the strays it ended, and each part that failed with the run or instance of it."""
        if report.strays:
            logger.warning("strays ended", extra={"instances": report.strays})
            self.count(Name.STRAYS_ENDED, len(report.strays), instances=report.strays)
        for part, why in report.failed.items():
            logger.error("a part of the sweep failed", extra={"part": part, "error": why, **report.about.get(part, {})})

    def count(self, name: Name, value: float, **keys: Any) -> None:
        """A metric of the stage; `keys` go beside it into the log, where they cost nothing."""
        if not value:
            return
        # 40 ms of imports that a relaunch does not have to wait for.
        from aws_lambda_powertools.metrics import MetricUnit, single_metric

        unit = MetricUnit(name.unit)
        with single_metric(
            name=name, unit=unit, value=value, namespace=NAMESPACE, default_dimensions={"stage": self._stage}
        ) as metric:
            for key, said in keys.items():
                if said is not None:
                    metric.add_metadata(key=key, value=said)


def about(run: Run, attempt: Attempt | None = None) -> dict[str, Any]:
    """The keys of a line that concerns a run, or one of its attempts."""
    keys: dict[str, Any] = {"run": run.name, "status": run.status.value, "reason": run.reason.value}
    if attempt is not None:
        keys |= {"attempt": attempt.number, "instance_id": attempt.instance_id, "phase": attempt.phase.value}
        keys |= {"ended_by": attempt.ended_by.value if attempt.ended_by else None}
    return keys


def _place(attempt: Attempt | None) -> tuple[Any, ...]:
    return (attempt.phase, attempt.instance_id, attempt.ended_by, attempt.drain) if attempt else ()
