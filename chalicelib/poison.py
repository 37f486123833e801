"""What can't be read: told once, counted once, shown to a person; and told again should it still be there a week later.

In: the Unreadable that a reader met. Out: a log line with the cause, a metric, a mail and an act of `GET /budget`. It never
touches the record itself: what it was can only be found out, and mended, while it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from chalicelib.codec import Unreadable
from chalicelib.core.figures import Name
from chalicelib.core.news import Kind, News
from chalicelib.telemetry import Telemetry, logger

if TYPE_CHECKING:
    from chalicelib.acts import Acts

TELL_AGAIN = timedelta(days=7)


class Poison:
    def __init__(self, acts: Callable[[], Acts], telemetry: Telemetry, clock: Callable[[], datetime]) -> None:
        self._acts, self._telemetry, self._clock = acts, telemetry, clock
        self._told: set[str] = set()  # by this process: not a write each minute

    def saw(self, error: Unreadable) -> None:
        """Tell of it, unless it was told of before."""
        if error.what in self._told:
            return
        message = f"{error.what} can't be read and is left alone; everything else goes on. The log of the controller says why."
        news = News(Kind.UNREADABLE, "Spot Relay: something can't be read", message, run_of(error.what))
        first = self._acts().record(f"unreadable#{error.what}"[:1000], news, self._clock(), kept=TELL_AGAIN)
        self._told.add(error.what)
        if not first:
            return
        keys = {"record": error.what, **({"run": news.run} if news.run else {})}
        logger.error("unreadable", extra={**keys, "error": error.why})
        self._telemetry.count(Name.POISON_SEEN, 1, **keys)


def run_of(what: str) -> str | None:
    """The run that a record belongs to, by its key."""
    pk, _, _ = what.partition(" / ")
    kind, _, name = pk.partition("#")
    return name or None if kind == "RUN" else None
