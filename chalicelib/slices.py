"""What is too much for one pass of the sweep goes to other invocations of the same function, in slices of runs.

A slice is an event that EventBridge never sends: the pass invokes itself with it, asynchronously. Lambda repeats one that fails,
and its errors count as the sweep's, so they are seen; one that is lost, or comes late, is nothing lost: the next minute's pass
finds the same runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from chalicelib.core.frozen import dataclass
from chalicelib.glances import Glance, from_text, to_text

_SOURCE, _KIND = "spot-relay", "Spot Relay Slice"
# An AWS call that hangs takes 23 seconds, and is tried three times; so much is left when a run's turn comes.
_MARGIN_S = 75.0


@dataclass(frozen=True)
class Slice:
    """Runs that a pass found something to do for; `at` is when it began, `listening` as the pass knows it (`upkeep`)."""

    at: datetime
    listening: datetime
    runs: list[Glance]


def event_of(given: Slice) -> dict[str, Any]:
    """As EventBridge shapes its events, which is what the function understands."""
    return {
        "version": "0",
        "id": f"{given.at.isoformat()}#{given.runs[0].name}",
        "source": _SOURCE,
        "detail-type": _KIND,
        "account": "",
        "time": given.at.isoformat(),
        "region": "",
        "resources": [],
        "detail": {"listening": given.listening.isoformat(), "runs": {g.name: to_text(g) for g in given.runs}},
    }


def slice_in(event: Mapping[str, Any]) -> Slice | None:
    """The slice that an event is; None for the schedule's own."""
    if (event["source"], event["detail-type"]) != (_SOURCE, _KIND):
        return None
    runs = [from_text(name, text) for name, text in event["detail"]["runs"].items()]
    at, listening = event["time"], event["detail"]["listening"]
    return Slice(datetime.fromisoformat(at), datetime.fromisoformat(listening), runs)


class Others:
    """Other invocations of the function, and the time that is left to this one."""

    def __init__(
        self,
        functions: Callable[[], Any],
        name: str,
        seconds_left: Callable[[], float],
        margin_s: float = _MARGIN_S,
    ) -> None:
        """`functions` gives Lambda's client when it is needed, `name` is the function's."""
        self._functions, self._name = functions, name
        self._seconds_left, self._margin_s = seconds_left, margin_s

    def in_time(self) -> bool:
        return self._seconds_left() > self._margin_s

    def take(self, given: Slice) -> None:
        """Raises what Lambda's client raises when it does not take it."""
        payload = json.dumps(event_of(given)).encode()
        self._functions().invoke(FunctionName=self._name, InvocationType="Event", Payload=payload)
