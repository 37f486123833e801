"""Runs to and from DynamoDB items. Times become ISO 8601 text, spans seconds, empty fields are left out."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from dacite import Config, from_dict

from chalicelib.core.model import Run

CONFIG = Config(
    cast=[Enum, tuple, int],
    type_hooks={
        datetime: lambda v: v if isinstance(v, datetime) else datetime.fromisoformat(v),
        timedelta: lambda v: v if isinstance(v, timedelta) else timedelta(seconds=float(v)),
    },
    strict=True,
)


def plain(value: Any) -> Any:
    """A dataclass, or anything in one, as dicts, lists, text and Decimals."""
    if is_dataclass(value):
        named = ((f.name, plain(getattr(value, f.name))) for f in fields(value))
        return {name: v for name, v in named if v is not None and v != []}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return Decimal(str(value.total_seconds()))
    return value


def run_from(data: dict[str, Any]) -> Run:
    """The run that `plain` made this of. Raises dacite's errors when it is not one."""
    return from_dict(Run, data, CONFIG)


def to_item(values: dict[str, Any]) -> dict[str, Any]:
    serialize = TypeSerializer().serialize
    return {name: serialize(v) for name, v in values.items()}


def from_item(item: dict[str, Any]) -> dict[str, Any]:
    deserialize = TypeDeserializer().deserialize
    return {name: deserialize(v) for name, v in item.items()}
