"""Arithmetic of money: decimal USD, rates in USD per hour. What is owed is rounded up, what comes back is rounded down."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from chalicelib.core.calendar import days, pieces, seconds, turn
from chalicelib.core.model import Policy, Rates

_MICRO = Decimal("0.000001")
_SHORTEST_MONTH = 28  # days
MINIMUM = timedelta(seconds=60)  # EC2 bills Linux by the second, one minute at least (EC2 On-Demand pricing)
ZERO = Decimal(0)


def rates(instance_usd_hour: Decimal, disk_gb: int, policy: Policy) -> Rates:
    """What one hour costs at most, in any month: the instance at this price, its gp3 volume and its public address."""
    return _rates(instance_usd_hour, disk_gb, _SHORTEST_MONTH, policy)


def rates_in(instance_usd_hour: Decimal, disk_gb: int, start: datetime, end: datetime, policy: Policy) -> Rates:
    """What an hour between `start` and `end` costs: never more than `rates`.

    EBS divides a GB-month by the hours that the month has (EBS pricing); of a span over a month's turn the dearer counts.
    """
    fewest, at = days(start, policy)[1], start
    while (at := turn(at, policy)) < end:
        fewest = min(fewest, days(at, policy)[1])
    return _rates(instance_usd_hour, disk_gb, fewest, policy)


def _rates(instance_usd_hour: Decimal, disk_gb: int, days_of_month: int, policy: Policy) -> Rates:
    disk = up(policy.disk_usd_gb_month * disk_gb / (days_of_month * 24))
    return Rates(instance_usd_hour, disk, policy.address_usd_hour)


def cost(usd_hour: Decimal, span: timedelta) -> Decimal:
    """The cost of a span at a rate, rounded up to a millionth of a dollar."""
    return up(usd_hour * seconds(span) / 3600)


def by_month(usd_hour: Decimal, start: datetime, end: datetime, policy: Policy) -> dict[str, Decimal]:
    """The cost of a span at a rate by calendar month; each month's share is rounded up.

    A shorter span inside, or a lower rate, never costs more in any month: what is settled fits into what was reserved.
    """
    return {name: up(usd_hour * span / 3600) for name, span in pieces(start, end, policy)}


def up(usd: Decimal) -> Decimal:
    return usd.quantize(_MICRO, rounding=ROUND_CEILING)


def down(usd: Decimal) -> Decimal:
    return usd.quantize(_MICRO, rounding=ROUND_FLOOR)
