"""What the sweep does beside reconciling: ask today's prices anew, and prune checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.pools import PriceUnknown
from chalicelib.records import Beat


class Upkeep:
    """One per pass: heartbeats are read once a run."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._beats: dict[str, dict[int, Beat]] = {}

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        return {number: beat.at for number, beat in self._heard(run).items()}

    def priced(self, run: Run) -> ev.Priced | None:
        """None while the prices are fresh, and when EC2 names none: the run keeps its caps, above which nothing starts."""
        now = self._c.clock()
        if run.status.ended or (run.offered_at and now - run.offered_at < self._c.policy.price_age):
            return None
        types = list(dict.fromkeys(offer.instance_type for offer in run.offers))
        try:
            return ev.Priced(self._c.offers(types, run.offers[0].market)) if types else None
        except PriceUnknown:
            return None

    def prune(self, run: Run) -> None:
        """Only after a new checkpoint was told of, so that an idle minute lists nothing."""
        since = self._c.clock() - self._c.policy.silence
        if not any(b.checkpoint_at and b.checkpoint_at >= since for b in self._heard(run).values()):
            return
        found = self._c.store.spec(run.name)
        if found:
            self._c.bucket.prune(run, int(found[0]["checkpoint"]["keep"]))

    def _heard(self, run: Run) -> dict[int, Beat]:
        if not run.live:
            return {}
        if run.name not in self._beats:
            self._beats[run.name] = self._c.records.beats(run.name)
        return self._beats[run.name]
