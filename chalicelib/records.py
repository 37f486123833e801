"""What is kept beside a run and decides nothing: its agents' heartbeats, what they left, and the list of all runs.

These writes are single puts without a condition: the last word is the true one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from chalicelib.codec import from_item, to_item
from chalicelib.contracts.names import NAME
from chalicelib.core.model import Run


class BadCursor(ValueError):
    """The cursor is none that was handed out."""


@dataclass(frozen=True)
class Beat:
    """The last heartbeat of an attempt. `checkpoint_at` is when it last told of a new checkpoint."""

    attempt: int
    at: datetime
    phase: str
    step: int | None = None
    metrics: Mapping[str, Any] | None = None
    commit: str | None = None
    checkpoint: Mapping[str, Any] | None = None
    checkpoint_at: datetime | None = None


class Records:
    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    def heard(self, run: str, beat: Beat) -> None:
        given = {"at": beat.at.isoformat(), "phase": beat.phase, "step": beat.step, "commit": beat.commit}
        given |= {"metrics": _text(beat.metrics), "checkpoint": _stored(beat.checkpoint)}
        given |= {"checkpoint_at": beat.checkpoint_at.isoformat() if beat.checkpoint_at else None}
        self._put(f"RUN#{run}", f"BEAT#{beat.attempt:04d}", {"attempt": beat.attempt, **given})

    def beats(self, run: str) -> dict[int, Beat]:
        """The last heartbeat of each attempt that sent one."""
        found = {}
        for item in self._query(f"RUN#{run}", "BEAT#"):
            told_at = item.get("checkpoint_at")
            found[int(item["attempt"])] = Beat(
                attempt=int(item["attempt"]),
                at=datetime.fromisoformat(item["at"]),
                phase=str(item["phase"]),
                step=int(item["step"]) if item.get("step") is not None else None,
                metrics=_document(item.get("metrics")),
                commit=item.get("commit"),
                checkpoint=plain_numbers(item.get("checkpoint")),
                checkpoint_at=datetime.fromisoformat(told_at) if told_at else None,
            )
        return found

    def last_beats(self, run: Run) -> dict[int, datetime]:
        return {number: beat.at for number, beat in self.beats(run.name).items()}

    def left(self, run: str, attempt: int, results: Mapping[str, Any], at: datetime) -> None:
        """What an attempt says it left: prefix, metrics, found and missing keys."""
        kept = {name: value for name, value in results.items() if name != "metrics"}
        given = {**_stored(kept), "metrics": _text(results.get("metrics"))}
        self._put(f"RUN#{run}", f"RESULT#{attempt:04d}", {"attempt": attempt, "at": at.isoformat(), **given})

    def results(self, run: str) -> dict[int, dict[str, Any]]:
        return {
            int(item["attempt"]): {**plain_numbers(item), "metrics": _document(item.get("metrics"))}
            for item in self._query(f"RUN#{run}", "RESULT#")
        }

    def runs(self, limit: int, cursor: str | None) -> tuple[list[str], str | None]:
        """Names of runs, newest first, and where to go on; None at the end. Raises BadCursor."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": to_item({":pk": "RUNS"}),
            "ScanIndexForward": False,
            "Limit": limit,
        }
        if cursor:
            request["ExclusiveStartKey"] = to_item({"pk": "RUNS", "sk": _decoded(cursor)})
        answer = self._client.query(**request)
        names = [str(from_item(item)["run"]) for item in answer["Items"]]
        last = answer.get("LastEvaluatedKey")
        return names, _encoded(from_item(last)["sk"]) if last else None

    def _put(self, pk: str, sk: str, values: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in values.items() if value is not None}
        self._client.put_item(TableName=self._table, Item=to_item({"pk": pk, "sk": sk, **kept}))

    def _query(self, pk: str, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
            ExpressionAttributeValues=to_item({":pk": pk, ":sk": prefix}),
        )
        for page in pages:
            yield from (from_item(item) for item in page["Items"])


def listing(run: Run) -> dict[str, Any]:
    """The item that puts a run into the list of all runs, in the order they were created."""
    return {"pk": "RUNS", "sk": f"{run.created_at.isoformat()}#{run.name}", "run": run.name}


def _encoded(sk: str) -> str:
    return base64.urlsafe_b64encode(sk.encode()).decode()


def _decoded(cursor: str) -> str:
    try:
        sk = base64.urlsafe_b64decode(cursor.encode()).decode()
        at, _, name = sk.partition("#")
        datetime.fromisoformat(at)
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise BadCursor(cursor) from error
    if len(at) > 40 or not re.fullmatch(NAME, name):
        raise BadCursor(cursor)
    return sk


def _text(metrics: Mapping[str, Any] | None) -> str | None:
    """What a training job wrote, as JSON text: no number, key or depth of it is one that the table could refuse."""
    return None if metrics is None else json.dumps(metrics)


def _document(text: str | None) -> Any:
    # NaN and Infinity, which Python writes and JSON does not have, are shown as words.
    return None if text is None else json.loads(text, parse_constant=str)


def _stored(value: Any) -> Any:
    """DynamoDB has no binary fractions: a float is kept as the shortest decimal that names it."""
    if isinstance(value, float):
        return Decimal(repr(value)) if value == value and abs(value) < 1e120 else repr(value)
    if isinstance(value, Mapping):
        return {str(k): _stored(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(v) for v in value]
    return value


def plain_numbers(value: Any) -> Any:
    """What `_stored` made, as JSON has it: whole numbers as int, others as float."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else float(value)
    if isinstance(value, Mapping):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain_numbers(v) for v in value]
    return value
