"""What instances cost, worked out a second time from the host's own record and the market's prices, to check the ledger by.

Nothing here knows the controller's arithmetic. EC2 bills an instance from `running` to `shutting-down`, a minute at least,
by the second; the ledger counts from LaunchTime, which is at `pending`, so it may be dearer by the time of booting. A Spot
instance that EC2 takes back within its first hour costs its disk and address only. Pure: record in, USD and sentences out.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from spotrelay.rehearsal.ec2_market import ON_DEMAND_PRICES

GP3_USD_GB_MONTH, ADDRESS_USD_HOUR = Decimal("0.08"), Decimal("0.005")
MINIMUM, FIRST_HOUR = timedelta(seconds=60), timedelta(hours=1)
CENT = Decimal("0.01")
# EC2 tells ends in whole seconds, and a rehearsal's machine is slow to look.
LOOSE = timedelta(seconds=1.5)
STATE_CHANGE = "EC2 Instance State-change Notification"


@dataclass(frozen=True)
class Life:
    """An instance as its host recorded it. `running` None: it never was; `ended` is when it began to shut down."""

    instance_id: str
    kind: str
    zone: str
    spot: bool
    launched: datetime
    running: datetime | None
    ended: datetime
    reason: str

    @property
    def credited(self) -> bool:
        return self.reason.startswith("Server.SpotInstance") and self.ended - self.launched < FIRST_HOUR


@dataclass(frozen=True)
class Priced:
    """A Spot price of a pool, USD per hour, and from when it held."""

    at: datetime
    usd_hour: Decimal


Prices = Mapping[tuple[str, str], Sequence[Priced]]


def lives(instances: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> dict[str, Life]:
    """By id, the instances that have ended, from what the host shows of instances and events."""
    times: dict[tuple[str, str], datetime] = {}
    for event in events:
        if event["detail_type"] == STATE_CHANGE:
            key = (event["detail"]["instance-id"], event["detail"]["state"])
            times.setdefault(key, datetime.fromisoformat(event["at"]))
    return {
        i["id"]: Life(
            i["id"],
            i["type"],
            i["az"],
            i["lifecycle"] == "spot",
            datetime.fromisoformat(i["launched_at"]),
            times.get((i["id"], "running")),
            times[i["id"], "shutting-down"],
            i["reason"] or "",
        )
        for i in instances
        if (i["id"], "shutting-down") in times
    }


def prices(found: Mapping[tuple[str, str], Iterable[Mapping[str, Any]]]) -> Prices:
    """Prices as the host's control API gives them, by pool."""
    return {
        pool: [Priced(datetime.fromisoformat(p["at"]), Decimal(str(p["usd_hour"]))) for p in each]
        for pool, each in found.items()
    }


def highest(known: Sequence[Priced], start: datetime, end: datetime) -> Decimal:
    """The highest price in force between two times. The first holds for all time before it."""
    before = [p for p in known if p.at <= start] or list(known[:1])
    return max(p.usd_hour for p in [*before[-1:], *(p for p in known if start < p.at <= end)])


def billed(
    life: Life, cuts: Iterable[datetime], known: Prices, disk_gb: int, shift: timedelta = timedelta()
) -> dict[str, Decimal]:
    """USD by calendar month (yyyy-mm, UTC) of one instance. Raises KeyError when its price isn't known.

    `cuts` are the times at which a slice was settled: each slice is billed at the highest price in force during it.
    `shift` is how far the calendar was ahead.
    """
    if life.running is None:
        return {}
    end = max(life.ended, life.running + MINIMUM)
    inside = sorted(cut for cut in cuts if life.running < cut < life.ended)
    found: dict[str, Decimal] = {}
    for start, until in zip([life.running, *inside], [*inside, end], strict=True):
        price = Decimal(0) if life.credited else _price(life, known, start, min(until, life.ended))
        for month, seconds in pieces(start, until, shift):
            beside = GP3_USD_GB_MONTH * disk_gb / hours(month) + ADDRESS_USD_HOUR
            found[month] = found.get(month, Decimal(0)) + (price + beside) * seconds / 3600
    return found


def _price(life: Life, known: Prices, start: datetime, end: datetime) -> Decimal:
    if not life.spot:
        return Decimal(str(ON_DEMAND_PRICES[life.kind]))
    return highest(known[life.kind, life.zone], start, end)


def pieces(start: datetime, end: datetime, shift: timedelta) -> Iterator[tuple[str, Decimal]]:
    """A span as (month, seconds)."""
    at = start
    while at < end:
        there = at + shift
        first = there.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        turn = (first + timedelta(days=32)).replace(day=1) - shift
        until = min(end, turn)
        yield f"{there:%Y-%m}", Decimal((until - at) // timedelta(microseconds=1)) / 1_000_000
        at = until


def hours(month: str) -> int:
    """How many hours a month (yyyy-mm) has: what EBS divides a GB-month by."""
    year, number = map(int, month.split("-"))
    return 24 * monthrange(year, number)[1]


def total(bills: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    """Several bills as one, by month."""
    found: dict[str, Decimal] = {}
    for bill in bills:
        for month, usd in bill.items():
            found[month] = found.get(month, Decimal(0)) + usd
    return found


def compared(bill: Mapping[str, Decimal], settled: Mapping[str, str]) -> list[str]:
    """How what the ledger settled in each month differs from the bill; empty when they agree to the cent."""
    problems = []
    for month in sorted({*bill, *settled}):
        ledger, ours = Decimal(settled.get(month, "0")), bill.get(month, Decimal(0))
        if abs(ledger - ours) >= CENT:
            problems.append(f"the ledger settled {ledger} USD in {month}, and the instances cost {ours:.6f} USD")
    return problems


def lines_wrong(ledger: Mapping[str, Any]) -> list[str]:
    """Whether a run's lines are all settled and sum to what its account says."""
    lines = ledger["lines"]
    whole = sum((Decimal(line["usd"]) for line in lines), Decimal(0))
    problems = [f"line {_name(line)} is still reserved" for line in lines if line["entry"] == "reserved"]
    if whole != Decimal(ledger["settled_usd"]):
        problems.append(f"the ledger's lines sum to {whole} USD, and {ledger['settled_usd']} USD are settled")
    return problems


def slices_wrong(lines: Iterable[Mapping[str, Any]], life: Life, known: Prices) -> list[str]:
    """Whether the settled lines of one attempt lie within its instance's life, at the price that was in force."""
    problems = []
    # A first minute is charged whole, however short the life was.
    latest = max(life.ended, life.launched + MINIMUM) + LOOSE
    for line in lines:
        if line["entry"] != "settled":
            continue
        start, end = datetime.fromisoformat(line["start"]), datetime.fromisoformat(line["end"])
        if start < life.launched - LOOSE or end > latest:
            problems.append(
                f"line {_name(line)} is from {start} to {end}, and the instance lived from {life.launched} to {life.ended}"
            )
        if line["source"] == "spot_history":
            price = highest(known[life.kind, life.zone], start, max(start, min(end, life.ended)))
            if Decimal(line["rates_usd_hour"]["instance"]) != price:
                said = line["rates_usd_hour"]["instance"]
                problems.append(f"line {_name(line)} is settled at {said} USD/h; the highest price then was {price}")
    return problems


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['attempt']}.{line['seq']}"


def seconds_wrong(lines: Sequence[Mapping[str, Any]], life: Life) -> list[str]:
    """Whether the settled seconds of one attempt are those of its instance's life: counted once, and all of them."""
    settled = [line for line in lines if line["entry"] == "settled"]
    counted = sum((timedelta(seconds=line["seconds"]) for line in settled), timedelta())
    least = max(life.ended - (life.running or life.ended), MINIMUM) - LOOSE
    most = max(life.ended - life.launched, MINIMUM) + LOOSE
    if settled and not least <= counted <= most:
        return [
            f"attempt {settled[0]['attempt']} was charged {counted.total_seconds():.1f} s, and lived {most - LOOSE}"
        ]
    return []
