"""Which pools a run may use, and the price cap of each: asked of EC2, and refused when no price is known (I9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Offer
from chalicelib.prices import Prices, Quote

# The cap bounds what a lease must reserve, and EC2 ends an instance whose price rises above it. Spot prices move slowly (they
# follow weeks of supply), so twice today's price keeps an instance through every ordinary rise at a bounded price.
_HEADROOM = Decimal(2)
_TENTH_CENT = Decimal("0.0001")
_MOST_OFFERS = 50  # what CreateFleet(instant) takes in overrides is bounded; the cheapest are kept


class PriceUnknown(Exception):
    """No pool of the types asked for has a price that can be trusted; the message says which and what to do."""


@dataclass(frozen=True)
class Priced:
    """A pool that may be used, and its price now."""

    offer: Offer
    quote: Quote


def priced(
    ec2: Any, prices: Prices, instance_types: Sequence[str], market: str, region: str, now: datetime
) -> tuple[Priced, ...]:
    """Every pool of these types with a default subnet, cheapest first. Raises PriceUnknown."""
    subnets = _subnets(ec2)
    zones = _zones(ec2, instance_types)
    headroom = _HEADROOM if market == "spot" else Decimal(1)
    if market == "spot":
        quotes = prices.spot(instance_types, now)
    else:
        listed = {kind: prices.on_demand(kind, now) for kind in instance_types}
        quotes = {(kind, zone): quote for kind, quote in listed.items() if quote for zone in subnets}
    found = [
        Priced(Offer(kind, zone, subnets[zone], up(quotes[kind, zone].usd_hour * headroom), market), quotes[kind, zone])
        for kind, zone in zones
        if zone in subnets and (kind, zone) in quotes
    ]
    if not found:
        types = ", ".join(instance_types)
        if not subnets:
            raise PriceUnknown("The region has no default subnet: make a default VPC (aws ec2 create-default-vpc).")
        if not zones:
            raise PriceUnknown(f"EC2 offers none of {types} in {region}: choose other resources.instance_types.")
        raise PriceUnknown(f"EC2 names no {market} price for {types} in {region}; nothing is launched without one.")
    order = {kind: n for n, kind in enumerate(instance_types)}
    found.sort(key=lambda p: (p.offer.max_price, order[p.offer.instance_type], p.offer.zone))
    return tuple(found[:_MOST_OFFERS])


def named_at(pools: Iterable[Priced], now: datetime) -> datetime:
    """When AWS named these pools' prices, the oldest of them: from then on they age (`Policy.price_stale`).

    Only Spot prices age by the hour. A list price, which `Prices` asks daily and trusts for a week, counts as named now.
    """
    return min((p.quote.at for p in pools if p.offer.market == "spot"), default=now)


def up(usd: Decimal) -> Decimal:
    return usd.quantize(_TENTH_CENT, rounding=ROUND_CEILING)


def _subnets(ec2: Any) -> dict[str, str]:
    """A default subnet for each zone that has one."""
    pages = ec2.get_paginator("describe_subnets").paginate(Filters=[{"Name": "default-for-az", "Values": ["true"]}])
    return {s["AvailabilityZone"]: s["SubnetId"] for page in pages for s in page["Subnets"]}


def _zones(ec2: Any, instance_types: Iterable[str]) -> list[tuple[str, str]]:
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": list(instance_types)}]
    )
    return sorted((o["InstanceType"], o["Location"]) for page in pages for o in page["InstanceTypeOfferings"])
