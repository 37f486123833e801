"""The table: runs, their timeline, the instances' way back to them, and the money, changed together or not at all.

Every write of a run is conditional on the version that was read; the money that a change moves is in the same
transaction. Reads that a decision rests on are strongly consistent; only the list of live runs, which just says where
to look, is not.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.batches import batch_get
from chalicelib.codec import Skip, each, from_item, moment, plain, reading, run_from, strict, to_item
from chalicelib.core.events import Note
from chalicelib.core.ledger import line_changes, movements
from chalicelib.core.model import Policy, Run
from chalicelib.core.news import News
from chalicelib.glances import Glance, from_text, glance, to_text
from chalicelib.ledger import Ledger
from chalicelib.outbox import outbox_item

_TRIES = 12  # for one transaction that meets others at the same account
_FIRST_PAUSE_S = 0.02


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
    def __init__(
        self,
        client: Any,
        table: str,
        limit_usd: Decimal,
        pause: Callable[[float], None] = time.sleep,
        skip: Skip = strict,
    ) -> None:
        """`limit_usd` is the monthly limit while nobody has set another; `pause` sleeps seconds; `skip` is told of each
        line that can't be read.
        """
        self._client = client
        self._table = table
        self._pause = pause
        self._skip = skip
        self.ledger = Ledger(client, table, limit_usd, skip)

    def create(self, run: Run, spec: dict[str, Any], spec_hash: str) -> Run:
        """Save a new run with its spec; both or neither. Raises Exists."""
        run = replace(run, version=1)
        puts = [
            self._put(self._run_item(run), "attribute_not_exists(pk)"),
            self._put({"pk": f"RUN#{run.name}", "sk": "SPEC", "hash": spec_hash, "spec": json.dumps(spec)}),
            self.ledger.opening(run.name, run.limits.cost_usd),
            self._put(_listing(run)),
            *self._notes(run, (Note(run.reason, run.message),), run.created_at),
        ]
        try:
            self._client.transact_write_items(TransactItems=puts)
        except ClientError as error:
            if _failed(error, "ConditionalCheckFailed"):
                raise Exists(run.name) from error
            raise
        return run

    def load(self, name: str) -> Run | None:
        """Raises Unreadable."""
        item = self.ledger.get(f"RUN#{name}", "RUN")
        with reading(f"RUN#{name}", "RUN"):
            return run_from(item, name) if item else None

    def spec(self, name: str) -> tuple[dict[str, Any], str] | None:
        """The spec as submitted and its hash. Raises Unreadable."""
        item = self.ledger.get(f"RUN#{name}", "SPEC")
        with reading(f"RUN#{name}", "SPEC"):
            return (dict(json.loads(item["spec"])), str(item["hash"])) if item else None

    def run_on(self, instance_id: str) -> str | None:
        """The name of the run whose attempt has this instance; None when it is not ours. Raises Unreadable."""
        item = self.ledger.get(f"INSTANCE#{instance_id}", "INSTANCE")
        with reading(f"INSTANCE#{instance_id}", "INSTANCE"):
            return str(item["run"]) if item else None

    def save(
        self,
        before: Run,
        after: Run,
        now: datetime,
        policy: Policy,
        notes: Sequence[Note] = (),
        news: Sequence[News] = (),
    ) -> Run:
        """Save a changed run with its notes and news, its new instances and the money it moves: all of it or nothing.

        Raises Conflict, OverLimit.
        """
        after = replace(after, version=before.version + 1)
        money = movements(before, after, policy)
        accounts = self.ledger.updates(after.name, money, after.limits.cost_usd - before.limits.cost_usd)
        head = {
            "Put": {
                "TableName": self._table,
                "Item": to_item(self._run_item(after)),
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": to_item({":before": before.version}),
            }
        }
        items = [
            head,
            *(item for _, _, item in accounts),
            *self.ledger.line_items(after.name, line_changes(before, after, policy)),
            *self._pointers(before, after),
            *self._notes(after, notes, now),
            *(self._put(outbox_item(each, f"{after.name}#{after.version:08d}", now)) for each in news),
        ]
        if len(items) == 1:
            return self._save_alone(after, head["Put"])
        for attempt in range(_TRIES):
            try:
                self._client.transact_write_items(TransactItems=items)
                return after
            except ClientError as error:
                failed = _failed(error, "ConditionalCheckFailed")
                if failed:
                    which = accounts[failed[0] - 1] if 0 < failed[0] <= len(accounts) else None
                    if which is None:
                        raise Conflict(after.name) from error
                    if which[0] == "run" or not self.ledger.open({m.month for m in money}):
                        raise OverLimit(which[0], which[1]) from error
                elif not _failed(error, "TransactionConflict"):
                    raise
                else:
                    # Another transaction had its hands on the same account: that refuses nothing.
                    self._pause(random.uniform(0, _FIRST_PAUSE_S * 2 ** min(attempt, 5)))
        raise Conflict(after.name)

    def _save_alone(self, after: Run, put: dict[str, Any]) -> Run:
        """A transaction of one item would cost twice. Raises Conflict, also when it had succeeded unseen."""
        try:
            self._client.put_item(**put)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("ConditionalCheckFailedException", "TransactionConflictException"):
                raise Conflict(after.name) from error
            raise
        return after

    def live(self) -> Iterator[str]:
        """Names of the runs with something left to do."""
        return (seen.name for seen in self.glances())

    def glances(self) -> Iterator[Glance]:
        """The runs with something left to do: where to look, not what is true of them."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, IndexName="live")
        for page in pages:
            for item in page["Items"]:
                yield from_text(item["live"]["S"], item.get("glance", {}).get("S"))

    def load_many(self, names: Iterable[str]) -> dict[str, Run]:
        """These runs by name, read consistently, a hundred in a call; without those that are not there or can't be read."""
        keys = [{"pk": f"RUN#{name}", "sk": "RUN"} for name in dict.fromkeys(names)]
        found = batch_get(self._client, self._table, keys, {"ConsistentRead": True}, self._pause)
        return {run.name: run for run in each(map(from_item, found), _run, self._skip)}

    def count_live(self) -> int:
        """How many runs have no end yet; a moment old, so that a burst may pass a limit by what came in that moment."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, IndexName="live", Select="COUNT")
        return sum(int(page["Count"]) for page in pages)

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
        found = [from_item(i) for i in answer["Items"]]
        more = "LastEvaluatedKey" in answer and found
        items = list(each(found, _noted, self._skip))
        return items, str(found[-1]["sk"]).removeprefix("EVENT#") if more else None

    def _put(self, values: dict[str, Any], condition: str | None = None) -> dict[str, Any]:
        put: dict[str, Any] = {"TableName": self._table, "Item": to_item(values)}
        if condition:
            put["ConditionExpression"] = condition
        return {"Put": put}

    def _run_item(self, run: Run) -> dict[str, Any]:
        item = {"pk": f"RUN#{run.name}", "sk": "RUN", "version": run.version, "run": plain(run)}
        if run.deadline is not None:
            item |= {"live": run.name, "glance": to_text(glance(run))}
        return item

    def _pointers(self, before: Run, after: Run) -> list[dict[str, Any]]:
        known = {a.instance_id for a in before.attempts}
        return [
            self._put({"pk": f"INSTANCE#{a.instance_id}", "sk": "INSTANCE", "run": after.name, "attempt": a.number})
            for a in after.attempts
            if a.instance_id and a.instance_id not in known
        ]

    def _notes(self, run: Run, notes: Sequence[Note], now: datetime) -> list[dict[str, Any]]:
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


def _run(item: dict[str, Any]) -> Run:
    return run_from(item, str(item["pk"]).removeprefix("RUN#"))


def _noted(item: dict[str, Any]) -> dict[str, Any]:
    number = item.get("attempt")
    text = {name: str(item[name]) for name in ("status", "reason", "message")}
    at = moment(item["at"]).isoformat()
    return {"sk": item["sk"], "at": at, **text, "attempt": int(number) if number is not None else None}


def _failed(error: ClientError, code: str) -> list[int]:
    """Which items of a transaction failed with this code."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return [n for n, r in enumerate(reasons) if r.get("Code") == code]


def _listing(run: Run) -> dict[str, Any]:
    """The item that puts a run into the list of all runs, in the order they were created."""
    return {"pk": "RUNS", "sk": f"{run.created_at.isoformat()}#{run.name}", "run": run.name}
