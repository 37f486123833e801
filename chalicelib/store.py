"""The table: runs, their timeline, the instances' way back to them, and the money, changed together or not at all.

Every write of a run is conditional on the version that was read; the money that a change moves is in the same
transaction. Reads that a decision rests on are strongly consistent; only the list of live runs, which just says where
to look, is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.codec import from_item, plain, run_from, to_item
from chalicelib.core.events import Note
from chalicelib.core.ledger import Movement, movements
from chalicelib.core.model import Run
from chalicelib.records import listing


class Conflict(Exception):
    """Somebody else changed the run first: load it, decide again, save again."""


class Exists(Exception):
    """A run of this name is there already."""


class OverLimit(Exception):
    """The month's limit does not cover the reservation. `which` is `month` or `run`."""

    def __init__(self, which: str, needed: Decimal) -> None:
        super().__init__(f"the {which}'s limit does not cover {needed} USD more")
        self.which = which
        self.needed = needed


class Store:
    def __init__(self, client: Any, table: str, limit_usd: Decimal) -> None:
        self._client = client
        self._table = table
        self._limit = limit_usd

    def create(self, run: Run, spec: dict[str, Any], spec_hash: str) -> Run:
        """Save a new run with its spec; both or neither. Raises Exists."""
        run = replace(run, version=1)
        puts = [
            self._put(self._run_item(run), "attribute_not_exists(pk)"),
            self._put({"pk": f"RUN#{run.name}", "sk": "SPEC", "hash": spec_hash, "spec": json.dumps(spec)}),
            self._put(
                {
                    "pk": f"LEDGER#{run.name}",
                    "sk": "RUN",
                    "free": run.limits.cost_usd,
                    "reserved": Decimal(0),
                    "settled": Decimal(0),
                }
            ),
            self._put(listing(run)),
            *self._notes(run, (Note(run.reason, run.message),), run.created_at),
        ]
        try:
            self._client.transact_write_items(TransactItems=puts)
        except ClientError as error:
            if _failed_conditions(error):
                raise Exists(run.name) from error
            raise
        return run

    def load(self, name: str) -> Run | None:
        item = self._get(f"RUN#{name}", "RUN")
        return run_from(item["run"]) if item else None

    def spec(self, name: str) -> tuple[dict[str, Any], str] | None:
        """The spec as submitted and its hash."""
        item = self._get(f"RUN#{name}", "SPEC")
        return (json.loads(item["spec"]), str(item["hash"])) if item else None

    def run_on(self, instance_id: str) -> str | None:
        """The name of the run whose attempt has this instance; None when it is not ours."""
        item = self._get(f"INSTANCE#{instance_id}", "INSTANCE")
        return str(item["run"]) if item else None

    def save(self, before: Run, after: Run, notes: tuple[Note, ...], now: datetime) -> Run:
        """Save a changed run, its notes, its new instances and the money it moves. Raises Conflict, OverLimit."""
        after = replace(after, version=before.version + 1)
        money = movements(before, after)
        head = {
            "Put": {
                "TableName": self._table,
                "Item": to_item(self._run_item(after)),
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": to_item({":before": before.version}),
            }
        }
        accounts = _accounts(after.name, money)
        moves = [self._account(pk, sk, move) for (pk, sk), move in accounts.items()]
        rest = [*self._pointers(before, after), *self._notes(after, notes, now)]
        try:
            self._client.transact_write_items(TransactItems=[head, *moves, *rest])
        except ClientError as error:
            failed = _failed_conditions(error)
            if 0 in failed:
                raise Conflict(after.name) from error
            if failed:
                (_, which), move = list(accounts.items())[failed[0] - 1]
                raise OverLimit(which.lower(), move.needs) from error
            raise
        return after

    def live(self) -> Iterator[str]:
        """Names of the runs with something left to do: where to look, not what is true of them."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, IndexName="live")
        for page in pages:
            for item in page["Items"]:
                yield str(from_item(item)["live"])

    def timeline(self, name: str, limit: int = 100, after: str = "") -> tuple[list[dict[str, Any]], str | None]:
        """The run's notes, oldest first (at, status, reason, message, attempt), and the cursor of the next page."""
        answer = self._client.query(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :from AND :to",
            # `~` sorts after every digit: all events from just after the cursor.
            ExpressionAttributeValues=to_item(
                {":pk": f"RUN#{name}", ":from": f"EVENT#{after}~" if after else "EVENT#", ":to": "EVENT#~"}
            ),
            ConsistentRead=True,
            Limit=limit,
        )
        items = [from_item(i) for i in answer["Items"]]
        more = "LastEvaluatedKey" in answer and items
        return items, str(items[-1]["sk"]).removeprefix("EVENT#") if more else None

    def month(self, month: str) -> dict[str, Decimal]:
        """limit, free, reserved and settled of a month (yyyy-mm), in USD."""
        item = self._get(f"LEDGER#{month}", "MONTH")
        if item is None:
            return {"limit": self._limit, "free": self._limit, "reserved": Decimal(0), "settled": Decimal(0)}
        return {name: item[name] for name in ("limit", "free", "reserved", "settled")}

    def _get(self, pk: str, sk: str) -> dict[str, Any] | None:
        key = to_item({"pk": pk, "sk": sk})
        item = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")
        return from_item(item) if item else None

    def _put(self, values: dict[str, Any], condition: str | None = None) -> dict[str, Any]:
        put: dict[str, Any] = {"TableName": self._table, "Item": to_item(values)}
        if condition:
            put["ConditionExpression"] = condition
        return {"Put": put}

    def _run_item(self, run: Run) -> dict[str, Any]:
        item = {"pk": f"RUN#{run.name}", "sk": "RUN", "version": run.version, "run": plain(run)}
        if run.deadline is not None:
            item |= {"live": run.name, "due": run.deadline.isoformat()}
        return item

    def _pointers(self, before: Run, after: Run) -> list[dict[str, Any]]:
        known = {a.instance_id for a in before.attempts}
        return [
            self._put({"pk": f"INSTANCE#{a.instance_id}", "sk": "INSTANCE", "run": after.name, "attempt": a.number})
            for a in after.attempts
            if a.instance_id and a.instance_id not in known
        ]

    def _notes(self, run: Run, notes: tuple[Note, ...], now: datetime) -> list[dict[str, Any]]:
        return [
            self._put(
                {
                    "pk": f"RUN#{run.name}",
                    "sk": f"EVENT#{run.version:08d}#{n:02d}",
                    "at": now.isoformat(),
                    "status": run.status.value,
                    **plain(note),
                }
            )
            for n, note in enumerate(notes)
        ]

    def _account(self, pk: str, sk: str, move: Movement) -> dict[str, Any]:
        """A month's first movement gives it its limit: no call of its own is spent on that."""
        values = {":needs": move.needs, ":reserved": move.reserved, ":settled": move.settled, ":zero": Decimal(0)}
        sets = (
            "reserved = if_not_exists(reserved, :zero) + :reserved, settled = if_not_exists(settled, :zero) + :settled"
        )
        if sk == "MONTH":
            values[":limit"] = self._limit
            sets += ", #limit = if_not_exists(#limit, :limit), #free = if_not_exists(#free, :limit) - :needs"
        else:
            sets += ", #free = #free - :needs"
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": to_item({"pk": pk, "sk": sk}),
            "UpdateExpression": f"SET {sets}",
            "ExpressionAttributeNames": {"#free": "free"} | ({"#limit": "limit"} if sk == "MONTH" else {}),
            "ExpressionAttributeValues": to_item(values),
        }
        if move.needs > 0:
            new_month = sk == "MONTH" and self._limit >= move.needs
            update["ConditionExpression"] = "#free >= :needs" + (" OR attribute_not_exists(#free)" if new_month else "")
        return {"Update": update}


def _accounts(run: str, money: tuple[Movement, ...]) -> dict[tuple[str, str], Movement]:
    """What each item of the ledger gains and loses, by its key: a transaction may touch an item only once."""
    sums: dict[tuple[str, str], Movement] = {}
    for move in money:
        for key in ((f"LEDGER#{move.month}", "MONTH"), (f"LEDGER#{run}", "RUN")):
            held = sums.get(key)
            total = move
            if held is not None:
                total = replace(move, reserved=held.reserved + move.reserved, settled=held.settled + move.settled)
            sums[key] = total
    return sums


def _failed_conditions(error: ClientError) -> list[int]:
    """Which items of a transaction were refused by their condition. A throttle or a clash with another is not that."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return [n for n, r in enumerate(reasons) if r.get("Code") == "ConditionalCheckFailed"]
