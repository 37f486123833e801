"""The numbers that docs/money.md shows are those that the ledger would hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from chalicelib.core import leases
from chalicelib.core.model import Policy
from chalicelib.core.money import by_month, rates_in

TEXT = (Path(__file__).parent.parent / "docs/money.md").read_text()
POLICY, NOW, SPOT = Policy(), datetime(2026, 11, 3, 10, tzinfo=UTC), Decimal("0.068")


def test_the_example_is_what_would_be_reserved_and_settled() -> None:
    lease = leases.first(NOW, 1, 2 * SPOT, 50, POLICY)
    assert f"reserves **${lease.reserved}** for {(lease.until - NOW).seconds // 60} min" in TEXT
    rates = rates_in(SPOT, 50, NOW, NOW, POLICY)
    settled = by_month(rates.total, NOW, NOW + timedelta(minutes=25), POLICY)["2026-11"]
    assert f"settles **${settled}** (${rates.instance} + ${rates.disk} disk + ${rates.address} address an hour)" in TEXT


def test_the_spans_are_the_policys() -> None:
    minutes = {name: int(getattr(POLICY, name).total_seconds() // 60) for name in ("lease", "grace", "end_margin")}
    assert f"lease ({minutes['lease']} min), the\n   grace ({minutes['grace']} min)" in TEXT
    assert f"takes ({minutes['end_margin']} min)" in TEXT
    assert f"less than {int(POLICY.renew_below.total_seconds() // 60)} min are left" in TEXT
    assert POLICY.price_stale == timedelta(hours=3)
    assert "older than\nthree hours" in TEXT
