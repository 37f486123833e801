"""The scheduled pass: whatever an event should have done and did not, the sweep does.

EC2 is listed first, then it looks at each run with something left to do: deadlines, launches without an answer, instances gone
or silent; last, instances of ours that no run accounts for. An instance is ended only after a consistent read of its run.
One run that cannot be read or saved never keeps the others waiting: the pass goes on and raises at its end. What can't be read
is no failure of the pass, which would go on failing until a person has mended it: it is told apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from chalicelib.codec import Unreadable
from chalicelib.core import events as ev
from chalicelib.core.model import Attempt, Phase, Policy, Run, Status
from chalicelib.core.news import Kind, News
from chalicelib.core.resuming import waiting
from chalicelib.instances import Instance
from chalicelib.shell import Shell

_HEARD = (Phase.PREPARING, Phase.READY, Phase.TRAINING)


class Around(Protocol):
    """What the sweep needs to know and do beside a run; `chalicelib.upkeep.Upkeep` is the real one."""

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        """When each attempt was last heard of."""

    def priced(self, run: Run) -> ev.Priced | None:
        """Today's prices, when those the run would launch with have grown old."""

    def prune(self, run: Run) -> None:
        """Delete checkpoints that newer whole ones have made needless."""

    def record(self, what: str, news: News, run: Run | None) -> None:
        """Write down, once, what is about to be done to an instance."""


class SweepFailed(Exception):
    """Some runs could not be looked after; the message names them and why."""


@dataclass
class Report:
    """What one pass found and did. `waiting` are runs that go on when there is money; `about` has the log's keys of what
    has failed."""

    runs: int = 0
    instances: int = 0
    strays: list[str] = field(default_factory=list)
    waiting: list[Run] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)

    def kept(self, what: str, **about: str) -> _Kept:
        """Keep an error of this part for the end of the pass; `about` names the run or the instance it concerns."""
        return _Kept(self, what, about)

    def check(self) -> None:
        """Raises SweepFailed when a part of the pass has failed."""
        if self.failed:
            raise SweepFailed("; ".join(f"{what}: {why}" for what, why in self.failed.items()))


class _Kept:
    def __init__(self, report: Report, what: str, about: dict[str, str]) -> None:
        self._report, self._what, self._about = report, what, about

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Unreadable):
            self._report.unreadable.append(error)
            return True
        if isinstance(error, Exception):
            self._report.about[self._what] = self._about
            self._report.failed[self._what] = f"{type(error).__name__}: {error}"
            return True
        return False


def sweep(shell: Shell, names: Iterable[str], instances: list[Instance], around: Around, now: datetime) -> Report:
    """One pass over the runs of these names and our instances. What failed is in the report."""
    report = Report(instances=len(instances))
    by_id = {i.instance_id: i for i in instances}
    for name in names:
        report.runs += 1
        with report.kept(name, run=name):
            _look_after(shell, name, by_id, around, now, report)
    for instance in instances:
        if instance.costs and not instance.protected:
            with report.kept(instance.instance_id, run=instance.run, instance_id=instance.instance_id):
                _account_for(shell, instance, around, report, now)
    return report


def _look_after(
    shell: Shell, name: str, by_id: Mapping[str, Instance], around: Around, now: datetime, report: Report
) -> None:
    run = shell.store.load(name)
    if run is None:
        return
    if waiting(run):
        report.waiting.append(run)
    else:
        priced = around.priced(run)
        if priced:
            run = shell.tell(name, priced) or run
    for event in happened(run, by_id, around.last_beats(run) if _should_be_heard(run) else {}, now, shell.policy):
        shell.tell(name, event)
    # A queued run that waits for money is launched in its turn, with the others that wait: none passes an older one.
    in_turn = run.status is Status.QUEUED and waiting(run)
    if run.deadline is not None and run.deadline <= now and not in_turn:
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
        elif not instance.alive:
            yield ev.InstanceState(attempt.instance_id, instance.state, instance.reason)
        elif (
            attempt.phase in _HEARD
            and now - max(heard.get(attempt.number, _since(attempt)), _since(attempt)) >= policy.silence
        ):
            yield ev.Silent(attempt.number)


def _since(attempt: Attempt) -> datetime:
    return max(attempt.phase_since, attempt.started_at or attempt.phase_since)


def _account_for(shell: Shell, instance: Instance, around: Around, report: Report, now: datetime) -> None:
    """End an instance that no live attempt accounts for; adopt one that was launched and not recorded (I2)."""
    run = shell.store.load(instance.run) if instance.run else None
    attempt = run.attempt(instance.attempt) if run else None
    if run and attempt and attempt.live:
        if attempt.instance_id == instance.instance_id:
            return
        if attempt.instance_id is None:
            shell.tell(run.name, ev.Tick())  # replays the launch or finds the instance by its tags: either adopts it
            return
    if run is None and now - instance.launched_at < shell.policy.young:
        return
    why = f"its run {instance.run!r} is not known" if run is None else f"no live attempt of {instance.run} has it"
    message = f"The instance {instance.instance_id} is ended: {why}."
    around.record(instance.instance_id, News(Kind.ENDED, "Spot Relay: a stray is ended", message, instance.run), run)
    report.strays.append(instance.instance_id)
    shell.ec2.end(instance.instance_id)
