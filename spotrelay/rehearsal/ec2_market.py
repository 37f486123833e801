"""The rehearsal's Spot market: what each pool costs, what it can still give, and how much the account may run.

Pure state: EC2's answers are made from it (`ec2_fleet`), the control API changes it (`ec2_host`). A pool is an instance
type in an availability zone. Prices are USD per hour, times are UTC.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

Pool = tuple[str, str]

# USD per hour, Linux, us-east-1. Only c6i.xlarge is a quoted price; the others keep the market's usual order.
SEED_PRICES = {"c6i.xlarge": 0.068, "c5.xlarge": 0.071, "c5a.xlarge": 0.064, "m6i.xlarge": 0.076}
PRICE_PER_VCPU = 0.017
# USD per hour on demand, as the Pricing API names them.
ON_DEMAND_PRICES = {"c6i.xlarge": 0.17, "c5.xlarge": 0.17, "c5a.xlarge": 0.154, "m6i.xlarge": 0.192}


@dataclass(frozen=True)
class Refusal:
    """Why a pool gives nothing: one of EC2's error codes, and its sentence."""

    code: str
    message: str


NO_CAPACITY = Refusal("InsufficientInstanceCapacity", "There is no Spot capacity available that matches your request.")
OVER_QUOTA = Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")


@dataclass
class Market:
    """Prices, capacity and errors per pool, and the account's Spot quota in vCPU (`None`: no limit).

    `lock` is held over a whole launch and a whole ending, so that two launches never share the last place of a pool.
    """

    spot_vcpus: int | None = None
    capacity: dict[Pool, int] = field(default_factory=dict)
    errors: dict[Pool, Refusal] = field(default_factory=dict)
    prices: dict[Pool, list[tuple[datetime, float]]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    # Services beside EC2 that answer with a server error: "pricing", "servicequotas".
    failing: tuple[str, ...] = ()
    opened: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=6))

    def price(self, pool: Pool, vcpus: int = 4) -> float:
        """The Spot price in force."""
        return self._prices(pool, vcpus)[-1][1]

    def set_price(self, pool: Pool, price: float, now: datetime) -> None:
        self._prices(pool, 4).append((now, price))

    def history(self, pool: Pool, vcpus: int, start: datetime | None, end: datetime) -> list[tuple[datetime, float]]:
        """Prices between `start` and `end`, newest first, with the one that was in force at `start`, as EC2 answers.

        Without a `start` that is the price in force at `end`.
        """
        known = [entry for entry in self._prices(pool, vcpus) if entry[0] <= end] or self._prices(pool, vcpus)[:1]
        start = start or end
        before = [entry for entry in known if entry[0] <= start]
        return sorted([*before[-1:], *(entry for entry in known if entry[0] > start)], reverse=True)

    def whole_history(self, pool: Pool) -> list[tuple[datetime, float]]:
        """Every price the pool has had, oldest first, each with the time from which it held."""
        return list(self._prices(pool, 4))

    def reset(self, pool: Pool) -> None:
        """Take back the pool's limit and error; its price stays."""
        self.capacity.pop(pool, None)
        self.errors.pop(pool, None)

    def refusal(
        self, pool: Pool, *, spot: bool, max_price: float | None, vcpus: int, used: Iterable[int]
    ) -> Refusal | None:
        """Why one more instance can't start in `pool`, or None. `used`: vCPU of each Spot instance not yet gone."""
        if pool in self.errors:
            return self.errors[pool]
        if self.capacity.get(pool, 1) <= 0:
            return NO_CAPACITY
        if not spot:
            return None
        price = self.price(pool, vcpus)
        if max_price is not None and max_price < price:
            return Refusal(
                "SpotMaxPriceTooLow",
                f"Your Spot request price of {max_price} is lower than the minimum required Spot request "
                f"fulfillment price of {price}.",
            )
        if self.spot_vcpus is not None and sum(used) + vcpus > self.spot_vcpus:
            return OVER_QUOTA
        return None

    def take(self, pool: Pool) -> None:
        if pool in self.capacity:
            self.capacity[pool] -= 1

    def _prices(self, pool: Pool, vcpus: int) -> list[tuple[datetime, float]]:
        if pool not in self.prices:
            seed = SEED_PRICES.get(pool[0], round(PRICE_PER_VCPU * vcpus, 4))
            self.prices[pool] = [(self.opened, seed)]
        return self.prices[pool]
