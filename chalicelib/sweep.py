"""The scheduled pass: whatever an event should have done and did not, the sweep does.

It lists EC2 first, then looks at each run with something left to do: deadlines, launches without an answer, instances gone
or silent; last, instances of ours that no run accounts for. An instance is ended only after a consistent read of its run.
One run that cannot be read or saved never keeps the others waiting: the pass goes on and raises at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from chalicelib.core import events as ev
from chalicelib.core.model import Attempt, Phase, Policy, Run
from chalicelib.shell import Shell

_HEARD = (Phase.PREPARING, Phase.READY, Phase.TRAINING)


@dataclass(frozen=True)
class Instance:
    """An instance of this stage as EC2 lists it."""

    instance_id: str
    state: str
    run: str
    attempt: int
    launched_at: datetime
    protected: bool = False
    reason: str = ""


class Around(Protocol):
    """What the sweep needs to know and do beside a run; `chalicelib.upkeep.Upkeep` is the real one."""

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        """When each attempt was last heard of."""

    def priced(self, run: Run) -> ev.Priced | None:
        """Today's prices, when those the run would launch with have grown old."""

    def prune(self, run: Run) -> None:
        """Delete checkpoints that newer whole ones have made needless."""


class SweepFailed(Exception):
    """Some runs could not be looked after; the message names them and why."""


@dataclass
class Report:
    """What one pass found and did."""

    runs: int = 0
    instances: int = 0
    strays: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def sweep(shell: Shell, instances: list[Instance], around: Around, now: datetime) -> Report:
    """One pass. Raises SweepFailed after everything else was done."""
    report = Report(instances=len(instances))
    by_id = {i.instance_id: i for i in instances}
    for name in shell.store.live():
        report.runs += 1
        with _kept(report, name):
            _look_after(shell, name, by_id, around, now)
    for instance in instances:
        if instance.state in ("pending", "running") and not instance.protected:
            with _kept(report, instance.instance_id):
                _account_for(shell, instance, report, now)
    if report.failed:
        raise SweepFailed("; ".join(f"{what}: {why}" for what, why in report.failed.items()))
    return report


class _kept:
    """Keep an error for the end of the pass."""

    def __init__(self, report: Report, what: str) -> None:
        self._report, self._what = report, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self._report.failed[self._what] = f"{type(error).__name__}: {error}"
            return True
        return False


def _look_after(shell: Shell, name: str, by_id: Mapping[str, Instance], around: Around, now: datetime) -> None:
    run = shell.store.load(name)
    if run is None:
        return
    priced = around.priced(run)
    if priced:
        shell.tell(name, priced)
    for event in happened(run, by_id, around.last_beats(run) if _should_be_heard(run) else {}, now, shell.policy):
        shell.tell(name, event)
    if run.deadline is not None and run.deadline <= now:
        shell.tell(name, ev.Tick())
    around.prune(run)


def _should_be_heard(run: Run) -> bool:
    return any(a.phase in _HEARD for a in run.live)


def happened(
    run: Run, by_id: Mapping[str, Instance], heard: Mapping[int, datetime], now: datetime, policy: Policy
) -> Iterator[ev.Event]:
    """What EC2's list and the heartbeats say about the run that the run does not know yet. Pure."""
    for attempt in run.live:
        if attempt.instance_id is None:
            continue
        instance = by_id.get(attempt.instance_id)
        # EC2's list may lag behind a launch by minutes: absence proves an end only some time after it.
        if instance is None:
            if now - _since(attempt) >= policy.replay_for:
                yield ev.InstanceState(attempt.instance_id, None)
        elif instance.state not in ("pending", "running"):
            yield ev.InstanceState(attempt.instance_id, instance.state, instance.reason)
        elif (
            attempt.phase in _HEARD
            and now - max(heard.get(attempt.number, _since(attempt)), _since(attempt)) >= policy.silence
        ):
            yield ev.Silent(attempt.number)


def _since(attempt: Attempt) -> datetime:
    return max(attempt.phase_since, attempt.started_at or attempt.phase_since)


def _account_for(shell: Shell, instance: Instance, report: Report, now: datetime) -> None:
    """End an instance that no live attempt accounts for; adopt one that was launched and not recorded (I2)."""
    run = shell.store.load(instance.run)
    attempt = run.attempt(instance.attempt) if run else None
    if run and attempt and attempt.live:
        if attempt.instance_id == instance.instance_id:
            return
        if attempt.instance_id is None:
            shell.tell(run.name, ev.Tick())  # replays the launch or finds the instance by its tags: either adopts it
            return
    if run is None and now - instance.launched_at < timedelta(minutes=1):
        return
    report.strays.append(instance.instance_id)
    shell.ec2.end(instance.instance_id)


def list_instances(ec2: Any, stage: str) -> list[Instance]:
    """Every instance of the stage that EC2 still lists, ended ones included while EC2 describes them."""
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[{"Name": "tag:spot-relay:stage", "Values": [stage]}], PaginationConfig={"PageSize": 1000}
    )
    found = []
    for page in pages:
        for reservation in page["Reservations"]:
            for described in reservation["Instances"]:
                tags = {t["Key"]: t["Value"] for t in described.get("Tags", [])}
                number = tags.get("spot-relay:attempt", "")
                found.append(
                    Instance(
                        instance_id=described["InstanceId"],
                        state=described["State"]["Name"],
                        run=tags.get("spot-relay:run", ""),
                        attempt=int(number) if number.isdigit() else 0,
                        launched_at=described["LaunchTime"],
                        protected="spot-relay:protect" in tags,
                        reason=described.get("StateReason", {}).get("Code", ""),
                    )
                )
    return found
