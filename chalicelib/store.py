"""The table: runs, their timeline, the instances' way back to them, and the money, changed together or not at all.

Every write of a run is conditional on the version that was read; the money that a change moves is in the same
transaction. Reads that a decision rests on are strongly consistent; only the list of live runs, which just says where
to look, is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.codec import from_item, plain, run_from, to_item
from chalicelib.core.events import Note
from chalicelib.core.ledger import Movement, movements
from chalicelib.core.model import Run


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
            self._put({"pk": f"RUN#{run.name}", "sk": "SPEC", "hash": spec_hash, "spec": spec}),
            self._put(
                {
                    "pk": f"LEDGER#{run.name}",
                    "sk": "RUN",
                    "free": run.limits.cost_usd,
                    "reserved": Decimal(0),
                    "settled": Decimal(0),
                }
            ),
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
        return (item["spec"], item["hash"]) if item else None

    def run_on(self, instance_id: str) -> str | None:
        """The name of the run whose attempt has this instance; None when it is not ours."""
        item = self._get(f"INSTANCE#{instance_id}", "INSTANCE")
        return str(item["run"]) if item else None

    def save(self, before: Run, after: Run, notes: tuple[Note, ...], now: datetime) -> Run:
        """Save a changed run, its notes, its new instances and the money it moves. Raises Conflict, OverLimit."""
        after = replace(after, version=before.version + 1)
        money = movements(before, after)
        for month in {m.month for m in money}:
            self._open_month(month)
        head = {
            "Put": {
                "TableName": self._table,
                "Item": to_item(self._run_item(after)),
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": to_item({":before": before.version}),
            }
        }
        moves = [write for m in money for write in self._move(after.name, m)]
        rest = [*self._pointers(before, after), *self._notes(after, notes, now)]
        try:
            self._client.transact_write_items(TransactItems=[head, *moves, *rest])
        except ClientError as error:
            failed = _failed_conditions(error)
            if 0 in failed:
                raise Conflict(after.name) from error
            if failed:
                index = failed[0] - 1
                raise OverLimit("month" if index % 2 == 0 else "run", money[index // 2].needs) from error
            raise
        return after

    def live(self) -> Iterator[str]:
        """Names of the runs with something left to do: where to look, not what is true of them."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, IndexName="live")
        for page in pages:
            for item in page["Items"]:
                yield str(from_item(item)["live"])

    def timeline(self, name: str) -> Iterator[dict[str, Any]]:
        """The run's notes, oldest first: at, reason, message, attempt."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
            ExpressionAttributeValues=to_item({":pk": f"RUN#{name}", ":sk": "EVENT#"}),
            ConsistentRead=True,
        )
        for page in pages:
            yield from (from_item(i) for i in page["Items"])

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

    def _open_month(self, month: str) -> None:
        """Give a month its limit before its first movement; harmless when it has one."""
        item = {
            "pk": f"LEDGER#{month}",
            "sk": "MONTH",
            "limit": self._limit,
            "free": self._limit,
            "reserved": Decimal(0),
            "settled": Decimal(0),
        }
        with suppress(self._client.exceptions.ConditionalCheckFailedException):
            self._client.put_item(
                TableName=self._table, Item=to_item(item), ConditionExpression="attribute_not_exists(pk)"
            )

    def _move(self, run: str, move: Movement) -> list[dict[str, Any]]:
        return [self._account(f"LEDGER#{move.month}", "MONTH", move), self._account(f"LEDGER#{run}", "RUN", move)]

    def _account(self, pk: str, sk: str, move: Movement) -> dict[str, Any]:
        update: dict[str, Any] = {
            "TableName": self._table,
            "Key": to_item({"pk": pk, "sk": sk}),
            "UpdateExpression": "ADD #free :less, reserved :reserved, settled :settled",
            "ExpressionAttributeNames": {"#free": "free"},
            "ExpressionAttributeValues": to_item(
                {":less": -move.needs, ":reserved": move.reserved, ":settled": move.settled}
            ),
        }
        if move.needs > 0:
            update["ConditionExpression"] = "#free >= :needs"
            update["ExpressionAttributeValues"] |= to_item({":needs": move.needs})
        return {"Update": update}


def _failed_conditions(error: ClientError) -> list[int]:
    """Which items of a transaction were refused by their condition. A throttle or a clash with another is not that."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return [n for n, r in enumerate(reasons) if r.get("Code") == "ConditionalCheckFailed"]
