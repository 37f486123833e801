"""What a person reads: amounts, spans and times in words; what came over the network is shown as it is."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from spotrelay.show import money, runs, words

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
ATTEMPT: dict[str, Any] = {
    "attempt": 2,
    "phase": "TRAINING",
    "instance_id": "i-0a",
    "pool": "c6i.xlarge/us-east-1b",
    "started_at": "2026-11-26T10:00:00+00:00",
    "ended_at": None,
    "ended_by": None,
    "exit_code": None,
    "from_step": 1_000_000,
    "step": None,
    "notice_ends_at": None,
    "cost_usd": "0.070000",
    "reserved_usd": "0.050000",
}
RUN: dict[str, Any] = {
    "name": "cloud_prod_001",
    "status": "RUNNING",
    "reason": "started",
    "message": "Attempt 2 trains [red]not markup[/].",
    "created_at": "2026-11-25T09:00:00+00:00",
    "created_by": "arn:aws:iam::123456789012:user/me",
    "baton": 2,
    "attempts": [ATTEMPT],
    "step": 2_000_000,
    "total_steps": 5_000_000,
    "metrics": {"reward_trend": 0.123456, "scenarios": "[a]", "rewards": [[1, 2]] * 40, "best": {"step": 1}},
    "last_heartbeat_at": "2026-11-26T11:59:50+00:00",
    "commit": "3fa9c1e0" * 5,
    "results": None,
    "cost_usd": "3.120000",
    "reserved_usd": "0.050000",
    "limits": {"cost_usd": "11.000000"},
    "spec": {"source": {"repo": "https://github.com/OWNER/REPO.git", "ref": "main"}},
}


def text(shown: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(shown)
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("3.120000", "$3.12"),
        ("0.004100", "$0.0041"),
        ("0.000000", "$0.00"),
        ("1234.5", "$1,234.50"),
        ("0.000002", "<$0.0001"),
        (None, "–"),
    ],
)
def test_amounts(amount: str | None, told: str) -> None:
    assert words.usd(amount) == told


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (timedelta(seconds=41), "41 seconds"),
        (timedelta(hours=3, minutes=2, seconds=59), "3 hours and 2 minutes"),
        (timedelta(days=1, hours=2, minutes=40), "1 day and 2 hours"),
        (timedelta(seconds=-5), "0 seconds"),
    ],
)
def test_spans_are_as_exact_as_they_are_useful(length: timedelta, told: str) -> None:
    assert words.span(length) == told


def test_a_run_at_a_glance() -> None:
    shown = text(runs.one(RUN, NOW))
    assert "2,000,000 of 5,000,000 steps, 40 %" in shown
    assert "139.1 steps a second, 5 hours and 59 minutes left" in shown
    assert "$3.12 of $11.00, $0.0500 reserved" in shown
    assert "heard 10 seconds ago" in shown
    assert "reward_trend 0.1235 scenarios [a] rewards (40 inside) best (1 inside)" in shown
    assert "REPO.git main 3fa9c1e03fa9" in shown
    assert "● 2 i-0a c6i.xlarge/us-east-1b TRAINING 1,000,000 –" in shown


def test_what_came_over_the_network_is_no_markup() -> None:
    assert "[red]not markup[/]" in text(runs.one(RUN, NOW))
    assert "scenarios [a]" in text(runs.one(RUN, NOW))
    assert "[red]not markup[/]" in text(runs.listed([RUN], NOW))
    told = {"at": RUN["created_at"], "status": "FAILED", "attempt": 1, "message": "exit [1]"}
    assert "FAILED #1 exit [1]" in text(runs.event(told, NOW))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "SUCCEEDED"},
        {"baton": None},
        {"last_heartbeat_at": None},
        {"step": 1_000_000},
        {"attempts": [{**ATTEMPT, "ended_at": RUN["last_heartbeat_at"]}]},
    ],
)
def test_no_pace_is_named_where_nobody_trains(change: dict[str, Any]) -> None:
    assert runs.pace(RUN | change) is None


def test_a_month_says_who_spent_it_and_what_was_done() -> None:
    month = {
        "month": "2026-11",
        "turns_at": "2026-12-01T00:00:00+00:00",
        "limit_usd": "20.000000",
        "settled_usd": "9.000000",
        "reserved_usd": "1.000000",
        "free_usd": "10.000000",
        "forecast_usd": "14.500000",
        "runs": [{"run": "cloud_prod_001", "settled_usd": "8.900000", "reserved_usd": "0.900000"}],
        "storage": {
            "bytes": 12_300_000_000,
            "settled_usd": "0.100000",
            "reserved_usd": "0.100000",
            "short_usd": "0.02",
        },
        "unmanaged": {
            "guard": "own",
            "usd": "2.000000",
            "instances": [
                {
                    "instance_id": "i-0b",
                    "instance_type": "t3.large",
                    "launched_at": "2026-11-26T09:00:00+00:00",
                    "protected": True,
                    "usd": "2.000000",
                }
            ],
        },
        "acts": [{"at": "2026-11-26T11:00:00+00:00", "message": "A stray [i-0c] is ended."}],
    }
    shown = text(money.budget(month, NOW))
    for told in (
        "2026-11, turns in 4 days and 12 hours",
        "$9.00 spent and $1.00 reserved of $20.00",
        "$14.50, if what runs goes on",
        "12.3 GB: $0.10 spent, $0.10 reserved; $0.0200 of it found no money",
        "cloud_prod_001 $8.90 $0.90",
        "i-0b t3.large 3 hours ago $2.00 protected",
        "A stray [i-0c] is ended.",
    ):
        assert told in shown
