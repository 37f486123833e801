"""Arithmetic of prepaid leases. Decimal USD; rates in USD per hour; nothing is rounded in the user's favour."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal

from chalicelib.core.model import Policy

_MICRO = Decimal("0.000001")
_HOURS_PER_MONTH = Decimal(730)
MINIMUM_SECONDS = 60  # EC2 bills Linux by the second, one minute at least


def rate(instance_usd_hour: Decimal, disk_gb: int, policy: Policy) -> Decimal:
    """What one hour costs: the instance at this price, its gp3 volume and its public address."""
    disk = policy.disk_usd_gb_month * disk_gb / _HOURS_PER_MONTH
    return up(instance_usd_hour + disk + policy.address_usd_hour)


def cost(usd_hour: Decimal, span: timedelta) -> Decimal:
    """The cost of a span at a rate, a minute at least, rounded up to a millionth of a dollar."""
    seconds = max(Decimal(MINIMUM_SECONDS), Decimal(str(span.total_seconds())))
    return up(usd_hour * seconds / 3600)


def reservation(usd_hour: Decimal, policy: Policy) -> Decimal:
    """What a lease must reserve: an instance can outlive its lease by the grace, and ending it takes a moment."""
    return cost(usd_hour, policy.lease + policy.grace + policy.end_margin)


def up(usd: Decimal) -> Decimal:
    return usd.quantize(_MICRO, rounding=ROUND_CEILING)
