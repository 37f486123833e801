"""One whole pass of the sweep, and what it does for a run beside reconciling: ask today's prices, prune checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from chalicelib import housekeeping
from chalicelib.codec import reading
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.core.news import News
from chalicelib.instances import list_instances
from chalicelib.records import Beat
from chalicelib.sweep import Report, sweep

# An account in which nothing of ours is going on is looked at as a whole only so often: an idle minute costs next to nothing.
_IDLE_EVERY = timedelta(minutes=10)


def whole_pass(c: Controller) -> Report:
    """List EC2, then months and storage, the runs, and what is around them. Its errors are in the report."""
    now = c.clock()
    listed = list_instances(c.ec2, c.settings.stage)
    names = list(c.store.live())
    idle = not names and not any(i.costs for i in listed.ours)
    since = c.idle_since
    if idle and since is not None and now - since < _IDLE_EVERY * c.settings.time_scale:
        report = Report(instances=len(listed.ours))
        housekeeping.left_volumes(c, report, now)
        return report
    before = Report()
    housekeeping.before_runs(c, sum(i.costs for i in listed.ours), before, now)
    report = sweep(c.shell, names, listed.ours, Upkeep(c), now)
    report.failed.update(before.failed)
    report.unreadable += before.unreadable
    housekeeping.after_runs(c, listed.others, report, now)
    for error in report.unreadable:
        with report.kept(error.what):
            c.saw(error)
    c.idle_since = now if idle and not report.failed else None
    return report


class Upkeep:
    """One per pass: heartbeats are read once a run."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._beats: dict[str, dict[int, Beat]] = {}

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        return {number: beat.at for number, beat in self._heard(run).items()}

    def priced(self, run: Run) -> ev.Priced | None:
        """None while the prices are fresh, and when EC2 names none: they grow stale, and nothing is launched on them."""
        return None if run.status.ended else self._c.offers_if_old(run)

    def record(self, what: str, news: News, run: Run | None) -> None:
        self._c.acts.record(what, news, self._c.clock(), run)

    def prune(self, run: Run) -> None:
        """Only after a new checkpoint was told of, so that an idle minute lists nothing."""
        since = self._c.clock() - self._c.policy.silence
        if not any(b.checkpoint_at and b.checkpoint_at >= since for b in self._heard(run).values()):
            return
        found = self._c.store.spec(run.name)
        if found:
            with reading(f"RUN#{run.name}", "SPEC"):
                keep = int(found[0]["checkpoint"]["keep"])
            self._c.bucket.prune(run, keep)

    def _heard(self, run: Run) -> dict[int, Beat]:
        if not run.live:
            return {}
        if run.name not in self._beats:
            self._beats[run.name] = self._c.records.beats(run.name)
        return self._beats[run.name]
