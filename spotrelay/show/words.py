"""Money, spans, ages and steps as words; times of the API (ISO 8601) as this machine's zone has them."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from humanize import intcomma, naturalsize, precisedelta

_CENTS, _LEAST = Decimal("0.10"), Decimal("0.0001")
NOTHING = "–"


def usd(amount: str | None) -> str:
    """`$3.12`; what is less than ten cents keeps a hundredth of a cent."""
    if amount is None:
        return NOTHING
    value = abs(Decimal(amount))
    sign = "-" if Decimal(amount) < 0 else ""
    if 0 < value < _LEAST:
        return f"{sign}<${_LEAST}"
    return f"{sign}${value:.4f}" if 0 < value < _CENTS else f"{sign}${value:,.2f}"


def span(length: timedelta) -> str:
    """To the second below a minute, to the minute below a day, else to the hour."""
    length = max(length, timedelta())
    unit = "seconds" if length < timedelta(minutes=1) else "minutes" if length < timedelta(days=1) else "hours"
    return precisedelta(length, minimum_unit=unit, format="%d")


def hours(amount: str) -> str:
    """A decimal number of hours, as the API has it."""
    return span(timedelta(hours=float(amount)))


def ago(at: str | None, now: datetime) -> str:
    return f"{span(now - datetime.fromisoformat(at))} ago" if at else NOTHING


def moment(at: str | None, now: datetime) -> str:
    """The time of today, or the date and the time; of this machine's zone."""
    if at is None:
        return NOTHING
    local, today = datetime.fromisoformat(at).astimezone(), now.astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def number(value: int | None) -> str:
    return NOTHING if value is None else intcomma(value)


def size(count: int) -> str:
    """Bytes in powers of a thousand, as S3 is charged."""
    return naturalsize(count)
