"""`spotrelay watch` and `spotrelay events`: a run's timeline as it grows, and how it stands below."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import click
from rich.live import Live

from spotrelay.client import ENDED, Client
from spotrelay.commands.api import api_options, patient, run_argument
from spotrelay.commands.shared import answers, console, json_option, print_json
from spotrelay.show import runs

_PAGE = 100
EVERY_S = 5.0


class Timeline:
    """A run's events, each once, whenever one looks. `page` gives a page of them from a cursor."""

    def __init__(self, api: Client, run: str) -> None:
        self._api, self._run = api, run
        self._cursor: str | None = None
        self._seen = 0  # of the page that begins at the cursor

    def new(self) -> Iterator[dict[str, Any]]:
        """Those that have come since the last look."""
        while True:
            page = self._api.get("runs", self._run, "events", limit=_PAGE, cursor=self._cursor)
            yield from page["events"][self._seen :]
            if page["cursor"] is None:
                self._seen = len(page["events"])
                return
            self._cursor, self._seen = page["cursor"], 0


@click.command()
@run_argument
@api_options
@json_option
def watch(api: Client, run: str, as_json: bool) -> None:
    """Follow RUN to its end. Exits 0 when it has succeeded, 1 when it has not; Ctrl-C leaves it going on.

    With --json: the run, as it is at its end.
    """
    follow(api, run, as_json)


@click.command()
@run_argument
@click.option("--follow", "-f", "is_followed", is_flag=True, help="Go on until the run has ended.")
@api_options
@json_option
def events(api: Client, run: str, is_followed: bool, as_json: bool) -> None:
    """What has happened to RUN, oldest first. With --json: one event a line."""
    timeline = Timeline(api, run)
    ended = not is_followed or api.get("runs", run)["status"] in ENDED
    while True:
        with patient(console()) if is_followed else nullcontext():
            for event in timeline.new():
                if as_json:
                    print_json(event, line=True)
                else:
                    answers().print(runs.event(event, datetime.now(UTC)), soft_wrap=True)
            if ended:
                return
            ended = api.get("runs", run)["status"] in ENDED  # what it told before that is shown in one more turn
        time.sleep(EVERY_S)


def follow(api: Client, name: str, as_json: bool) -> None:
    """Until the run has ended; then exit with 0 or 1. What passes by itself (no network for a while) is waited for."""
    out, timeline = console(), Timeline(api, name)
    run = api.get("runs", name)
    live = Live(console=out, transient=True, auto_refresh=False) if out.is_terminal and not as_json else None
    try:
        with live or nullcontext():
            while True:
                with patient(out):
                    run = api.get("runs", name)
                    for event in () if as_json else timeline.new():
                        out.print(runs.event(event, datetime.now(UTC)), soft_wrap=True)
                if live:
                    live.update(runs.one(run, datetime.now(UTC)), refresh=True)
                if run["status"] in ENDED:
                    break
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        out.print(f"\n{name} goes on. To look again: spotrelay watch {name}; to end it: spotrelay cancel {name}")
        sys.exit(130)
    print_json(run) if as_json else answers().print(runs.one(run, datetime.now(UTC)))
    sys.exit(0 if run["status"] == "SUCCEEDED" else 1)
