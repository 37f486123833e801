"""Runs in a terminal: the list, one run at a glance, its timeline and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from spotrelay.client import ENDED
from spotrelay.show import words
from spotrelay.show.tables import beside, facts, table

STYLES = {
    "RUNNING": "green",
    "LAUNCHING": "yellow",
    "RECOVERING": "yellow",
    "STOPPING": "yellow",
    "SUSPENDED": "magenta",
    "SUCCEEDED": "bold green",
    "FAILED": "bold red",
    "CANCELLED": "dim",
}
_BAR = 30


def listed(runs: Iterable[Mapping[str, Any]], now: datetime) -> RenderableType:
    """One line a run; its step is that of its newest checkpoint."""
    heads = ("run", "status", "saved", "cost", "limit", "submitted", "what it does or waits for")
    return table(
        heads,
        (
            (
                Text(run["name"], style="bold"),
                _status(run),
                words.number(run["step"]),
                words.usd(run["cost_usd"]),
                words.usd(run["limits"]["cost_usd"]),
                words.ago(run["created_at"], now),
                run["message"],
            )
            for run in runs
        ),
    )


def one(run: Mapping[str, Any], now: datetime) -> RenderableType:
    """Everything about a run that fits on a screen."""
    head = facts(_facts(run, now))
    return Group(head, Text(""), attempts(run, now)) if run["attempts"] else head


def attempts(run: Mapping[str, Any], now: datetime) -> RenderableType:
    """A line an attempt; the one that holds the baton has a mark."""
    heads = ("attempt", "instance", "pool", "phase", "from", "to", "began", "lasted", "ended by", "cost")
    return table(
        heads,
        (
            (
                ("● " if run["baton"] == each["attempt"] else "  ") + str(each["attempt"]),
                each["instance_id"] or words.NOTHING,
                each["pool"] or words.NOTHING,
                each["phase"],
                words.number(each["from_step"]),
                words.number(each["step"]),
                words.moment(each["started_at"], now),
                words.span(_lasted(each, now)) if each["started_at"] else words.NOTHING,
                each["ended_by"] or "",
                words.usd(each["cost_usd"]),
            )
            for each in run["attempts"]
        ),
    )


def event(told: Mapping[str, Any], now: datetime) -> Text:
    """A line of the timeline."""
    attempt = f"#{told['attempt']}" if told["attempt"] else ""
    return Text.assemble(
        (f"{words.moment(told['at'], now):16}  ", "dim"),
        (f"{told['status']:10}", STYLES.get(told["status"], "")),
        (f" {attempt:4} ", "dim"),
        told["message"],
    )


def checkpoints(found: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Whole checkpoints, and whether a resume would take them."""
    counts = {
        True: Text("yes", style="green"),
        False: Text("no: published after the baton had gone on", style="dim"),
    }
    rows = (
        (str(each["attempt"]), words.number(each["step"]), counts[each["counts"]], each["prefix"]) for each in found
    )
    return table(("attempt", "step", "counts", "where"), rows)


def pace(run: Mapping[str, Any]) -> str | None:
    """Steps a second of the baton's holder, its boot and set-up included, and how long the rest takes at that pace."""
    holder = next((a for a in run["attempts"] if a["attempt"] == run["baton"] and not a["ended_at"]), None)
    heard = run["last_heartbeat_at"]
    if run["status"] in ENDED or holder is None or run["step"] is None or not heard or not holder["started_at"]:
        return None
    done = run["step"] - (holder["from_step"] or 0)
    took = datetime.fromisoformat(heard) - datetime.fromisoformat(holder["started_at"])
    if done <= 0 or took <= timedelta():
        return None
    rate = done / took.total_seconds()
    left = max(0, (run["total_steps"] or 0) - run["step"])
    rest = f", {words.span(timedelta(seconds=left / rate))} left" if run["total_steps"] else ""
    return f"{rate:,.1f} steps a second{rest}"


def _facts(run: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, RenderableType]]:
    yield "run", Text.assemble((run["name"], "bold"), "  ", _status(run), f"  {run['reason']}")
    yield "", run["message"]
    yield "progress", _progress(run)
    if going := pace(run):
        yield "", going
    held = f", {words.usd(run['reserved_usd'])} reserved" if float(run["reserved_usd"]) else ""
    yield "cost", f"{words.usd(run['cost_usd'])} of {words.usd(run['limits']['cost_usd'])}{held}"
    if run["last_heartbeat_at"]:
        yield "heard", words.ago(run["last_heartbeat_at"], now)
    if run["metrics"]:
        yield "metrics", "  ".join(f"{name} {_short(value)}" for name, value in run["metrics"].items())
    if source := (run["spec"] or {}).get("source"):
        yield (
            "source",
            " ".join(part for part in (source["repo"], source.get("ref"), (run["commit"] or "")[:12]) if part),
        )
    if run["results"]:
        yield "results", run["results"]
    yield "submitted", f"{words.moment(run['created_at'], now)} by {run['created_by']}"


def _status(run: Mapping[str, Any]) -> Text:
    return Text(run["status"], style=STYLES.get(run["status"], ""))


def _progress(run: Mapping[str, Any]) -> RenderableType:
    step, total = run["step"], run["total_steps"]
    if step is None:
        return Text("no step yet", style="dim")
    if not total:
        return f"step {words.number(step)}"
    told = f"{words.number(step)} of {words.number(total)} steps, {100 * step / total:.0f} %"
    return beside(ProgressBar(total, min(step, total), width=_BAR), told)


def _lasted(attempt: Mapping[str, Any], now: datetime) -> timedelta:
    ended = datetime.fromisoformat(attempt["ended_at"]) if attempt["ended_at"] else now
    return ended - datetime.fromisoformat(attempt["started_at"])


def _short(value: Any) -> str:
    """A number or a word; of what has parts only how many: `spotrelay show --json` has them."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"({len(value)} inside)" if isinstance(value, list | dict) else str(value)
