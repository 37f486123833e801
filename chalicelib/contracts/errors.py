"""The one shape of every error the API answers, and the exception that carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chalicelib.contracts.spec import SpecError


class ApiError(Exception):
    """An answer that is not a success.

    `fields` names each wrong field: {"field", "value", "message"}. What else the error has to say (`retry_in_s`, the
    numbers of a refusal for money) goes beside them.
    """

    def __init__(
        self, status: int, code: str, message: str, fields: Iterable[Mapping[str, Any]] = (), **extra: Any
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message
        self.fields = tuple(dict(f) for f in fields)
        self.extra = extra

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message, "fields": list(self.fields), **self.extra}}

    @classmethod
    def wrong_field(cls, field: str, value: str, message: str) -> ApiError:
        """A request of which one field is wrong."""
        wrong = {"field": field, "value": value[:200], "message": message}
        return cls(400, "bad_request", f"{field}: {message}.", (wrong,))

    @classmethod
    def bad_spec(cls, error: SpecError) -> ApiError:
        """A spec with wrong fields, all of them named."""
        return cls(400, "bad_spec", str(error), [f.as_dict() for f in error.fields])

    @classmethod
    def unreadable(cls, record: str, status: int) -> ApiError:
        """What was asked for rests on a record that can't be read; why is in the log and not for everybody."""
        message = f"The record {record} can't be read, so that nothing is said or done that rests on it; its cause was logged."
        return cls(status, "unreadable", message)
