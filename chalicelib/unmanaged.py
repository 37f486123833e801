"""Instances of the account that are not ours: what they cost is shown, and only under `guard: account` are they ended.

`spent` is pure; `Unmanaged` keeps the month's figures in the table, written anew when something has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dacite import from_dict

from chalicelib.codec import CONFIG, Skip, Unreadable, plain, reading, strict, to_item
from chalicelib.core import calendar
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO, cost
from chalicelib.instances import Instance
from chalicelib.ledger import Ledger

_WRITE_EVERY = timedelta(minutes=30)


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
    """What runs beside us this month. `ended_usd` is what those that are gone had cost."""

    month: str
    at: datetime
    instances: tuple[Foreign, ...] = ()
    ended_usd: Decimal = ZERO

    @property
    def usd(self) -> Decimal:
        return self.ended_usd + sum((i.usd for i in self.instances), ZERO)


def spent(
    before: Report | None,
    running: Iterable[Instance],
    usd_hour: Mapping[str, Decimal | None],
    now: datetime,
    policy: Policy,
) -> Report:
    """The month's figures now. `usd_hour` is by instance type."""
    month = calendar.month(now, policy)
    if before is not None and before.month != month:
        before = None
    here = {i.instance_id: i for i in running}
    found = []
    for instance in here.values():
        price = usd_hour.get(instance.instance_type)
        seconds = sum((s for m, s in calendar.pieces(instance.launched_at, now, policy) if m == month), ZERO)
        usd = cost(price, timedelta(seconds=float(seconds))) if price is not None else ZERO
        found.append(
            Foreign(
                instance.instance_id,
                instance.instance_type,
                instance.launched_at,
                instance.protected,
                price,
                usd,
            )
        )
    gone = [i.usd for i in (before.instances if before else ()) if i.instance_id not in here]
    ended = (before.ended_usd if before else ZERO) + sum(gone, ZERO)
    return Report(month, now, tuple(sorted(found, key=lambda i: (-i.usd, i.instance_id))), ended)


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
        known = {i.instance_id for i in before.instances} if before else set()
        same = before is not None and known == {i.instance_id for i in running}
        if same and before is not None and now - before.at < _WRITE_EVERY:
            return before
        prices = {kind: self._price(kind) for kind in {i.instance_type for i in running}}
        after = spent(before, running, prices, now, policy)
        item = {"pk": "UNMANAGED", "sk": "REPORT", "report": plain(after)}
        self._client.put_item(TableName=self._table, Item=to_item(item))
        return after
