"""Runs to and from DynamoDB items. Times become ISO 8601 text, spans seconds, empty fields are left out.

What can't be read is Unreadable, and names itself: whoever reads many goes on with the others (`each`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from dacite import Config, DaciteError, from_dict

from chalicelib.core.model import Run


def moment(text: str) -> datetime:
    """A time in ISO 8601. Raises ValueError without a zone: it could not be compared with any other."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return at


CONFIG = Config(
    cast=[Enum, tuple, int],
    type_hooks={
        datetime: lambda v: v if isinstance(v, datetime) else moment(v),
        timedelta: lambda v: v if isinstance(v, timedelta) else timedelta(seconds=float(v)),
    },
    strict=True,
)

_WRONG = (DaciteError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
Value = TypeVar("Value")


class Unreadable(Exception):
    """A record of ours, or an event, that can't be understood. `what` names it; `why` is for the log, not for answers."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} can't be read: {why}")
        self.what, self.why = what, why


Skip = Callable[[Unreadable], None]


def strict(error: Unreadable) -> None:
    """Let the first one that can't be read end it."""
    raise error


@contextmanager
def reading(pk: str, sk: str) -> Iterator[None]:
    """What goes wrong meanwhile with the values of this item is the item's fault. Raises Unreadable."""
    try:
        yield
    except _WRONG as error:
        raise Unreadable(f"{pk} / {sk}", f"{type(error).__name__}: {error}"[:500]) from error


def each(items: Iterable[dict[str, Any]], parse: Callable[[dict[str, Any]], Value], skip: Skip) -> Iterator[Value]:
    """What the items say; one that can't be read is told to `skip` and keeps none of the others back."""
    for item in items:
        try:
            with reading(str(item["pk"]), str(item["sk"])):
                value = parse(item)
        except Unreadable as error:
            skip(error)
            continue
        yield value


def amount(item: Mapping[str, Any], name: str, default: Decimal | None = None) -> Decimal:
    """An amount of money in an item. Raises TypeError when it is none."""
    value = item.get(name, default)
    if not isinstance(value, Decimal) or not value.is_finite():
        raise TypeError(f"{name} is {value!r}, and must be a number")
    return value


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


def run_from(item: dict[str, Any], name: str) -> Run:
    """The run that this item keeps. Raises dacite's errors when it is none, ValueError when it is another's."""
    run = from_dict(Run, item["run"], CONFIG)
    if run.name != name or run.version != item["version"]:
        raise ValueError(f"it keeps version {run.version} of {run.name}, and is version {item['version']} of {name}")
    return run


def to_item(values: dict[str, Any]) -> dict[str, Any]:
    serialize = TypeSerializer().serialize
    return {name: serialize(v) for name, v in values.items()}


def from_item(item: dict[str, Any]) -> dict[str, Any]:
    deserialize = TypeDeserializer().deserialize
    return {name: deserialize(v) for name, v in item.items()}
