"""The scheduled pass: whatever an event should have done and did not, the sweep does.

EC2 is listed first. Runs that are well by their glance and their last heartbeat cost no call of their own; each other one is
read consistently, and looked after: deadlines, launches without an answer, instances gone or silent. What has waited longest
comes first; many are handed over in slices, and so is what a pass has no time for. Last come instances of ours that no run
accounts for. An instance is ended only after a consistent read of its run.
One run that cannot be read or saved never keeps the others waiting: the pass goes on and raises at its end. What can't be read
is no failure of the pass, which would go on failing until a person has mended it: it is told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from chalicelib.codec import Unreadable
from chalicelib.core import events as ev
from chalicelib.core.model import Run, Status
from chalicelib.core.news import Kind, News
from chalicelib.core.resuming import waiting
from chalicelib.glances import Glance, happened, oldest_first, should_be_heard, watched
from chalicelib.instances import Instance
from chalicelib.shell import Shell

SLICE = 50  # runs that one invocation looks after: with a launch each, a minute's work


class Around(Protocol):
    """What the sweep needs to know and do beside a run; `chalicelib.upkeep.Upkeep` is the real one.

    `listening` is since when the controller has been there, without a gap, to hear heartbeats.
    """

    listening: datetime

    def glimpse(self, attempts: list[tuple[str, int]]) -> Mapping[tuple[str, int], datetime]:
        """When each of these attempts (run, number) was last heard of, in few calls; a glance, too."""

    def untidy(self, glance: Glance) -> bool:
        """Whether one of the attempts whose heartbeats were just read has told of a checkpoint since the last pruning."""

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        """When each attempt was last heard of, read consistently."""

    def priced(self, run: Run) -> ev.Priced | None:
        """Today's prices, when those the run would launch with have grown old."""

    def prune(self, run: Run) -> None:
        """Delete checkpoints that newer whole ones have made needless."""

    def record(self, what: str, news: News, run: Run | None) -> None:
        """Write down, once, what is about to be done to an instance."""

    def in_time(self) -> bool:
        """Whether there is time for one more run."""

    def hand_over(self, runs: list[Glance]) -> bool:
        """Have these runs looked after by another invocation; False when there is nobody to do it."""


class SweepFailed(Exception):
    """Some runs could not be looked after; the message names them and why."""


@dataclass
class Report:
    """What one pass found and did. `looked_after` counts runs that were read, `handed_over` those that others will read.

    `waiting` are runs that go on when there is money, with when they were created; `late` counts what the next pass must do;
    `about` has the log's keys of what has failed.
    """

    runs: int = 0
    instances: int = 0
    looked_after: int = 0
    handed_over: int = 0
    late: int = 0
    strays: list[str] = field(default_factory=list)
    waiting: dict[str, datetime] = field(default_factory=dict)
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


def sweep(shell: Shell, glances: Iterable[Glance], instances: list[Instance], around: Around, now: datetime) -> Report:
    """One pass over the runs of these glances and our instances. What failed is in the report."""
    seen = list(glances)
    report = Report(runs=len(seen), instances=len(instances))
    by_id = {i.instance_id: i for i in instances}
    report.waiting = {g.name: g.created_at for g in seen if g.waits}
    heard: Mapping[tuple[str, int], datetime] = {}  # where they can't be read, every run is looked at
    with report.kept("heartbeats"):
        heard = around.glimpse(should_be_heard(seen, now, shell.policy))
    todo = oldest_first((g for g in seen if _needs_a_look(g, by_id, heard, around, now, shell)), now)
    mine, others = todo[:SLICE], todo[SLICE:]
    # Others begin while this one works: in a storm each run's launch is a second or two.
    mine += hand_over(others, around, report)
    look_after(shell, mine, by_id, around, now, report)
    known = {a.instance_id for g in seen for a in g.attempts}
    unknown = [i for i in instances if i.costs and not i.protected and i.instance_id not in known]
    _account_for_all(shell, unknown, around, report, now)
    return report


def look_after(
    shell: Shell,
    runs: list[Glance],
    by_id: Mapping[str, Instance],
    around: Around,
    now: datetime,
    report: Report,
) -> None:
    """Each in turn, while there is time; the rest is handed over, or waits for the next pass."""
    for n, seen in enumerate(runs):
        if n and not around.in_time():
            report.late += len(hand_over(runs[n:], around, report))
            return
        report.looked_after += 1
        with report.kept(seen.name, run=seen.name):
            _look_after(shell, seen.name, by_id, around, now, report)


def hand_over(runs: list[Glance], around: Around, report: Report) -> list[Glance]:
    """Give slices of these runs away; what nobody takes comes back."""
    left: list[Glance] = []
    for start in range(0, len(runs), SLICE):
        part = runs[start : start + SLICE]
        taken = False
        with report.kept("slices"):
            taken = around.hand_over(part)
        if taken:
            report.handed_over += len(part)
        else:
            left += part
    return left


def _needs_a_look(
    seen: Glance,
    by_id: Mapping[str, Instance],
    heard: Mapping[tuple[str, int], datetime],
    around: Around,
    now: datetime,
    shell: Shell,
) -> bool:
    if seen.waits:
        return False  # its turn comes when there is money: `housekeeping.resume`
    if seen.due <= now or around.untidy(seen):
        return True
    beats = {a.number: heard[seen.name, a.number] for a in seen.attempts if (seen.name, a.number) in heard}
    return any(True for _ in happened(seen.attempts, by_id, beats, around.listening, now, shell.policy))


def _look_after(
    shell: Shell, name: str, by_id: Mapping[str, Instance], around: Around, now: datetime, report: Report
) -> None:
    run = shell.store.load(name)
    if run is None:
        return
    if waiting(run):
        report.waiting[name] = run.created_at
    else:
        priced = around.priced(run)
        if priced:
            run = shell.tell(name, priced) or run
    live = [watched(a) for a in run.live]
    beats = around.last_beats(run) if any(a.heard for a in live) else {}
    for event in happened(live, by_id, beats, around.listening, now, shell.policy):
        shell.tell(name, event)
    # A queued run that waits for money is launched in its turn, with the others that wait: none passes an older one.
    in_turn = run.status is Status.QUEUED and waiting(run)
    if run.deadline is not None and run.deadline <= now and not in_turn:
        shell.tell(name, ev.Tick())
    around.prune(run)
    if run.untidy:
        shell.tell(name, ev.Tidied())


def _account_for_all(shell: Shell, instances: list[Instance], around: Around, report: Report, now: datetime) -> None:
    for start in range(0, len(instances), 100):
        part = instances[start : start + 100]
        with report.kept("strays"):
            runs = _runs_of(shell, part)
            for n, instance in enumerate(part, start):
                if n and not around.in_time():
                    report.late += len(instances) - n
                    return
                with report.kept(instance.instance_id, run=instance.run, instance_id=instance.instance_id):
                    _account_for(shell, instance, runs, around, report, now)


def _runs_of(shell: Shell, instances: list[Instance]) -> Callable[[str], Run | None]:
    """The runs that these instances' tags name: read in few calls."""
    found = shell.store.load_many(i.run for i in instances if i.run)
    # One that can't be read is not one that is not there: asked for by itself it raises, and its instance is let be.
    return lambda name: found.get(name) or shell.store.load(name)


def _account_for(
    shell: Shell,
    instance: Instance,
    runs: Callable[[str], Run | None],
    around: Around,
    report: Report,
    now: datetime,
) -> None:
    """End an instance that no live attempt accounts for; adopt one that was launched and not recorded (I2)."""
    run = runs(instance.run) if instance.run else None
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
