"""The monthly limit of a deployment that is there already: `LIMIT_USD` counts only until somebody has set another.

In: the API and the amount asked for. Out: what `GET /budget` says afterwards, or a refusal with its numbers. The API alone
decides; nothing is written past it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from spotrelay.client import ApiRefused


class BudgetApi(Protocol):
    """The part of `client.Client` that is used here."""

    def get(self, *path: str) -> Any: ...
    def put(self, *path: str, body: object) -> Any: ...


@dataclass(frozen=True)
class Applied:
    """`limit_usd` is the limit that holds; `refusal` says with numbers why it is not the one asked for."""

    limit_usd: str
    before_usd: str
    refusal: str | None = None

    @property
    def sentence(self) -> str:
        if self.refusal:
            return f"The limit stays at {self.limit_usd} USD a month: {self.refusal}"
        if Decimal(self.limit_usd) == Decimal(self.before_usd):
            return f"The limit is {self.limit_usd} USD a month, as before."
        return f"The limit is {self.limit_usd} USD a month now, was {self.before_usd}."


def apply(api: BudgetApi, limit_usd: str) -> Applied:
    """Set the limit unless it holds already. Raises ApiRefused for anything but a limit that can't be, ApiUnreachable."""
    before = _usd(api.get("budget")["limit_usd"])
    if Decimal(before) == Decimal(limit_usd):
        return Applied(before, before)
    try:
        after = api.put("budget", body={"limit_usd": limit_usd})
    except ApiRefused as refused:
        if refused.status not in (400, 409):
            raise
        return Applied(before, before, _said(refused.error))
    return Applied(_usd(after["limit_usd"]), before)


def _said(error: Mapping[str, Any]) -> str:
    account = error.get("account") or {}
    numbers = ", ".join(f"{name.removesuffix('_usd')} {_usd(usd)}" for name, usd in account.items())
    return str(error.get("message")) + (f" ({error['month']}: {numbers} USD)" if numbers and "month" in error else "")


def _usd(text: str) -> str:
    """Whole cents, unless there is more to say."""
    amount = Decimal(text)
    return f"{amount:.2f}" if amount == amount.quantize(Decimal("0.01")) else f"{amount.normalize():f}"
