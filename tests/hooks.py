"""Botocore hooks for tests: a client answers what a test wants instead of asking, or does it and loses the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import boto3
from botocore.exceptions import ReadTimeoutError

SESSION = boto3.Session(region_name="us-east-1")  # one for all tests: it reads each service's model once

Answer = str | Mapping[str, Any] | Callable[[], None] | None


def aws(service: str) -> Any:
    """A client of its own for one test."""
    return SESSION.client(service)  # type: ignore[call-overload]


def answers(client: Any, operation: str, *given: Answer, always: bool = False) -> list[dict[str, Any]]:
    """The next calls of an operation are answered so, and the requests' parameters are listed.

    Text is an error code, a mapping an answer, None lets the call through, and a function is called before it passes. `always`
    repeats the last one; without it what comes after is let through.
    """
    left, seen = list(given), []

    def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
        seen.append(params)
        now = left[0] if always and len(left) == 1 else left.pop(0) if left else None
        if now is None:
            return None
        if callable(now):
            now()
            return None
        if isinstance(now, str):
            return SimpleNamespace(status_code=400), {"Error": {"Code": now, "Message": f"{now} for a test."}}
        status = 400 if "Error" in now else 200
        return SimpleNamespace(status_code=status), dict(now)

    client.meta.events.register_first(f"before-call.{_service(client)}.{operation}", answer)
    return seen


def cancelled(*codes: str) -> dict[str, Any]:
    """A transaction that DynamoDB cancels, by each item's code (`None` for those that would have passed)."""
    return {
        "Error": {"Code": "TransactionCanceledException", "Message": f"Transaction cancelled [{', '.join(codes)}]"},
        "CancellationReasons": [{"Code": code} for code in codes],
    }


def lose_answer(client: Any, operation: str) -> None:
    """The next call of an operation is carried out, and its answer never arrives."""
    left = [True]

    def lose(**_: Any) -> None:
        if left.pop() if left else False:
            raise ReadTimeoutError(endpoint_url="https://aws.example")

    client.meta.events.register(f"after-call.{_service(client)}.{operation}", lose)


def counted(client: Any, operations: Sequence[str]) -> list[str]:
    """Names of these operations, as they are called."""
    seen: list[str] = []
    for operation in operations:
        client.meta.events.register(
            f"before-call.{_service(client)}.{operation}", lambda model, **_: seen.append(model.name) or None
        )
    return seen


def _service(client: Any) -> str:
    return str(client.meta.service_model.service_id.hyphenize())
