"""Money in a terminal: what a plan would cost, the month's budget, a run's ledger line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from spotrelay.show import words
from spotrelay.show.tables import beside, facts, table
from spotrelay.show.words import usd

_WOULD = {"launch": "green", "queue": "yellow", "refuse": "bold red", "nothing": "dim"}
_BAR = 30


def plan(planned: Mapping[str, Any]) -> RenderableType:
    """What a submission would do and cost."""
    rows = [(p["pool"], usd(p["usd_hour"]), usd(p["cap_usd_hour"]), p["source"]) for p in planned["pools"]]
    pools = table(("pool", "an hour", "at most", "price from"), rows)
    return Group(facts(_planned(planned)), Text(""), pools) if rows else facts(_planned(planned))


def _planned(planned: Mapping[str, Any]) -> Iterator[tuple[str, RenderableType]]:
    cost, quota = planned["cost"], planned["quota"]
    account = cost["account"]
    yield "run", Text(planned["run"], style="bold")
    yield "would", Text.assemble((planned["would"], _WOULD[planned["would"]]), f"  {planned['message']}")
    hourly = f"{usd(cost['hourly_usd'])} an hour, at most {usd(cost['hourly_at_cap_usd'])}"
    yield "expected", f"{usd(cost['expected_usd'])} for {words.hours(cost['expected_hours'])} ({hourly})"
    yield "reserved", f"{usd(cost['first_lease_usd'])} for the first lease, before anything is launched"
    yield "limit", f"{usd(cost['limit_usd'])} for the run"
    free = f"{usd(account['free_usd'])} of {usd(account['limit_usd'])} are free"
    yield "month", f"{free} in {cost['month']}, which is {words.hours(cost['month_covers_hours'])} of it"
    yield "quota", f"{words.number(quota['vcpus'])} vCPU, an instance needs {words.number(quota['needs'])}"
    for warning in planned["warnings"]:
        yield "warning", Text(warning, style="yellow")


def budget(month: Mapping[str, Any], now: datetime) -> RenderableType:
    """The month's money: how much is gone, by whom, and what it will have been."""
    parts: list[RenderableType] = [facts(_month(month, now))]
    if month["runs"]:
        rows = ((run["run"], usd(run["settled_usd"]), usd(run["reserved_usd"])) for run in month["runs"])
        parts += [Text(""), table(("run", "spent", "reserved"), rows)]
    if others := month["unmanaged"]["instances"]:
        foreign = (
            (
                each["instance_id"],
                each["instance_type"],
                words.ago(each["launched_at"], now),
                usd(each["usd"]),
                "protected" if each["protected"] else "",
            )
            for each in others
        )
        parts += [Text(""), table(("not ours", "type", "launched", "cost", ""), foreign)]
    if month["acts"]:
        acts = ((words.moment(act["at"], now), act["message"]) for act in month["acts"])
        parts += [Text(""), table(("when", "what was done"), acts)]
    return Group(*parts)


def _month(month: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, RenderableType]]:
    limit, held = Decimal(month["limit_usd"]), Decimal(month["settled_usd"]) + Decimal(month["reserved_usd"])
    yield "month", f"{month['month']}, turns in {words.span(datetime.fromisoformat(month['turns_at']) - now)}"
    told = f"{usd(month['settled_usd'])} spent and {usd(month['reserved_usd'])} reserved of {usd(month['limit_usd'])}"
    yield "used", beside(ProgressBar(float(limit) or 1, float(min(held, limit)), width=_BAR), told)
    yield "free", usd(month["free_usd"])
    yield "forecast", f"{usd(month['forecast_usd'])}, if what runs goes on"
    if stored := month["storage"]:
        short = f"; {usd(stored['short_usd'])} of it found no money" if float(stored["short_usd"]) else ""
        paid = f"{usd(stored['settled_usd'])} spent, {usd(stored['reserved_usd'])} reserved"
        yield "storage", f"{words.size(stored['bytes'])}: {paid}{short}"
    beside_us = month["unmanaged"]
    if float(beside_us["usd"]):
        yield "others", f"{usd(beside_us['usd'])} by instances that are not ours (guard: {beside_us['guard']})"


def ledger(account: Mapping[str, Any], now: datetime) -> RenderableType:
    """Each lease, with how long it was, what an hour of it costs, and where the price came from."""
    heads = ("attempt", "lease", "entry", "from", "lasts", "an hour", "price from", "USD")
    rows = (
        (
            str(line["attempt"]),
            str(line["seq"]),
            line["entry"],
            words.moment(line["start"], now),
            words.span(timedelta(seconds=line["seconds"])),
            _hourly(line["rates_usd_hour"]),
            line["source"] or "the cap",
            usd(line["usd"]),
        )
        for line in account["lines"]
    )
    told = (
        f"{usd(account['settled_usd'])} spent, {usd(account['reserved_usd'])} reserved, {usd(account['free_usd'])} free"
    )
    return Group(table(heads, rows), Text(""), Text(told, style="bold"))


def _hourly(rates: Mapping[str, str] | None) -> str:
    return usd(str(sum((Decimal(rate) for rate in rates.values()), Decimal(0)))) if rates else words.NOTHING
