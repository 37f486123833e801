"""`spotrelay results` and `spotrelay logs`: what a run has left, and what it says."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spotrelay import fetch
from spotrelay.client import ENDED, Client
from spotrelay.commands.api import api_options, patient, run_argument
from spotrelay.commands.shared import answers, console, json_option, print_json
from spotrelay.show import words
from spotrelay.show.tables import table

_EVERY_S = 5.0
_attempt = click.option("--attempt", type=click.IntRange(1, 9999), help="Of this attempt; left out, the newest.")


@click.command()
@run_argument
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Fetch them into this folder.")
@_attempt
@api_options
@json_option
def results(api: Client, run: str, folder: Path | None, attempt: int | None, as_json: bool) -> None:
    """What RUN has left: its results, listed, or with --to fetched."""
    found = list(fetch.found(api, run, attempt))
    if folder is not None and found:
        _fetch(api, run, found, folder)
    if as_json:
        print_json([{"attempt": each.attempt, "path": each.path, "bytes": each.bytes} for each in found])
    elif not found:
        console().print(f"{run} has left no results yet.")
    elif folder is None:
        answers().print(table(("attempt", "bytes", "path"), _rows(found)))
        console().print(f"To fetch them: spotrelay results {run} --to FOLDER")


def _rows(found: list[fetch.Found]) -> list[tuple[str, str, str]]:
    return [(str(each.attempt), words.size(each.bytes), each.path) for each in found]


def _fetch(api: Client, run: str, found: list[fetch.Found], folder: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task(f"{len(found)} files", total=sum(each.bytes for each in found))
        for each in found:
            try:
                fetch.fetch(api, run, each, folder, lambda count: progress.advance(task, count))
            except fetch.FetchError as error:
                raise click.ClickException(str(error)) from error
    console().print(
        f"{len(found)} files, {words.size(sum(each.bytes for each in found))}, are in {folder}.", markup=False
    )


@click.command()
@run_argument
@click.option(
    "--follow", "-f", "is_followed", is_flag=True, help="Go on, with the next attempt too, until the run has ended."
)
@click.option("--all", "whole", is_flag=True, help="From its beginning, not only the last 64 KiB.")
@_attempt
@api_options
def logs(api: Client, run: str, is_followed: bool, whole: bool, attempt: int | None) -> None:
    """What RUN prints, as the newest attempt has sent it: a part each 20 seconds."""
    reader = _Reader(api, run, attempt, "false" if whole else "true")
    ended = not is_followed or api.get("runs", run)["status"] in ENDED
    while True:
        with patient(console()) if is_followed else nullcontext():
            for text in reader.new():
                sys.stdout.write(text)
                sys.stdout.flush()
            if is_followed and attempt is None and reader.turn():
                continue
            if ended:
                break
            ended = api.get("runs", run)["status"] in ENDED
        pause()
    if reader.shown is None:
        console().print(f"{run} has no log yet.")


class _Reader:
    """A run's log, each piece once. `shown` is the attempt that spoke last."""

    def __init__(self, api: Client, run: str, attempt: int | None, tail: str) -> None:
        self._api, self._run = api, run
        self._where: dict[str, Any] = {"attempt": attempt, "tail": tail}
        self._attempt: int | None = None
        self.shown: int | None = None

    def new(self) -> Iterator[str]:
        """What has come since the last time."""
        more = True
        while more:
            page = self._api.get("runs", self._run, "logs", **self._where)
            self._attempt, more = page["attempt"], page["more"]
            if page["attempt"] != self.shown and page["text"]:
                self.shown = page["attempt"]
                console().print(f"attempt {self.shown}", style="dim")
            if page["cursor"]:
                self._where = {"cursor": page["cursor"]}
            yield page["text"]

    def turn(self) -> bool:
        """Turn to the next attempt that has a log, once this one and those between have ended. Whether there was one."""
        attempts = self._api.get("runs", self._run)["attempts"]
        for number in range(self._attempt or 1, len(attempts)):
            if not attempts[number - 1]["ended_at"]:
                return False
            if self._api.get("runs", self._run, "logs", attempt=number + 1)["text"]:
                self._where = {"attempt": number + 1}
                return True
        return False


def pause() -> None:
    """Until it is worth to look again."""
    time.sleep(_EVERY_S)
