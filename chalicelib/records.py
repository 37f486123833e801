"""What is kept beside a run and decides nothing: its agents' heartbeats, what they left, and the list of all runs.

These writes are single puts without a condition: the last word is the true one.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import DYNAMODB_CONTEXT

from chalicelib.batches import batch_get
from chalicelib.codec import Skip, each, from_item, moment, strict, to_item
from chalicelib.contracts.names import is_run_name
from chalicelib.core.frozen import dataclass

_DEEPEST = 16  # DynamoDB takes 32 levels, our own around it included


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


@dataclass(frozen=True)
class Glimpse:
    """Of a heartbeat only when it came, and when its attempt last told of a new checkpoint."""

    at: datetime
    checkpoint_at: datetime | None


class Records:
    def __init__(self, client: Any, table: str, skip: Skip = strict) -> None:
        """`skip` is told of each record that can't be read."""
        self._client = client
        self._table = table
        self._skip = skip

    def heard(self, run: str, beat: Beat) -> None:
        """Keep it in the place of the one before, whose `checkpoint_at` stays until another checkpoint is told of."""
        given = {"attempt": beat.attempt, "at": beat.at.isoformat(), "phase": beat.phase, "step": beat.step}
        given |= {"metrics": _stored(beat.metrics), "checkpoint": _stored(beat.checkpoint), "commit": beat.commit}
        names = {f"#{name}": name for name in given}
        kept = {f":{name}": value for name, value in given.items() if value is not None}
        if beat.checkpoint_at:
            names["#checkpoint_at"], kept[":checkpoint_at"] = "checkpoint_at", beat.checkpoint_at.isoformat()
        parts = {"SET": ", ".join(f"#{name[1:]} = {name}" for name in kept)}
        parts["REMOVE"] = ", ".join(f"#{name}" for name, value in given.items() if value is None)
        self._client.update_item(
            TableName=self._table,
            Key=to_item({"pk": f"RUN#{run}", "sk": f"BEAT#{beat.attempt:04d}"}),
            UpdateExpression=" ".join(f"{word} {what}" for word, what in parts.items() if what),
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=to_item(kept),
        )

    def beats(self, run: str) -> dict[int, Beat]:
        """The last heartbeat of each attempt that sent one, read consistently."""
        found = self._query(f"RUN#{run}", "BEAT#", ConsistentRead=True)
        return {beat.attempt: beat for beat in each(found, _beat, self._skip)}

    def heard_of(self, attempts: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Glimpse]:
        """When these attempts (run, number) were last heard of: many in few calls, read without consistency."""
        keys = [{"pk": f"RUN#{run}", "sk": f"BEAT#{number:04d}"} for run, number in attempts]
        wanted = {"ProjectionExpression": "pk, sk, #at, checkpoint_at", "ExpressionAttributeNames": {"#at": "at"}}
        found = {}
        for item in batch_get(self._client, self._table, keys, wanted):
            run, number = item["pk"]["S"].removeprefix("RUN#"), int(item["sk"]["S"].removeprefix("BEAT#"))
            told_at = item.get("checkpoint_at", {}).get("S")
            at = datetime.fromisoformat(item["at"]["S"])
            found[run, number] = Glimpse(at, datetime.fromisoformat(told_at) if told_at else None)
        return found

    def left(self, run: str, attempt: int, results: Mapping[str, Any], at: datetime) -> None:
        """What an attempt says it left: prefix, metrics, found and missing keys."""
        self._put(f"RUN#{run}", f"RESULT#{attempt:04d}", {"attempt": attempt, "at": at.isoformat(), **_stored(results)})

    def results(self, run: str) -> dict[int, dict[str, Any]]:
        return dict(each(self._query(f"RUN#{run}", "RESULT#"), _left, self._skip))

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
        # The key has the name, too, and a key can't be anything but text.
        names = [str(from_item(item)["sk"]).partition("#")[2] for item in answer["Items"]]
        last = answer.get("LastEvaluatedKey")
        return names, _encoded(from_item(last)["sk"]) if last else None

    def _put(self, pk: str, sk: str, values: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in values.items() if value is not None}
        self._client.put_item(TableName=self._table, Item=to_item({"pk": pk, "sk": sk, **kept}))

    def _query(self, pk: str, prefix: str, **request: Any) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
            ExpressionAttributeValues=to_item({":pk": pk, ":sk": prefix}),
            **request,
        )
        for page in pages:
            yield from (from_item(item) for item in page["Items"])


def _beat(item: dict[str, Any]) -> Beat:
    told_at = item.get("checkpoint_at")
    return Beat(
        attempt=int(item["attempt"]),
        at=moment(item["at"]),
        phase=str(item["phase"]),
        step=int(item["step"]) if item.get("step") is not None else None,
        metrics=_mapping(item.get("metrics")),
        commit=item.get("commit"),
        checkpoint=_mapping(item.get("checkpoint")),
        checkpoint_at=moment(told_at) if told_at else None,
    )


def _left(item: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    _mapping(item.get("metrics"))
    return int(item["attempt"]), plain_numbers({**item, "prefix": str(item["prefix"])})


def _mapping(value: Any) -> Mapping[str, Any] | None:
    """Raises TypeError for what is neither a mapping nor nothing."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is no mapping")
    return plain_numbers(value)  # type: ignore[no-any-return]


def _encoded(sk: str) -> str:
    return base64.urlsafe_b64encode(sk.encode()).decode()


def _decoded(cursor: str) -> str:
    try:
        sk = base64.urlsafe_b64decode(cursor.encode()).decode()
        at, _, name = sk.partition("#")
        datetime.fromisoformat(at)
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise BadCursor(cursor) from error
    if len(at) > 40 or not is_run_name(name):
        raise BadCursor(cursor)
    return sk


def _stored(value: Any, depth: int = _DEEPEST) -> Any:
    """DynamoDB has no binary fractions: a float is kept as the shortest decimal that names it, and what is beyond its
    numbers, or nested too deep, as text. A name has one character at least.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return DYNAMODB_CONTEXT.create_decimal(repr(value)) if math.isfinite(value) else repr(value)
        except (ArithmeticError, OverflowError):
            return repr(value)
    if isinstance(value, Mapping | list | tuple) and not depth:
        return json.dumps(value)
    if isinstance(value, Mapping):
        return {str(k) or "(empty)": _stored(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(v, depth - 1) for v in value]
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
