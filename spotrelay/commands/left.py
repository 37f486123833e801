"""`spotrelay results` and `spotrelay logs`: what a run has left, and what it says."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from spotrelay import fetch
from spotrelay.client import Client
from spotrelay.commands.api import api_options, run_argument
from spotrelay.commands.shared import answers, console, json_option, print_json
from spotrelay.show import runs, words
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
    if folder is not None:
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
    cursor: str | None = None
    shown: int | None = None
    while True:
        ended = not is_followed or api.get("runs", run)["status"] in runs.ENDED
        number = attempt if cursor is None else None
        page = api.get("runs", run, "logs", attempt=number, cursor=cursor, tail=_flag(cursor is None and not whole))
        if page["attempt"] != shown and page["text"]:
            shown = page["attempt"]
            console().print(f"attempt {shown}", style="dim")
        sys.stdout.write(page["text"])
        sys.stdout.flush()
        cursor = page["cursor"]
        if page["more"]:
            continue
        following = _next(api, run, page["attempt"]) if is_followed and attempt is None else None
        if following is not None:
            cursor = following
        elif ended:
            break
        else:
            pause()
    if shown is None:
        console().print(f"{run} has no log yet.")


def pause() -> None:
    """Until it is worth to look again."""
    time.sleep(_EVERY_S)


def _next(api: Client, run: str, attempt: int | None) -> str | None:
    """Where the log of the next attempt begins that has one, when this one and those between have ended."""
    attempts = api.get("runs", run)["attempts"]
    for number in range(attempt or 1, len(attempts)):
        if not attempts[number - 1]["ended_at"]:
            return None
        if api.get("runs", run, "logs", attempt=number + 1)["text"]:
            return f"{number + 1}-0-0"
    return None


def _flag(value: bool) -> str:
    return "true" if value else "false"
