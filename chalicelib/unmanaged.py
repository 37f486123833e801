"""Instances of the account that are not ours: what they cost is shown, and only under `guard: account` are they ended.

`spent` is pure; `Unmanaged` keeps the month's figures in the table, written anew when something has changed. They are one item
of bounded size, however many instances there are: the dearest are named, of the others the count and the sum are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dacite import from_dict

from chalicelib.codec import CONFIG, Skip, Unreadable, plain, reading, strict, to_item
from chalicelib.core import calendar
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO, cost
from chalicelib.instances import Instance
from chalicelib.ledger import Ledger

_WRITE_EVERY = timedelta(minutes=30)
NAMED = 100  # instances in the report: at 200 bytes each, far from the 400 KB that an item of DynamoDB may have


@dataclass(frozen=True)
class Foreign:
    """An instance that is not ours, and what it has cost this month; `usd_hour` None: nobody names a price."""

    instance_id: str
    instance_type: str
    launched_at: datetime
    protected: bool
    usd_hour: Decimal | None
    usd: Decimal


@dataclass(frozen=True)
class Report:
    """What runs beside us this month: the dearest by name, and how many others run and what these have cost.

    `ended_usd` is what those that are gone had cost. `seen` names the set of instances that the figures are about.
    """

    month: str
    at: datetime
    instances: tuple[Foreign, ...] = ()
    ended_usd: Decimal = ZERO
    unnamed: int = 0
    unnamed_usd: Decimal = ZERO
    seen: str = ""

    @property
    def usd(self) -> Decimal:
        return self.ended_usd + self.unnamed_usd + sum((i.usd for i in self.instances), ZERO)


def spent(
    before: Report | None,
    running: Sequence[Instance],
    usd_hour: Mapping[str, Decimal | None],
    now: datetime,
    policy: Policy,
    named: int = NAMED,
) -> Report:
    """The month's figures now. `usd_hour` is by instance type; at most `named` instances are in the report by name.

    The month's sum grows by what has run since the figures before: so it keeps what those that are gone had cost, whether they
    were named or not.
    """
    month = calendar.month(now, policy)
    if before is not None and before.month != month:
        before = None

    def since(start: datetime, instance: Instance) -> Decimal:
        price = usd_hour.get(instance.instance_type)
        seconds = sum((s for m, s in calendar.pieces(start, now, policy) if m == month), ZERO)
        return cost(price, timedelta(seconds=float(seconds))) if price is not None else ZERO

    found = [
        Foreign(
            i.instance_id,
            i.instance_type,
            i.launched_at,
            i.protected,
            usd_hour.get(i.instance_type),
            since(i.launched_at, i),
        )
        for i in running
    ]
    found.sort(key=lambda i: (-i.usd, i.instance_id))
    sums = [sum((i.usd for i in part), ZERO) for part in (found[:named], found[named:])]
    grown = sum((since(max(before.at, i.launched_at), i) for i in running), before.usd) if before else ZERO
    # A price that became known meanwhile counts from the launch on.
    ended = max(ZERO, grown - sum(sums))
    return Report(month, now, tuple(found[:named]), ended, len(found[named:]), sums[1], _seen(running))


def _seen(running: Iterable[Instance]) -> str:
    """The same for the same instances in the same state of protection."""
    text = " ".join(sorted(f"{i.instance_id}{'!' if i.protected else ''}" for i in running))
    return hashlib.sha256(text.encode()).hexdigest()


class Unmanaged:
    def __init__(
        self,
        ledger: Ledger,
        client: Any,
        table: str,
        price: Callable[[str], Decimal | None],
        skip: Skip = strict,
    ) -> None:
        """`price` estimates an hour of an instance type; `skip` is told of a report that can't be read."""
        self._skip = skip
        self._ledger, self._client, self._table, self._price = ledger, client, table, price

    def report(self) -> Report | None:
        """The newest; one that can't be read is as good as none, and is soon written anew."""
        item = self._ledger.get("UNMANAGED", "REPORT")
        try:
            with reading("UNMANAGED", "REPORT"):
                return from_dict(Report, item["report"], CONFIG) if item else None
        except Unreadable as error:
            self._skip(error)
            return None

    def keep(self, running: list[Instance], now: datetime, policy: Policy) -> Report | None:
        """Bring the figures up to date; an account with nothing else in it costs no write."""
        before = self.report()
        if not running and (before is None or not before.instances):
            return before
        same = before is not None and (before.month, before.seen) == (calendar.month(now, policy), _seen(running))
        if same and before is not None and now - before.at < _WRITE_EVERY:
            return before
        prices = {kind: self._price(kind) for kind in {i.instance_type for i in running}}
        after = spent(before, running, prices, now, policy)
        item = {"pk": "UNMANAGED", "sk": "REPORT", "report": plain(after)}
        self._client.put_item(TableName=self._table, Item=to_item(item))
        return after
