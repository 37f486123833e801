"""Which pools a run may use, and what each may cost: asked of EC2, and refused when the price is not known (I9)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from chalicelib.core.model import Offer

# The cap bounds what a lease must reserve, and EC2 ends an instance whose price rises above it. Spot prices move slowly (they
# follow weeks of supply), so twice today's price keeps an instance through every ordinary rise at a bounded price.
_HEADROOM = Decimal(2)
_TENTH_CENT = Decimal("0.0001")
_MOST_OFFERS = 50  # what CreateFleet(instant) takes in overrides is bounded; the cheapest are kept


class PriceUnknown(Exception):
    """No pool of the types asked for has a price that can be trusted; the message says which and what to do."""


def offers(
    ec2: Any, pricing: Any, instance_types: Sequence[str], market: str, region: str, now: datetime
) -> tuple[Offer, ...]:
    """Every pool of these types with a default subnet, cheapest first. Raises PriceUnknown.

    `pricing` is asked only for the `on_demand` market.
    """
    subnets = _subnets(ec2)
    zones = _zones(ec2, instance_types)
    if market == "spot":
        caps = {pool: up(price * _HEADROOM) for pool, price in _spot_prices(ec2, instance_types, now).items()}
    else:
        listed = {kind: _on_demand(pricing, kind, region) for kind in instance_types}
        caps = {(kind, zone): price for kind, price in listed.items() if price for zone in subnets}
    found = [
        Offer(kind, zone, subnets[zone], caps[kind, zone], market)
        for kind, zone in zones
        if zone in subnets and (kind, zone) in caps
    ]
    if not found:
        types = ", ".join(instance_types)
        if not subnets:
            raise PriceUnknown("The region has no default subnet: make a default VPC (aws ec2 create-default-vpc).")
        if not zones:
            raise PriceUnknown(f"EC2 offers none of {types} in {region}: choose other resources.instance_types.")
        raise PriceUnknown(f"EC2 names no {market} price for {types} in {region}; nothing is launched without one.")
    order = {kind: n for n, kind in enumerate(instance_types)}
    found.sort(key=lambda o: (o.max_price, order[o.instance_type], o.zone))
    return tuple(found[:_MOST_OFFERS])


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


def _spot_prices(ec2: Any, instance_types: Iterable[str], now: datetime) -> dict[tuple[str, str], Decimal]:
    """The price in force in each pool: with StartTime now, EC2 answers the one that holds at that time."""
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=list(instance_types), ProductDescriptions=["Linux/UNIX"], StartTime=now
    )
    prices: dict[tuple[str, str], Decimal] = {}
    for page in pages:
        for entry in page["SpotPriceHistory"]:
            pool = (entry["InstanceType"], entry["AvailabilityZone"])
            prices[pool] = max(prices.get(pool, Decimal(0)), Decimal(entry["SpotPrice"]))
    return {pool: price for pool, price in prices.items() if price > 0}


def _on_demand(pricing: Any, instance_type: str, region: str) -> Decimal | None:
    """The on-demand price of a Linux instance, USD per hour, from the Pricing API; None when it names none."""
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
        "licenseModel": "No License required",
    }
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
    prices: list[Decimal] = []
    for product in pricing.get_products(ServiceCode="AmazonEC2", Filters=filters).get("PriceList", []):
        for term in json.loads(product).get("terms", {}).get("OnDemand", {}).values():
            prices += [Decimal(d["pricePerUnit"]["USD"]) for d in term["priceDimensions"].values()]
    known = [price for price in prices if price > 0]
    return max(known) if known else None
