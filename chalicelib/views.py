"""Runs as people see them: plain JSON values, money as decimal text in USD, times in ISO 8601. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from chalicelib.core.model import Attempt, Run
from chalicelib.core.storage import Stored
from chalicelib.records import Beat
from chalicelib.unmanaged import Report


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
        "cost_usd": usd(sum((a.cost for a in run.attempts), Decimal(0))),
        "reserved_usd": usd(sum((a.reserved for a in run.attempts), Decimal(0))),
        "limits": {
            "cost_usd": usd(run.limits.cost_usd),
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


def storage_view(stored: Stored | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "bytes": stored.most,
        "settled_usd": usd(stored.settled),
        "reserved_usd": usd(stored.reserved),
        "short_usd": usd(stored.gap),
        "measured_at": stored.measured_at.isoformat(),
    }


def unmanaged_view(report: Report | None, guard: str) -> dict[str, Any]:
    """What runs in the account beside us; the sum has those that are not named, too."""
    return {
        "guard": guard,
        "usd": usd(report.usd if report else Decimal(0)),
        "instances": [
            {
                "instance_id": i.instance_id,
                "instance_type": i.instance_type,
                "launched_at": i.launched_at.isoformat(),
                "protected": i.protected,
                "usd_hour": str(i.usd_hour) if i.usd_hour is not None else None,
                "usd": usd(i.usd),
            }
            for i in (report.instances if report else ())
        ],
        "unnamed": report.unnamed if report else 0,
        "unnamed_usd": usd(report.unnamed_usd if report else Decimal(0)),
    }


def ledger_view(run: str, account: Mapping[str, Decimal], lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "run": run,
        **{f"{name}_usd": usd(account[name]) for name in ("free", "reserved", "settled")},
        "lines": [_line(line) for line in lines],
    }


def _line(line: Mapping[str, Any]) -> dict[str, Any]:
    start, end = datetime.fromisoformat(line["start"]), datetime.fromisoformat(line["end"])
    rates = line.get("rates")
    return {
        "entry": line["entry"],
        "attempt": int(line["attempt"]),
        "seq": int(line["seq"]),
        "pool": line.get("pool"),
        "start": line["start"],
        "end": line["end"],
        "seconds": (end - start).total_seconds(),
        "rates_usd_hour": {name: str(rate) for name, rate in rates.items()} if rates else None,
        "source": line.get("source"),
        "usd": usd(line["usd"]),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
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
        "cost_usd": usd(attempt.cost),
        "reserved_usd": usd(attempt.reserved),
    }


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def usd(amount: Decimal) -> str:
    """Decimal text, to a millionth of a dollar."""
    return f"{amount:.6f}"
