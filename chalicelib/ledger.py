"""The ledger in the table: what each month and each run has reserved and settled, and one line per lease.

`LEDGER#<month>` has the account (`MONTH`) and each run's part of it (`RUN#<run>`); what storage holds is in `storage`;
`LEDGER#<run>` has the run's own account (`RUN`) and its lines (`LINE#<attempt>#<seq>`). What a change of a run moves is
written by `store.Store` in the change's own transaction, from the items that `updates` makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError
from dacite import from_dict

from chalicelib.codec import CONFIG, Skip, amount, each, from_item, plain, reading, strict, to_item
from chalicelib.core.ledger import Line, LineChange, Movement
from chalicelib.core.money import ZERO

ACCOUNT = ("limit", "free", "reserved", "settled")
_TRIES = 10


class LimitTooLow(Exception):
    """A limit below what a month has settled and reserved already; `account` is that month's, with its name."""

    def __init__(self, month: str, account: dict[str, Decimal]) -> None:
        super().__init__(f"{month} has settled {account['settled']} and reserved {account['reserved']} USD")
        self.month, self.account = month, account


class Ledger:
    def __init__(self, client: Any, table: str, limit_usd: Decimal, skip: Skip = strict) -> None:
        """`limit_usd` is the limit of a stage whose limit nobody has set yet; `skip` is told of a line that can't be read."""
        self._skip = skip
        self._client = client
        self._table = table
        self._limit = limit_usd
        self._opened: set[str] = set()

    # -- reading ---------------------------------------------------------------------------------------------------------

    def limit(self) -> Decimal:
        """The monthly limit in force, USD. Raises Unreadable."""
        item = self.get("BUDGET", "BUDGET")
        with reading("BUDGET", "BUDGET"):
            return amount(item, "limit") if item else self._limit

    def raised_at(self) -> datetime | None:
        """When the monthly limit was last raised; None while it never was."""
        item = self.get("BUDGET", "BUDGET") or {}
        return datetime.fromisoformat(item["raised_at"]) if "raised_at" in item else None

    def month(self, month: str) -> dict[str, Decimal]:
        """limit, free, reserved and settled of a month (yyyy-mm), in USD. Raises Unreadable: nothing is paid from it then."""
        item = self.get(f"LEDGER#{month}", "MONTH")
        if item is None:
            limit = self.limit()
            return {"limit": limit, "free": limit, "reserved": ZERO, "settled": ZERO}
        with reading(f"LEDGER#{month}", "MONTH"):
            return {name: amount(item, name) for name in ACCOUNT}

    def runs(self, month: str) -> list[dict[str, Any]]:
        """Each run's part of a month: run, reserved, settled."""
        return list(each(self.query(f"LEDGER#{month}", "RUN#"), _part_of, self._skip))

    def run(self, run: str) -> dict[str, Decimal]:
        """free, reserved and settled of a run, over all months. Raises Unreadable."""
        item = self.get(f"LEDGER#{run}", "RUN") or {}
        with reading(f"LEDGER#{run}", "RUN"):
            return {"free": amount(item, "free", ZERO), **_sums(item)}

    def lines(self, run: str) -> list[dict[str, Any]]:
        """The run's lines, oldest first, with the fields of `core.ledger.Line`."""
        return list(each(self.query(f"LEDGER#{run}", "LINE#"), _line_of, self._skip))

    def get(self, pk: str, sk: str) -> dict[str, Any] | None:
        key = to_item({"pk": pk, "sk": sk})
        item = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
        return from_item(item) if item else None

    def query(self, pk: str, prefix: str | None = None) -> Iterable[dict[str, Any]]:
        """Every item of a partition, or those whose sort key begins so."""
        within, values = ("pk = :pk", {":pk": pk})
        if prefix is not None:
            within, values = (f"{within} AND begins_with(sk, :sk)", {**values, ":sk": prefix})
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression=within,
            ExpressionAttributeValues=to_item(values),
            ConsistentRead=True,
        )
        return (from_item(item) for page in pages for item in page["Items"])

    # -- months and limits -----------------------------------------------------------------------------------------------

    def open(self, months: Iterable[str]) -> bool:
        """Give each month its account, unless it has one. True when this process had not made sure of one yet."""
        unsure = False
        for month in months:
            if month in self._opened:
                continue
            unsure = True
            limit = self.limit()
            account = {"limit": limit, "free": limit, "reserved": ZERO, "settled": ZERO}
            try:
                self._client.put_item(
                    TableName=self._table,
                    Item=to_item({"pk": f"LEDGER#{month}", "sk": "MONTH", **account}),
                    ConditionExpression="attribute_not_exists(pk)",
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                    raise
            self._opened.add(month)
        return unsure

    def set_limit(self, usd: Decimal, months: list[str], now: datetime, told: Sequence[dict[str, Any]] = ()) -> None:
        """Set the limit of these months (which are open) and of all to come, together. Raises LimitTooLow.

        `told` are items that tell of it, written in the same transaction.
        That it was raised, and when, is written with it: runs that wait go on then, whatever becomes of the caller.
        """
        for _ in range(_TRIES):
            before = {month: self.month(month) for month in months}
            for month, account in before.items():
                if usd < account["settled"] + account["reserved"]:
                    raise LimitTooLow(month, account)
            raised = any(usd > account["limit"] for account in before.values())
            items = [self._set_budget(usd, now if raised else None)]
            items += [self._move_limit(month, account["limit"], usd) for month, account in before.items()]
            items += told
            try:
                self._client.transact_write_items(TransactItems=items)
                return
            except self._client.exceptions.TransactionCanceledException:
                continue  # something was reserved meanwhile: look again
        raise TimeoutError(f"The limit could not be changed: the ledger changed {_TRIES} times meanwhile. Try again.")

    def _set_budget(self, usd: Decimal, raised_at: datetime | None) -> dict[str, Any]:
        at = {":at": raised_at.isoformat()} if raised_at else {}
        return {
            "Update": {
                "TableName": self._table,
                "Key": to_item({"pk": "BUDGET", "sk": "BUDGET"}),
                "UpdateExpression": "SET #limit = :limit" + (", raised_at = :at" if at else ""),
                "ExpressionAttributeNames": {"#limit": "limit"},
                "ExpressionAttributeValues": to_item({":limit": usd, **at}),
            }
        }

    def _move_limit(self, month: str, old: Decimal, new: Decimal) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": to_item({"pk": f"LEDGER#{month}", "sk": "MONTH"}),
                "UpdateExpression": "SET #limit = :new, #free = #free + :more",
                "ConditionExpression": "#limit = :old AND #free >= :least",
                "ExpressionAttributeNames": {"#limit": "limit", "#free": "free"},
                "ExpressionAttributeValues": to_item(
                    {":new": new, ":old": old, ":more": new - old, ":least": max(ZERO, old - new)}
                ),
            }
        }

    # -- what a change of a run writes -----------------------------------------------------------------------------------

    def opening(self, run: str, limit_usd: Decimal) -> dict[str, Any]:
        """A new run's account."""
        return self._put({"pk": f"LEDGER#{run}", "sk": "RUN", "free": limit_usd, "reserved": ZERO, "settled": ZERO})

    def updates(
        self, run: str, money: tuple[Movement, ...], raised: Decimal
    ) -> list[tuple[str, Decimal, dict[str, Any]]]:
        """What moves in the accounts, as (`month` or `run`, USD that must be free, item of a transaction).

        `raised` is by how much limits.cost_usd has been raised.
        """
        months: dict[str, Movement] = {}
        for move in money:
            held = months.get(move.month)
            months[move.month] = _sum(held, move) if held else move
        found = [("month", m.needs, self._account(f"LEDGER#{m.month}", "MONTH", m, m.needs)) for m in months.values()]
        found += [("", ZERO, self._part(run, move)) for move in months.values()]
        if money or raised:
            whole = Movement("", 0, sum((m.reserved for m in money), ZERO), sum((m.settled for m in money), ZERO))
            needs = whole.needs - raised
            found.append(("run", needs, self._account(f"LEDGER#{run}", "RUN", whole, needs)))
        return found

    def moved(self, month: str, reserved: Decimal, settled: Decimal) -> dict[str, Any]:
        """What moves in a month beside any run, as an item of a transaction; the month is open."""
        move = Movement(month, 0, reserved, settled)
        return self._account(f"LEDGER#{month}", "MONTH", move, move.needs)

    def line_items(self, run: str, changes: tuple[LineChange, ...]) -> list[dict[str, Any]]:
        """The lines, each conditional on what it must be before: a lease is reserved once, and settled once."""
        return [self._line(run, change) for change in changes]

    def _line(self, run: str, change: LineChange) -> dict[str, Any]:
        key = {"pk": f"LEDGER#{run}", "sk": f"LINE#{change.attempt:04d}#{change.seq:06d}"}
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
        if change.before is not None:
            condition = {
                "ConditionExpression": "entry = :before",
                "ExpressionAttributeValues": to_item({":before": change.before.value}),
            }
        if change.after is None:
            return {"Delete": {"TableName": self._table, "Key": to_item(key), **condition}}
        return {"Put": {"TableName": self._table, "Item": to_item({**key, **plain(change.after)}), **condition}}

    def _part(self, run: str, move: Movement) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._table,
                "Key": to_item({"pk": f"LEDGER#{move.month}", "sk": f"RUN#{run}"}),
                "UpdateExpression": "SET run = :run ADD reserved :reserved, settled :settled",
                "ExpressionAttributeValues": to_item(
                    {":run": run, ":reserved": move.reserved, ":settled": move.settled}
                ),
            }
        }

    def _account(self, pk: str, sk: str, move: Movement, needs: Decimal) -> dict[str, Any]:
        """Only while `free` covers it; what gives money back needs no leave."""
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": to_item({"pk": pk, "sk": sk}),
            "UpdateExpression": "SET #free = #free - :needs ADD reserved :reserved, settled :settled",
            "ExpressionAttributeNames": {"#free": "free"},
            "ExpressionAttributeValues": to_item(
                {":needs": needs, ":reserved": move.reserved, ":settled": move.settled}
            ),
        }
        if needs > 0:
            update["ConditionExpression"] = "#free >= :needs"
        return {"Update": update}

    def _put(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"Put": {"TableName": self._table, "Item": to_item(values)}}


def _sum(a: Movement, b: Movement) -> Movement:
    return replace(a, reserved=a.reserved + b.reserved, settled=a.settled + b.settled)


def _sums(item: dict[str, Any]) -> dict[str, Decimal]:
    return {name: amount(item, name, ZERO) for name in ("reserved", "settled")}


def _part_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"run": str(item["sk"]).removeprefix("RUN#"), **_sums(item)}


def _line_of(item: dict[str, Any]) -> dict[str, Any]:
    kept = {f.name: item.get(f.name) for f in fields(Line)}
    return plain(from_dict(Line, kept, CONFIG))  # type: ignore[no-any-return]
