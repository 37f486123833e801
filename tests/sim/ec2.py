"""EC2 in virtual time: pools with prices and capacity, instances that are billed as EC2 bills them, and Scheduler's entries.

The bill is worked out here from when instances ran and what their pools cost at each moment, by nothing of the controller.
"""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from chalicelib.core import events as ev
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, Offer, PriceSource, Run
from chalicelib.fleet import Unanswered
from tests.sim.faults import CallFailed, Faults, NoAnswer

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
DISK_USD_MONTH = Decimal("0.08") * 50
ADDRESS_USD_HOUR = Decimal("0.005")
BY_EC2, BY_USER, BY_ITSELF = (
    "Server.SpotInstanceTermination",
    "Client.UserInitiatedShutdown",
    "Client.InstanceInitiatedShutdown",
)


@dataclass
class Pool:
    instance_type: str
    zone: str
    prices: list[tuple[datetime, Decimal]]
    capacity: bool = True

    @property
    def name(self) -> str:
        return f"{self.instance_type}/{self.zone}/spot"

    def price(self, at: datetime) -> Decimal:
        return self.prices[max(0, bisect_right(self.prices, at, key=_since) - 1)][1]

    def highest(self, start: datetime, end: datetime) -> Decimal:
        return max([self.price(start), *(usd for _, usd in self._between(start, end))])

    def changes(self, start: datetime, end: datetime) -> list[datetime]:
        """When its price changed after `start` and before `end`."""
        return sorted({at for at, _ in self._between(start, end) if at < end})

    def _between(self, start: datetime, end: datetime) -> list[tuple[datetime, Decimal]]:
        first, last = bisect_right(self.prices, start, key=_since), bisect_right(self.prices, end, key=_since)
        return self.prices[first:last]


def _since(change: tuple[datetime, Decimal]) -> datetime:
    return change[0]


@dataclass(eq=False, repr=False)
class Instance:
    instance_id: str
    run: str
    attempt: int
    pool: Pool
    max_price: Decimal
    launched_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    notice_ends_at: datetime | None = None
    protected: bool = False
    listed_at: datetime | None = None  # until then DescribeInstances does not know it yet

    def __repr__(self) -> str:
        return f"{self.instance_id} of attempt {self.attempt} of {self.run}"

    @property
    def running(self) -> bool:
        return self.ended_at is None

    def bill(self, now: datetime, month: Callable[[datetime], str]) -> dict[str, Decimal]:
        """USD by month up to now: the price in force at each moment, volume and address, a minute at least.

        What is left of that minute when it has ended costs what its last moment did.
        """
        end = max(self.ended_at or now, self.launched_at + MINUTE)
        free = self.reason == BY_EC2 and self.ended_at is not None and self.ended_at - self.launched_at < HOUR
        changes = self.pool.changes(self.launched_at, self.ended_at or now)
        bill: dict[str, Decimal] = {}
        for start, stop in zip([self.launched_at, *changes], [*changes, end], strict=True):
            usd = ZERO if free else min(self.pool.price(start), self.max_price)
            for name, seconds in _months(start, stop, month):
                year, number = map(int, name.split("-"))
                hours = 24 * monthrange(year, number)[1]
                hourly = usd + DISK_USD_MONTH / hours + ADDRESS_USD_HOUR
                bill[name] = bill.get(name, ZERO) + hourly * seconds / 3600
        return bill


ZERO = Decimal(0)


def _months(start: datetime, end: datetime, month: Callable[[datetime], str]) -> list[tuple[str, Decimal]]:
    found = []
    while start < end:
        first = (start.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
        stop = min(end, first)
        found.append((month(start), Decimal(str((stop - start).total_seconds()))))
        start = stop
    return found


@dataclass
class SimEc2:
    """`launched` and `ended` are called with an instance, `scheduled` with an entry of Scheduler, for the world to pass on."""

    clock: Callable[[], datetime]
    faults: Faults
    pools: list[Pool]
    launched: Callable[[Instance], None] = lambda instance: None
    ended: Callable[[Instance], None] = lambda instance: None
    scheduled: Callable[[str, datetime], None] = lambda instance_id, at: None
    instances: dict[str, Instance] = field(default_factory=dict)
    running: dict[str, Instance] = field(default_factory=dict)
    by_token: dict[str, Instance] = field(default_factory=dict)
    entries: dict[str, datetime] = field(default_factory=dict)  # Scheduler's
    vcpus: int | None = None  # the quota; every instance has four
    silent: bool = False  # prices are not told
    _described: dict[str, Instance] = field(default_factory=dict)  # running, or ended within the hour
    _by_tags: dict[tuple[str, int], list[Instance]] = field(default_factory=dict)
    _billed: dict[str, Decimal] = field(default_factory=dict)  # by month, of instances that are over
    _open: dict[str, Instance] = field(default_factory=dict)  # not billed to their end

    # -- what the shell asks (fleet, watchdog, meter) ------------------------------------------------------------------

    def launch(self, run: str, attempt: Attempt) -> ev.Launched | ev.LaunchRefused:
        """As `fleet`: an error of EC2's leaves open what came of it; no answer at all rises as it is."""
        try:
            return self.faults.call("ec2", "CreateFleet", lambda: self._launch(run, attempt))
        except NoAnswer:
            raise
        except CallFailed as error:
            raise Unanswered(str(error)) from error

    def _launch(self, run: str, attempt: Attempt) -> ev.Launched | ev.LaunchRefused:
        assert attempt.launch
        token = attempt.launch.token
        if token in self.by_token:
            first = self.by_token[token]
            if first.running:
                return ev.Launched(attempt.number, token, first.instance_id, first.pool.name)
            known = self._tagged(run, attempt)  # after IdempotentInstanceTerminated, as `fleet` looks
            if known is None:
                raise Unanswered("IdempotentInstanceTerminated")
            return known
        if self.vcpus is not None and 4 * len(self.running) + 4 > self.vcpus:
            return ev.LaunchRefused(
                attempt.number, token, ev.Refusal.QUOTA, "MaxSpotInstanceCountExceeded: the quota is used."
            )
        for offer in attempt.launch.offers:
            pool = self.pool(offer)
            if pool.capacity and pool.price(self.clock()) <= offer.max_price:
                return self._start(run, attempt, pool, offer)
        pools = tuple(o.pool for o in attempt.launch.offers)
        return ev.LaunchRefused(
            attempt.number, token, ev.Refusal.CAPACITY, "InsufficientInstanceCapacity: no pool has any.", pools
        )

    def _start(self, run: str, attempt: Attempt, pool: Pool, offer: Offer) -> ev.Launched:
        assert attempt.launch
        instance = Instance(
            f"i-{len(self.instances) + 1:017x}", run, attempt.number, pool, offer.max_price, self.clock()
        )
        self.instances[instance.instance_id] = self.by_token[attempt.launch.token] = instance
        for index in (self.running, self._described, self._open):
            index[instance.instance_id] = instance
        self._by_tags.setdefault((run, attempt.number), []).append(instance)
        self.launched(instance)
        return ev.Launched(attempt.number, attempt.launch.token, instance.instance_id, pool.name)

    def appear(self, run: str, attempt: int) -> Instance:
        """An instance that no launch here has made; what it costs is nobody's to have reserved."""
        instance = Instance(
            f"i-{len(self.instances) + 1:017x}",
            run,
            attempt,
            self.pools[0],
            self.pools[0].price(self.clock()),
            self.clock(),
        )
        for index in (self.instances, self.running, self._described):
            index[instance.instance_id] = instance
        return instance

    def find(self, run: str, attempt: Attempt) -> ev.Launched | None:
        self.faults.read("ec2", "DescribeInstances tags")
        return self._tagged(run, attempt)

    def _tagged(self, run: str, attempt: Attempt) -> ev.Launched | None:
        assert attempt.launch
        for instance in self._by_tags.get((run, attempt.number), ()):
            if self.lags(instance):
                continue
            if instance.running or (instance.ended_at and self.clock() - instance.ended_at < HOUR):
                return ev.Launched(attempt.number, attempt.launch.token, instance.instance_id, instance.pool.name)
        return None

    def end(self, instance_id: str) -> None:
        self.faults.call("ec2", "TerminateInstances", lambda: self.stop(instance_id, BY_USER))

    def set(self, instance_id: str, at: datetime, moves: bool) -> None:
        def act() -> None:
            self.entries[instance_id] = at
            self.scheduled(instance_id, at)

        self.faults.call("scheduler", "UpdateSchedule" if moves else "CreateSchedule", act)

    def clear(self, instance_id: str) -> None:
        self.faults.call("scheduler", "DeleteSchedule", lambda: self.entries.pop(instance_id, None))

    def evidence(self, run: Run, attempt: Attempt, now: datetime) -> Evidence:
        """What EC2 can prove; an hour after its end it has forgotten the instance."""
        self.faults.read("ec2", "DescribeInstances id")
        found = self.instances.get(attempt.instance_id or "")
        if found is None or attempt.lease is None:
            return Evidence()
        usd = None if self.silent else found.pool.highest(attempt.lease.start, found.ended_at or now)
        if found.ended_at and now - found.ended_at > HOUR:
            return Evidence(usd_hour=usd, source=PriceSource.SPOT_HISTORY)
        return Evidence(found.launched_at, found.ended_at, found.reason, usd, PriceSource.SPOT_HISTORY)

    # -- what happens ---------------------------------------------------------------------------------------------------

    def stop(self, instance_id: str, reason: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.running:
            instance.ended_at, instance.reason = self.clock(), reason
            del self.running[instance_id]
            self.ended(instance)

    def described(self) -> Iterator[Instance]:
        """What DescribeInstances lists: the running ones, and those that ended within the hour."""
        for instance in list(self._described.values()):
            if instance.ended_at and self.clock() - instance.ended_at >= HOUR:
                del self._described[instance.instance_id]
            elif not self.lags(instance):
                yield instance

    def lags(self, instance: Instance) -> bool:
        """Whether EC2 does not describe it yet: what a launch has answered is listed seconds later, now and then minutes."""
        return instance.listed_at is not None and self.clock() < instance.listed_at

    def pool(self, offer: Offer) -> Pool:
        return next(p for p in self.pools if (p.instance_type, p.zone) == (offer.instance_type, offer.zone))

    def offers(self) -> tuple[Offer, ...]:
        """Today's offers, capped at twice the price, cheapest first."""
        now = self.clock()
        caps = [(_up(pool.price(now) * 2), pool) for pool in self.pools]
        return tuple(
            Offer(pool.instance_type, pool.zone, f"subnet-{pool.zone}", cap)
            for cap, pool in sorted(caps, key=lambda each: (each[0], each[1].name))
        )

    def bill(self, now: datetime, month: Callable[[datetime], str]) -> dict[str, Decimal]:
        """The true spend of all instances by month."""
        total = self._billed.copy()
        for instance in list(self._open.values()):
            over = instance.ended_at and now >= instance.ended_at + MINUTE
            for name, usd in instance.bill(now, month).items():
                total[name] = total.get(name, ZERO) + usd
                if over:
                    self._billed[name] = self._billed.get(name, ZERO) + usd
            if over:
                del self._open[instance.instance_id]
        return total


def _up(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.0001"), rounding=ROUND_CEILING)
