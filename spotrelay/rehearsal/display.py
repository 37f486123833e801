"""A rehearsal as a person sees it: what happened, line by line, and how the run stands now, below."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from spotrelay.rehearsal.conduct import Show
from spotrelay.rehearsal.watch import Watch
from spotrelay.show.runs import STYLES

_LEGS = "attempts: steps"


class Display(Show):
    """Lines on the console, and on a terminal a live table below them. `quiet` shows nothing at all."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        if not self._quiet:
            line = Text(f"{time.monotonic() - self._began:7.1f} s  ", style="dim")
            line.append(text, style="default")
            self._console.print(line, soft_wrap=True)

    def look(self, run: Mapping[str, Any], watch: Watch, total: int | None) -> None:
        if self._live:
            self._live.update(standing(run, watch, total))


def standing(run: Mapping[str, Any], watch: Watch, total: int | None) -> RenderableType:
    """How a run stands: its status, how far it is, and each attempt."""
    furthest = max((t.last for t in watch.trained.values()), default=0) or run["step"] or 0
    head = Table.grid(padding=(0, 2))
    status = Text(run["status"], style=STYLES.get(run["status"], ""))
    bar: RenderableType = ProgressBar(total or 1, furthest, width=40) if total else Text("")
    head.add_row(Text(run["name"], style="bold"), status, bar, f"step {furthest}" + (f" of {total}" if total else ""))
    table = Table("attempt", "instance", "pool", "phase", "from", "to", "ended by", box=None, header_style="dim")
    for attempt in run["attempts"]:
        number = attempt["attempt"]
        baton = "● " if run["baton"] == number else "  "
        row = (baton + str(number), attempt["instance_id"], attempt["pool"], attempt["phase"], attempt["from_step"])
        to_step = watch.last(number) or attempt["step"]
        table.add_row(*(str(v) if v is not None else "" for v in (*row, to_step, attempt["ended_by"])))
    return Group(head, table)


def summary(report: Mapping[str, Any]) -> RenderableType:
    """The report as a table and a verdict."""
    table = Table(box=None)
    for head in ("scenario", "status", _LEGS, "lost", "pause", "calls", "cost", "billed"):
        # Of fourteen attempts the steps go over several lines; a word or an amount is shown whole.
        table.add_column(head, no_wrap=head != _LEGS, min_width=20 if head == _LEGS else None)
    for run in report["runs"]:
        good = not run["problems"]
        table.add_row(
            ("✓ " if good else "✗ ") + run["scenario"],
            run["status"],
            ", ".join(_leg(a) for a in run["attempts"]),
            str(run["steps_lost"]),
            f"{run['downtime_s']:.1f} s",
            str(run["relaunch_calls"] if run["relaunch_calls"] is not None else "–"),
            f"${run['cost_usd']}",
            f"${run['billed_usd']}" if run["billed_usd"] else "–",
            style=None if good else "red",
        )
    lines: list[RenderableType] = [Text(""), table, Text("")]
    lines += [Text(f"✗ {problem}", style="red") for problem in report["problems"]]
    ledger = report["ledger"]
    verdict = "ok" if report["ok"] else "NOT ok"
    lines.append(
        Text(
            f"{verdict} after {report['seconds']:.0f} s: {len(report['instances_left'])} instances left, "
            f"${ledger['settled_usd']} settled, ${ledger['reserved_usd']} reserved of ${ledger['limit_usd']}",
            style="bold green" if report["ok"] else "bold red",
        )
    )
    return Group(*lines)


def _leg(attempt: Mapping[str, Any]) -> str:
    if attempt["from_step"] is None:
        return f"{attempt['attempt']}: –"
    return f"{attempt['attempt']}: {attempt['from_step']}–{attempt['to_step']}"
