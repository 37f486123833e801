"""Every wrong field of an input at once: pydantic's errors as (field, value, what would be right)."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, ValidationError

from chalicelib.core.frozen import dataclass

_MOST_VALUE = 200
_MOST_KEY = 100
_MOST_FIELDS = 50  # whoever has more mistakes than these learns of the rest next time


@dataclass(frozen=True)
class FieldError:
    """`field` is a path like `limits.duration` or `resources.instance_types[1]`."""

    field: str
    value: Any
    message: str

    def as_dict(self) -> dict[str, Any]:
        return {"field": self.field, "value": self.value, "message": self.message}

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def wrong_fields(model: type[BaseModel], error: ValidationError) -> tuple[FieldError, ...]:
    """What pydantic found, in the order of the input."""
    found = []
    for each in error.errors(include_url=False)[:_MOST_FIELDS]:
        where = [part for part in each["loc"] if part != "[key]"]
        if each["type"] == "extra_forbidden":
            message = _unknown(model, where)
        elif each["type"] == "missing":
            message = "is missing"
        elif each["type"] == "value_error":
            message = str(each["ctx"]["error"])
        else:
            message = each["msg"][0].lower() + each["msg"][1:]
        value = None if each["type"] == "missing" else shown(each.get("input"))
        found.append(FieldError(path(where) or "(the whole)", value, message))
    return tuple(found)


def money(value: Any) -> Any:
    """Dollars: 11, "11.50" or "$11.50". A float is taken as it is written."""
    if isinstance(value, bool):
        raise ValueError("must be an amount in USD, like 11 or 11.50")
    if isinstance(value, int | float):
        value = repr(value)
    if isinstance(value, str):
        try:
            amount = Decimal(value.strip().removeprefix("$"))
        except InvalidOperation:
            raise ValueError("must be an amount in USD, like 11 or 11.50") from None
        if not amount.is_finite() or amount <= 0 or amount > 10000:
            raise ValueError("must be more than 0 and at most 10000 USD")
        if amount != amount.quantize(Decimal("0.01")):
            raise ValueError("must be in whole cents, like 11.50")
        return amount
    raise ValueError("must be an amount in USD, like 11 or 11.50")


def path(where: Iterable[str | int]) -> str:
    text = ""
    for part in where:
        name = part if isinstance(part, int) or len(part) <= _MOST_KEY else f"{part[: _MOST_KEY - 1]}…"
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def shown(value: Any) -> Any:
    """A value as an answer may show it: JSON, and not too long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _MOST_VALUE else text[: _MOST_VALUE - 1] + "…"


def _unknown(model: type[BaseModel], where: Sequence[str | int]) -> str:
    """An unknown key, with the one that was likely meant."""
    owner: type[BaseModel] | None = model
    for part in where[:-1]:
        field = owner.model_fields.get(str(part)) if owner else None
        kind = field.annotation if field else None
        owner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    known = [f.alias or name for name, f in owner.model_fields.items()] if owner else []
    near = difflib.get_close_matches(str(where[-1])[:_MOST_KEY], known, n=1)
    if near:
        return f"is no known key; did you mean {near[0]!r}?"
    return "is no known key" + (f"; there are {', '.join(known)}" if known else "")
