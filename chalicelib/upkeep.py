"""One whole pass of the sweep, or one slice of it; and what is done for a run beside reconciling: today's prices, pruning."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from chalicelib import housekeeping
from chalicelib.codec import reading
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.core.news import News
from chalicelib.glances import Glance, watched
from chalicelib.instances import list_instances
from chalicelib.records import Beat, Glimpse
from chalicelib.slices import Others, Slice
from chalicelib.sweep import SLICE, Report, hand_over, look_after, sweep

# An account in which nothing of ours is going on is looked at as a whole only so often: an idle minute costs next to nothing.
_IDLE_EVERY = timedelta(minutes=10)
# Looking for checkpoints to delete costs S3's dearest requests; what is kept a little longer costs nothing beside them.
_PRUNE_EVERY = timedelta(minutes=10)


def whole_pass(c: Controller, others: Others | None = None) -> Report:
    """List EC2, then months and storage, the runs, and what is around them. Its errors are in the report.

    `others` are the invocations that take what is too much for this one; without them it takes all the time it needs.
    """
    now = c.clock()
    listening = listening_since(c, now)
    listed = list_instances(c.ec2, c.settings.stage)
    seen = list(c.store.glances())
    idle = not seen and not any(i.costs for i in listed.ours)
    since = c.idle_since
    if idle and since is not None and now - since < _IDLE_EVERY * c.settings.time_scale:
        report = Report(instances=len(listed.ours))
        housekeeping.left_volumes(c, report, now)
        return report
    before = Report()
    housekeeping.before_runs(c, sum(i.costs for i in listed.ours), before, now)
    around = Upkeep(c, now, listening, others)
    report = sweep(c.shell, seen, listed.ours, around, now)
    report.failed.update(before.failed)
    report.unreadable += before.unreadable
    housekeeping.after_runs(c, listed.others, report, now, around.in_time)
    _told(c, report)
    c.idle_since = now if idle and not report.failed else None
    return report


def listening_since(c: Controller, now: datetime) -> datetime:
    """Since when passes have come without a gap, as far as this process knows; called once a pass.

    Where there was no pass there was perhaps nobody to hear agents either: after an outage those that live are heard within
    half a minute, and a pass that comes sooner would end all of them. A process that is new waits a little with silence, too.
    """
    if c.passed_at is None or now - c.passed_at >= c.policy.silence:
        c.listening_since = now
    c.passed_at = now
    return c.listening_since or now


def one_slice(c: Controller, given: Slice, others: Others | None = None) -> Report:
    """Look after the runs that a pass has handed over, unless a later pass has them again. Its errors are in the report."""
    now, report = c.clock(), Report()
    # Half of the time after which EC2's silence about an instance proves anything: what was launched since then is young.
    if now - given.at >= c.policy.replay_for / 2:
        report.late = len(given.runs)
        return report
    report.runs = len(given.runs)
    ids = [a.instance_id for g in given.runs for a in g.attempts if a.instance_id]
    instances = list_instances(c.ec2, c.settings.stage, ids).ours if ids else []
    report.instances = len(instances)
    by_id = {i.instance_id: i for i in instances}
    around = Upkeep(c, given.at, given.listening, others)
    runs = given.runs[:SLICE] + hand_over(given.runs[SLICE:], around, report)
    look_after(c.shell, runs, by_id, around, now, report)
    _told(c, report)
    return report


def _told(c: Controller, report: Report) -> None:
    for error in report.unreadable:
        with report.kept(error.what):
            c.saw(error)


class Upkeep:
    """One per pass: heartbeats are read once a run."""

    def __init__(self, c: Controller, began: datetime, listening: datetime, others: Others | None = None) -> None:
        """`began` is when the pass began that this is, or that this is a slice of."""
        self._c, self._began, self.listening, self._others = c, began, listening, others
        self._beats: dict[str, dict[int, Beat]] = {}
        self._glimpsed: dict[tuple[str, int], Glimpse] = {}

    def glimpse(self, attempts: list[tuple[str, int]]) -> Mapping[tuple[str, int], datetime]:
        self._glimpsed = self._c.records.heard_of(attempts)
        return {attempt: glimpse.at for attempt, glimpse in self._glimpsed.items()}

    def untidy(self, glance: Glance) -> bool:
        glimpsed = (self._glimpsed.get((glance.name, a.number)) for a in glance.attempts)
        leaves = not any(a.heard for a in glance.attempts)
        return self._unpruned(glance.name, [g.checkpoint_at for g in glimpsed if g], leaves) is not None

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        return {number: beat.at for number, beat in self._heard_of(run).items()}

    def priced(self, run: Run) -> ev.Priced | None:
        """None while the prices are fresh, and when EC2 names none: they grow stale, and nothing is launched on them."""
        return None if run.status.ended else self._c.offers_if_old(run)

    def record(self, what: str, news: News, run: Run | None) -> None:
        self._c.acts.record(what, news, self._c.clock(), run)

    def prune(self, run: Run) -> None:
        """Only after a new checkpoint was told of, so that an idle minute lists nothing: every ten minutes, when the last agent
        leaves, and once more when the run has ended, which may all have come between two passes.
        """
        leaves = not any(watched(a).heard for a in run.live)
        told_at = self._unpruned(run.name, [beat.checkpoint_at for beat in self._heard_of(run).values()], leaves)
        if told_at is None and not run.untidy:
            return
        found = self._c.store.spec(run.name)
        if found:
            with reading(f"RUN#{run.name}", "SPEC"):
                keep = int(found[0]["checkpoint"]["keep"])
            self._c.bucket.prune(run, keep)
            if told_at is not None:
                self._c.pruned[run.name] = told_at, self._c.clock()
            else:
                self._c.pruned.pop(run.name, None)

    def in_time(self) -> bool:
        return self._others is None or self._others.in_time()

    def hand_over(self, runs: list[Glance]) -> bool:
        if self._others is None:
            return False
        self._others.take(Slice(self._began, self.listening, runs))
        return True

    def _unpruned(self, name: str, told: list[datetime | None], leaves: bool) -> datetime | None:
        """When a checkpoint was last told of, if that was lately and this process has not pruned since, nor a moment ago."""
        now, every = self._c.clock(), _PRUNE_EVERY * self._c.settings.time_scale
        newest = max((at for at in told if at), default=None)
        if newest is None or newest < now - every - self._c.policy.silence:
            return None
        seen, at = self._c.pruned.get(name, (None, None))
        too_soon = at is not None and now - at < every and not leaves
        return None if too_soon or seen == newest else newest

    def _heard_of(self, run: Run) -> dict[int, Beat]:
        if not run.live:
            return {}
        if run.name not in self._beats:
            self._beats[run.name] = self._c.records.beats(run.name)
        return self._beats[run.name]
