"""Runs as people see them: plain JSON values, money as decimal text in USD, times in ISO 8601. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from chalicelib.core.model import Attempt, Run
from chalicelib.records import Beat


def run_view(
    run: Run,
    spec: Mapping[str, Any] | None = None,
    beats: Mapping[int, Beat] | None = None,
    results: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """A run; the details that cost more reads are given with the single view only."""
    beats, results = beats or {}, results or {}
    last = max(beats.values(), key=lambda b: b.attempt, default=None)
    commit = next((b.commit for _, b in sorted(beats.items(), reverse=True) if b.commit), None)
    left = next((r for _, r in sorted(results.items(), reverse=True)), None)
    steps = [a.step for a in run.attempts if a.step is not None] + [
        b.step for b in beats.values() if b.step is not None
    ]
    leases = [a.lease for a in run.attempts if a.lease]
    return {
        "name": run.name,
        "status": run.status.value,
        "reason": run.reason.value,
        "message": run.message,
        "created_at": run.created_at.isoformat(),
        "created_by": run.created_by,
        "deadline": _time(run.deadline),
        "baton": run.baton,
        "attempts": [_attempt(a) for a in run.attempts],
        "step": max(steps, default=None),
        "total_steps": (spec or {}).get("progress", {}).get("total_steps"),
        "metrics": (left or {}).get("metrics") or (last.metrics if last else None),
        "last_heartbeat_at": _time(last.at) if last else None,
        "commit": commit,
        "results": left.get("prefix") if left else None,
        "cost_usd": _usd(sum((lease.cost for lease in leases if lease.settled), Decimal(0))),
        "reserved_usd": _usd(sum((lease.reserved for lease in leases if not lease.settled), Decimal(0))),
        "limits": {
            "cost_usd": _usd(run.limits.cost_usd),
            "duration_s": int(run.limits.duration.total_seconds()),
            "attempts": run.limits.attempts,
            "attempts_without_progress": run.limits.attempts_without_progress,
        },
        "spec": spec,
    }


def event_view(item: Mapping[str, Any]) -> dict[str, Any]:
    attempt = item.get("attempt")
    return {
        "at": item["at"],
        "status": item["status"],
        "reason": item["reason"],
        "message": item["message"],
        "attempt": int(attempt) if attempt is not None else None,
    }


def budget_view(month: str, account: Mapping[str, Decimal], runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "month": month,
        "limit_usd": _usd(account["limit"]),
        "settled_usd": _usd(account["settled"]),
        "reserved_usd": _usd(account["reserved"]),
        "free_usd": _usd(account["free"]),
        "runs": [{**r, "settled_usd": _usd(r["settled_usd"]), "reserved_usd": _usd(r["reserved_usd"])} for r in runs],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    lease = attempt.lease
    return {
        "attempt": attempt.number,
        "phase": attempt.phase.value,
        "instance_id": attempt.instance_id,
        "pool": attempt.pool,
        "started_at": _time(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
        "ended_by": attempt.ended_by.value if attempt.ended_by else None,
        "exit_code": attempt.exit_code,
        "from_step": attempt.from_step,
        "step": attempt.step,
        "notice_ends_at": _time(attempt.notice_ends_at),
        "cost_usd": _usd(lease.cost if lease and lease.settled else Decimal(0)),
        "reserved_usd": _usd(lease.reserved if lease and not lease.settled else Decimal(0)),
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _usd(amount: Decimal) -> str:
    return f"{amount:.6f}"
