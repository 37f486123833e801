"""What AWS would charge for calls: requests and DynamoDB's units, read from the requests and answers as botocore sends them.

An item is as large as DynamoDB counts it: its names and values, and a few bytes for each that holds others (DynamoDB Developer
Guide, item sizes). Prices are of us-east-1, in USD, without any free
tier (aws.amazon.com, pricing pages of each service, 2026).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from math import ceil
from typing import Any
from unittest.mock import patch

from moto.core.botocore_stubber import BotocoreStubber

LAMBDA_REQUEST, LAMBDA_GB_S = Decimal("0.0000002"), Decimal("0.0000166667")
API_REQUEST = Decimal("0.0000035")
READ_UNIT, WRITE_UNIT = Decimal("0.000000125"), Decimal("0.000000625")
S3_WRITE, S3_READ = Decimal("0.000005"), Decimal("0.0000004")  # PUT, COPY, POST and LIST; all others
LOG_GB = Decimal("0.50")
MEMORY_GB = Decimal("0.5")
LOG_BYTES = 400  # START, END and REPORT of an invocation, which Lambda writes itself
# How long a call takes inside of AWS, in seconds; EC2's lists are the slow ones. Measured by many, promised by none.
_TAKES = {"dynamodb": 0.008, "ec2": 0.08}
_OTHERS_TAKE = 0.03
# 512 MB are 0.29 of a core (Lambda: 1,769 MB are one), so a core's second here takes as much longer there.
_SLOWER = 1769 / 512
_S3_WRITES = ("PutObject", "CopyObject", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts")


class Meter:
    """Counts what some clients ask for. `reads` and `writes` are DynamoDB's units."""

    def __init__(self, clients: Iterable[Any]) -> None:
        self.calls: Counter[str] = Counter()
        self.reads = self.writes = 0.0
        for client in clients:
            client.meta.events.register_first("before-call", self._asked)
            client.meta.events.register("after-call.dynamodb", self._answered)

    def _asked(self, model: Any, params: dict[str, Any], **_: Any) -> None:
        service = model.service_model.service_name
        self.calls[f"{service}.{model.name}"] += 1
        if service == "dynamodb":
            self.writes += _written(model.name, json.loads(params["body"]))
            self._consistent = bool(json.loads(params["body"]).get("ConsistentRead"))

    def _answered(self, model: Any, parsed: dict[str, Any], **_: Any) -> None:
        self.reads += _read(model.name, parsed) * (1.0 if self._consistent else 0.5)

    def seconds(self) -> float:
        """What all its calls take."""
        return sum(_TAKES.get(call.partition(".")[0], _OTHERS_TAKE) * n for call, n in self.calls.items())

    def usd(self, invocations: int, processor_s: float, requests: int = 0) -> dict[str, Decimal]:
        """By service, for all that was counted. `processor_s` is what the invocations computed, in seconds of a core here."""
        billed = Decimal(self.seconds() + processor_s * _SLOWER)
        s3 = {name.partition(".")[2]: n for name, n in self.calls.items() if name.startswith("s3.")}
        written = sum(n for name, n in s3.items() if name in _S3_WRITES)
        read = sum(n for name, n in s3.items() if name not in _S3_WRITES and not name.startswith("Delete"))
        return {
            "API Gateway": requests * API_REQUEST,
            "Lambda, requests": invocations * LAMBDA_REQUEST,
            "Lambda, GB-seconds": billed * MEMORY_GB * LAMBDA_GB_S,
            "DynamoDB, reads": Decimal(self.reads) * READ_UNIT,
            "DynamoDB, writes": Decimal(self.writes) * WRITE_UNIT,
            "S3, requests": written * S3_WRITE + read * S3_READ,
            "Logs": Decimal(invocations * LOG_BYTES) / 10**9 * LOG_GB,
        }


def _size(value: dict[str, Any]) -> int:
    """Bytes of a value as the API writes it: {"S": …}, {"N": …}, {"M": …}, {"L": …} and such."""
    ((kind, held),) = value.items()
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + _size(each) for name, each in held.items())
    if kind == "L":
        return 3 + sum(1 + _size(each) for each in held)
    if kind == "N":
        return len(held) // 2 + 2
    return len(held.encode()) if kind == "S" else 1


def _units(items: Iterable[dict[str, Any]], kilobytes: int) -> int:
    size = sum(len(name.encode()) + _size(value) for item in items for name, value in item.items())
    return max(1, ceil(size / 1024 / kilobytes))


def _written(operation: str, body: dict[str, Any]) -> float:
    """Units; a transaction's count twice, and what the index of live runs has of an item is written there once more."""
    if operation == "TransactWriteItems":
        return sum(2 * _once(each) + _indexed(each) for action in body["TransactItems"] for each in action.values())
    if operation in ("PutItem", "UpdateItem", "DeleteItem"):
        return _once(body) + _indexed(body)
    return 0


def _once(body: dict[str, Any]) -> int:
    item = body.get("Item") or {**body.get("Key", {}), **body.get("ExpressionAttributeValues", {})}
    return _units([item], 1)


def _indexed(body: dict[str, Any]) -> int:
    return 1 if "glance" in body.get("Item", {}) else 0


def _read(operation: str, answer: dict[str, Any]) -> float:
    """Units of a consistent read: what a query or a scan finds is counted as one, single items are counted singly."""
    if operation == "GetItem":
        return _units([answer.get("Item", {})], 4)
    if operation == "BatchGetItem":
        return sum(_units([item], 4) for items in answer["Responses"].values() for item in items)
    return _units(answer["Items"], 4) if operation in ("Query", "Scan") else 0


@contextlib.contextmanager
def processor() -> Iterator[list[float]]:
    """Seconds of a core for what is done within, without moto's share: [them], once it is over."""
    taken: list[float] = []
    motos = 0.0
    answer = BotocoreStubber.__call__

    def timed(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal motos
        began = time.process_time()
        try:
            return answer(self, *given, **named)
        finally:
            motos += time.process_time() - began

    began = time.process_time()
    with patch.object(BotocoreStubber, "__call__", timed):
        yield taken
    taken.append(time.process_time() - began - motos)
