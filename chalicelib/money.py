"""The routes about money: the month's budget with its forecast, another limit, and the lines of a run's ledger."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from chalicelib import housekeeping, views
from chalicelib.codec import Unreadable
from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.money import BudgetChange
from chalicelib.controller import Controller
from chalicelib.core import calendar
from chalicelib.core.model import Policy, Run
from chalicelib.core.money import ZERO
from chalicelib.core.news import Kind, News
from chalicelib.core.resuming import waiting
from chalicelib.core.storage import Stored
from chalicelib.ledger import LimitTooLow


def budget(c: Controller) -> dict[str, Any]:
    now = c.clock()
    month = calendar.month(now, c.policy)
    account = c.store.ledger.month(month)
    stored, beside = _stored(c), c.unmanaged.report()
    return {
        "month": month,
        "turns_at": calendar.turn(now, c.policy).isoformat(),
        **{f"{name}_usd": views.usd(account[name]) for name in ("limit", "settled", "reserved", "free")},
        "forecast_usd": views.usd(forecast(account, list(_live(c)), now, c.policy)),
        "runs": [
            {"run": r["run"], "settled_usd": views.usd(r["settled"]), "reserved_usd": views.usd(r["reserved"])}
            for r in c.store.ledger.runs(month)
        ],
        "storage": views.storage_view(stored if stored and stored.month == month else None),
        "unmanaged": views.unmanaged_view(beside if beside and beside.month == month else None, c.settings.guard),
        "acts": c.acts.recent(),
    }


def set_limit(c: Controller, body: BudgetChange, by: str) -> dict[str, Any]:
    """Set the monthly limit, this month and from then on; what waits for money goes on. Raises ApiError 409."""
    now = c.clock()
    months = [calendar.month(now, c.policy), calendar.month(calendar.turn(now, c.policy), c.policy)]
    ledger = c.store.ledger
    ledger.open(months)
    before = ledger.limit()
    told: list[dict[str, Any]] = []
    if body.limit_usd != before:
        message = f"The monthly limit is {body.limit_usd:.2f} USD, was {before:.2f}; set by {by}."
        news = News(Kind.LIMIT, "Spot Relay: the limit has changed", message)
        told = c.acts.writes(f"{now.isoformat()}#limit", news, now)
    try:
        ledger.set_limit(body.limit_usd, months, now, told)
    except LimitTooLow as error:
        held = error.account["settled"] + error.account["reserved"]
        raise ApiError(
            409,
            "limit_too_low",
            f"limit_usd is {body.limit_usd}, and {error.month} has {held:.6f} USD settled and reserved already: choose at "
            "least that, or end runs first.",
            [{"field": "limit_usd", "value": str(body.limit_usd), "message": f"must be at least {held:.6f}"}],
            month=error.month,
            account={f"{name}_usd": views.usd(amount) for name, amount in error.account.items()},
        ) from error
    if body.limit_usd >= before:
        # What fails from here on, the next sweep does: the ledger knows when the limit was raised.
        runs = sorted((run for run in _live(c) if waiting(run)), key=lambda run: (run.created_at, run.name))
        housekeeping.resume_waiting(c, iter(runs), now)
    return budget(c)


def _live(c: Controller) -> Iterable[Run]:
    """Runs with something left to do, but for those that can't be read."""
    return c.store.load_many(c.store.live()).values()


def _stored(c: Controller) -> Stored | None:
    try:
        return c.storage.stored()
    except Unreadable as error:
        c.saw(error)
        return None


def lines(c: Controller, run: str) -> dict[str, Any]:
    """A run's account and its ledger, line by line."""
    return views.ledger_view(run, c.store.ledger.run(run), c.store.ledger.lines(run))


def forecast(account: dict[str, Decimal], live: list[Run], now: datetime, policy: Policy) -> Decimal:
    """What the month will have cost if every running attempt goes on to its end, by what it may still cost; the limit
    at most, which holds.
    """
    left = calendar.seconds(calendar.turn(now, policy) - now) / 3600
    more = ZERO
    for run in live:
        for attempt in run.live:
            if attempt.lease is None or attempt.lease.settled:
                continue
            # The cap is twice the price it was made from (pools); what was settled last says it better.
            used = attempt.previous.usage if attempt.previous else None
            hourly = used.rates.total if used else attempt.lease.rate / 2
            rest = max(ZERO, run.limits.cost_usd - sum((a.cost for a in run.attempts), ZERO))
            hours = max(ZERO, calendar.seconds(run.limits.duration - run.ran) / 3600)
            more += min(rest, hourly * min(left, hours))
    held = account["reserved"] - sum((a.reserved for run in live for a in run.attempts), ZERO)
    return min(account["limit"], account["settled"] + max(ZERO, held) + more)
