"""Calendar months, UTC: which one a moment belongs to, when it turns, and how a span lies over several."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from chalicelib.core.model import Policy


def month(at: datetime, policy: Policy) -> str:
    """yyyy-mm."""
    return f"{at + policy.month_shift:%Y-%m}"


def turn(at: datetime, policy: Policy) -> datetime:
    """When the month of `at` ends and the next begins."""
    return _first(_first(at + policy.month_shift) + timedelta(days=32)) - policy.month_shift


def pieces(start: datetime, end: datetime, policy: Policy) -> Iterator[tuple[str, Decimal]]:
    """A span as (month, seconds), in order; nothing when it is empty."""
    at = start
    while at < end:
        until = min(end, turn(at, policy))
        yield month(at, policy), seconds(until - at)
        at = until


def days(at: datetime, policy: Policy) -> tuple[int, int]:
    """The day of its month that `at` is in, from 1, and how many days that month has."""
    there = at + policy.month_shift
    return there.day, (_first(_first(there) + timedelta(days=32)) - _first(there)).days


def seconds(span: timedelta) -> Decimal:
    """Exact to the microsecond."""
    return Decimal(span // timedelta(microseconds=1)) / 1_000_000


def _first(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
