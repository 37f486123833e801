"""What EC2 costs: Spot prices by pool and on-demand prices by type, asked of AWS and kept in the table with their age.

A price that AWS names no more is used until it is stale, and refused after that. USD per hour, times in UTC.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import asking
from chalicelib.codec import Skip, Unreadable, amount, from_item, moment, reading, strict, to_item
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy
from chalicelib.price_table import ON_DEMAND_USD_HOUR

_KEY = "PRICES"
_FRESH = timedelta(minutes=5)  # Spot prices move over hours: asked again this soon, AWS would say the same
_ON_DEMAND_FRESH, _ON_DEMAND_STALE = timedelta(days=1), timedelta(days=7)
Zone = str
_EVERYWHERE = "*"  # an on-demand price has no zone, and a name in DynamoDB has one character at least


@dataclass(frozen=True)
class Quote:
    """A price: USD per hour, when AWS named it, and who did (`spot_history`, `pricing_api`, `table`)."""

    usd_hour: Decimal
    at: datetime
    source: str


class Prices:
    def __init__(
        self,
        ec2: Callable[[], Any],
        pricing: Callable[[], Any],
        dynamodb: Any,
        table: str,
        region: str,
        policy: Policy,
        skip: Skip = strict,
    ) -> None:
        """`ec2` and `pricing` give clients, when a price is not known yet; `skip` is told of prices that can't be read."""
        self._skip = skip
        self._ec2, self._pricing, self._dynamodb = ec2, pricing, dynamodb
        self._table, self._region, self._policy = table, region, policy

    def spot(self, types: Iterable[str], now: datetime) -> dict[tuple[str, Zone], Quote]:
        """The Spot price in force in each pool (type, zone) of these types; a pool without one is left out."""
        known = {kind: self._cached(f"spot#{kind}") for kind in types}
        # What is too old to be used is asked again, whatever the time scale.
        fresh = min(_FRESH, self._policy.price_age)
        old = [kind for kind, (at, _) in known.items() if at is None or now - at >= fresh]
        if old:
            asked: dict[str, dict[Zone, Decimal]] = {}
            with suppress(ClientError, BotoCoreError):  # what is kept still serves, until it is stale
                for answer in asking.known(lambda kinds: self._ask_spot(kinds, now), old):
                    asked |= answer
            for kind, zones in asked.items():
                known[kind] = (now, zones)
                self._keep(f"spot#{kind}", now, zones)
        return {
            (kind, zone): Quote(price, at, "spot_history")
            for kind, (at, zones) in known.items()
            if at is not None and now - at <= self._policy.price_age
            for zone, price in zones.items()
        }

    def spot_highest(self, instance_type: str, zone: Zone, start: datetime, end: datetime) -> Decimal | None:
        """The highest Spot price in force between two times; None when AWS does not say. A price of 0 says nothing."""
        try:
            pages = self._spot_pages([instance_type], start, end, AvailabilityZone=zone)
            found = [Decimal(entry["SpotPrice"]) for page in pages for entry in page["SpotPriceHistory"]]
        except (ClientError, BotoCoreError):
            return None
        return max((price for price in found if price > 0), default=None)

    def on_demand(self, instance_type: str, now: datetime) -> Quote | None:
        """The on-demand price of a type (Linux); None when it is unknown or stale."""
        at, kept = self._cached(f"on_demand#{instance_type}")
        if at is None or _EVERYWHERE not in kept or now - at >= _ON_DEMAND_FRESH:
            try:
                price = self._ask_on_demand(instance_type)
            except (ClientError, BotoCoreError):
                price = None
            if price is not None:
                at, kept = now, {_EVERYWHERE: price}
                self._keep(f"on_demand#{instance_type}", now, kept)
        if at is None or _EVERYWHERE not in kept or now - at > _ON_DEMAND_STALE:
            return None
        return Quote(kept[_EVERYWHERE], at, "pricing_api")

    def estimate(self, instance_type: str, now: datetime) -> Quote | None:
        """What an hour may cost at most, to show a person; never to launch on. The table only ever raises it."""
        quote, written = self.on_demand(instance_type, now), ON_DEMAND_USD_HOUR.get(instance_type)
        if written is None or (quote is not None and quote.usd_hour >= written):
            return quote
        return Quote(written, now, "table")

    def _spot_pages(self, types: list[str], start: datetime, end: datetime, **more: Any) -> Any:
        # The answer has the price in force at StartTime, too (EC2 API reference).
        return (
            self._ec2()
            .get_paginator("describe_spot_price_history")
            .paginate(InstanceTypes=types, ProductDescriptions=["Linux/UNIX"], StartTime=start, EndTime=end, **more)
        )

    def _ask_spot(self, types: list[str], now: datetime) -> dict[str, dict[Zone, Decimal]]:
        found: dict[str, dict[Zone, Decimal]] = {}
        for page in self._spot_pages(types, now, now):
            for entry in page["SpotPriceHistory"]:
                price, zones = Decimal(entry["SpotPrice"]), found.setdefault(entry["InstanceType"], {})
                if price > 0:
                    zones[entry["AvailabilityZone"]] = max(price, zones.get(entry["AvailabilityZone"], price))
        return found

    def _ask_on_demand(self, instance_type: str) -> Decimal | None:
        wanted = {
            "instanceType": instance_type,
            "regionCode": self._region,
            "operatingSystem": "Linux",
            "preInstalledSw": "NA",
            "tenancy": "Shared",
            "capacitystatus": "Used",
            "licenseModel": "No License required",
        }
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        products = self._pricing().get_products(ServiceCode="AmazonEC2", Filters=filters).get("PriceList", [])
        found = [
            Decimal(dimension["pricePerUnit"]["USD"])
            for product in products
            for term in json.loads(product).get("terms", {}).get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        ]
        return max((price for price in found if price > 0), default=None)

    def _cached(self, sk: str) -> tuple[datetime | None, dict[Zone, Decimal]]:
        key = to_item({"pk": _KEY, "sk": sk})
        item = self._dynamodb.get_item(TableName=self._table, Key=key).get("Item")
        if not item:
            return None, {}
        try:
            with reading(_KEY, sk):
                values = from_item(item)
                kept = {str(zone): amount(values["usd_hour"], zone) for zone in values["usd_hour"]}
                return moment(values["at"]), kept
        except Unreadable as error:
            self._skip(error)  # asked anew, and kept anew
            return None, {}

    def _keep(self, sk: str, at: datetime, usd_hour: dict[Zone, Decimal]) -> None:
        item = {"pk": _KEY, "sk": sk, "at": at.isoformat(), "usd_hour": usd_hour}
        self._dynamodb.put_item(TableName=self._table, Item=to_item(item))
