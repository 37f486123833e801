"""Every call that clients of botocore make, numbered, with the controller's lines that asked; and a fault at one of them.

The fault is what botocore's caller sees once botocore's own retries are over. `happens twice` is below that: the request reaches
AWS once more, as after an answer that was lost, and the second answer is the one that is seen.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from botocore.exceptions import ReadTimeoutError
from moto.core.botocore_stubber import BotocoreStubber

from tests.sim.faults import Died, Kind

_MONTH = re.compile(rb"LEDGER#[0-9]{4}-[0-9]{2}\b")
_OURS = f"{os.sep}chalicelib{os.sep}"
_THROTTLED = {"ec2": "RequestLimitExceeded", "s3": "SlowDown", "sns": "Throttled"}
_ALL = 100  # lines: who asked whom tells calls apart that one adapter makes
_LATE = ReadTimeoutError(endpoint_url="https://aws.example")


class Calls:
    """`arm(n, kind)`: the n-th call meets a fault. `sites` names all calls, the operation with the lines that asked for it."""

    def __init__(self, session: Any) -> None:
        session.events.register_first("before-call", self._before)
        session.events.register_last("after-call", self._after)
        self.answers: dict[str, Callable[[Any], dict[str, Any]]] = {}  # by operation, in moto's place
        self.begin()

    def begin(self, n: int = 0, kind: Kind | None = None) -> None:
        """Count from one again."""
        self.sites: list[str] = []
        self._at, self._kind, self._met, self._paused = n, kind, False, False
        self.fired = ""  # the site that met the fault

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is called within is the test's own."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _before(self, model: Any, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
        service, operation = model.service_model.service_name, model.name
        if self._paused:
            return self._answered(operation, params["body"]) if operation in self.answers else None
        self.sites.append(f"{service}.{operation}{_extent(params['body'])} at {asker(_ALL)}")
        self._met = len(self.sites) == self._at
        if self._met:
            self.fired = self.sites[-1]
            match self._kind:
                case Kind.FAILS:
                    return _error(500, "InternalError" if service in ("ec2", "s3") else "InternalServerError")
                case Kind.THROTTLED:
                    return _error(400, _THROTTLED.get(service, "ThrottlingException"))
                case Kind.TIMES_OUT:
                    raise _LATE
                case Kind.DIES_BEFORE:
                    raise Died(operation)
        return self._answered(operation, params["body"]) if operation in self.answers else None

    def _answered(self, operation: str, asked: Any) -> tuple[Any, dict[str, Any]]:
        answer = self.answers[operation](asked)
        if self._met and self._kind is Kind.TWICE:
            answer = self.answers[operation](asked)
        if "Error" in answer:
            return _error(400, answer["Error"])
        return SimpleNamespace(status_code=200), answer

    def _after(self, **_: Any) -> None:
        if self._met and not self._paused:
            self._met = False
            if self._kind is Kind.ANSWER_LOST:
                raise _LATE
            if self._kind is Kind.DIES_AFTER:
                raise Died

    @contextmanager
    def doubled(self) -> Iterator[None]:
        """What moto answers is asked of it twice where the armed kind says so."""
        answer = BotocoreStubber.__call__

        def twice(stubber: Any, *given: Any, **named: Any) -> Any:
            first = answer(stubber, *given, **named)
            if not (self._met and self._kind is Kind.TWICE and first is not None):
                return first
            _rewind(named)
            return answer(stubber, *given, **named)

        with patch.object(BotocoreStubber, "__call__", twice):
            yield


def _extent(body: Any) -> str:
    """The same lines move the money of two months when a lease lies over their border: that is another call."""
    months = set(_MONTH.findall(body)) if isinstance(body, bytes) else ()
    return f" in {len(months)} months" if len(months) > 1 else ""


def _rewind(named: dict[str, Any]) -> None:
    body = getattr(named.get("request"), "body", None)
    if hasattr(body, "seek"):
        body.seek(0)


def _error(status: int, code: str) -> tuple[Any, dict[str, Any]]:
    error = {"Error": {"Code": code, "Message": "For a test."}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return SimpleNamespace(status_code=status), error


def asker(most: int = 3) -> str:
    """The controller's lines on the way to the call, innermost first; for a handler that the caller called."""
    frame, lines = sys._getframe(2), []
    while frame is not None and len(lines) < most:
        if _OURS in frame.f_code.co_filename:
            lines.append(f"{frame.f_code.co_filename.rpartition(_OURS)[2]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]
    return " < ".join(lines)
