"""The table in memory: what `store.Store` and `ledger.Ledger` promise, without DynamoDB. Both pass the same contract tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from chalicelib.codec import plain
from chalicelib.core.events import Note
from chalicelib.core.ledger import Line, LineChange, line_changes, movements
from chalicelib.core.model import Policy, Run
from chalicelib.core.news import News
from chalicelib.glances import Glance, from_text, glance, to_text
from chalicelib.ledger import LimitTooLow
from chalicelib.store import Conflict, Exists, OverLimit
from tests.sim.faults import Faults, no_faults

ZERO = Decimal(0)


@dataclass
class Account:
    limit: Decimal
    free: Decimal
    reserved: Decimal = ZERO
    settled: Decimal = ZERO

    def as_dict(self) -> dict[str, Decimal]:
        return dict(vars(self))


@dataclass
class FakeLedger:
    default: Decimal
    faults: Faults
    set_to: Decimal | None = None
    was_raised_at: datetime | None = None
    months: dict[str, Account] = field(default_factory=dict)
    of_runs: dict[str, Account] = field(default_factory=dict)
    parts: dict[tuple[str, str], Account] = field(default_factory=dict)
    lines_of: dict[tuple[str, int, int], Line] = field(default_factory=dict)

    def limit(self) -> Decimal:
        return self.default if self.set_to is None else self.set_to

    def month(self, month: str) -> dict[str, Decimal]:
        account = self.months.get(month) or Account(self.limit(), self.limit())
        return account.as_dict()

    def runs(self, month: str) -> list[dict[str, Any]]:
        return [
            {"run": run, "reserved": a.reserved, "settled": a.settled}
            for (m, run), a in sorted(self.parts.items())
            if m == month
        ]

    def run(self, run: str) -> dict[str, Decimal]:
        account = self.of_runs.get(run) or Account(ZERO, ZERO)
        return {name: getattr(account, name) for name in ("free", "reserved", "settled")}

    def lines(self, run: str) -> list[dict[str, Any]]:
        return [plain(line) for (name, _, _), line in sorted(self.lines_of.items()) if name == run]

    def open(self, months: Iterable[str]) -> bool:
        """One call a month: that it is there already is no error."""
        made = [self.faults.call("dynamodb", "PutItem month", partial(self._open, month)) for month in months]
        return any(made)

    def _open(self, month: str) -> bool:
        new = month not in self.months
        if new:
            self.months[month] = Account(self.limit(), self.limit())
        return new

    def raised_at(self) -> datetime | None:
        return self.was_raised_at

    def set_limit(self, usd: Decimal, months: list[str], now: datetime) -> None:
        self.faults.call("dynamodb", "TransactWriteItems limit", lambda: self._set_limit(usd, months, now), once=True)

    def _set_limit(self, usd: Decimal, months: list[str], now: datetime) -> None:
        for month in months:
            account = self.months[month]
            if usd < account.settled + account.reserved:
                raise LimitTooLow(month, account.as_dict())
        self.set_to = usd
        for month in months:
            account = self.months[month]
            self.was_raised_at = now if usd > account.limit else self.was_raised_at
            account.free, account.limit = account.free + usd - account.limit, usd


class FakeStore:
    def __init__(self, limit_usd: Decimal, faults: Faults | None = None) -> None:
        self.faults = faults or no_faults()
        self.ledger = FakeLedger(limit_usd, self.faults)
        self.saved: dict[str, Run] = {}
        self.specs: dict[str, tuple[dict[str, Any], str]] = {}
        self.instances: dict[str, str] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.news: list[News] = []

    def create(self, run: Run, spec: dict[str, Any], spec_hash: str) -> Run:
        return self.faults.call(
            "dynamodb", "TransactWriteItems create", lambda: self._create(run, spec, spec_hash), once=True
        )

    def _create(self, run: Run, spec: dict[str, Any], spec_hash: str) -> Run:
        if run.name in self.saved:
            raise Exists(run.name)
        run = replace(run, version=1)
        self.saved[run.name] = run
        self.specs[run.name] = (spec, spec_hash)
        self.ledger.of_runs[run.name] = Account(run.limits.cost_usd, run.limits.cost_usd)
        self._note(run, (Note(run.reason, run.message),), run.created_at)
        self.changed(None, run, ())
        return run

    def load(self, name: str) -> Run | None:
        self.faults.read("dynamodb", "GetItem run")
        return self.saved.get(name)

    def spec(self, name: str) -> tuple[dict[str, Any], str] | None:
        return self.specs.get(name)

    def run_on(self, instance_id: str) -> str | None:
        self.faults.read("dynamodb", "GetItem instance")
        return self.instances.get(instance_id)

    def live(self) -> Iterator[str]:
        return (seen.name for seen in self.glances())

    def glances(self) -> Iterator[Glance]:
        self.faults.read("dynamodb", "Scan live")
        return iter([from_text(run.name, to_text(glance(run))) for run in self.saved.values() if run.deadline])

    def load_many(self, names: Iterable[str]) -> dict[str, Run]:
        self.faults.read("dynamodb", "BatchGetItem runs")
        return {name: self.saved[name] for name in names if name in self.saved}

    def save(
        self,
        before: Run,
        after: Run,
        now: datetime,
        policy: Policy,
        notes: Sequence[Note] = (),
        news: Sequence[News] = (),
    ) -> Run:
        after = replace(after, version=before.version + 1)
        money, lines = movements(before, after, policy), line_changes(before, after, policy)
        raised = after.limits.cost_usd - before.limits.cost_usd
        if unopened := [month for month in {move.month: None for move in money} if month not in self.ledger.months]:
            self.ledger.open(unopened)
        known = {a.instance_id for a in before.attempts}
        alone = not (money or lines or raised or notes or news or {a.instance_id for a in after.attempts} - known)

        def act() -> Run:
            if self.saved[before.name].version != before.version:
                raise Conflict(after.name)
            self._move(after.name, money, raised)
            for change in lines:
                self._line(after.name, change)
            self._save(after, now, notes, news)
            self.changed(before, after, notes)
            return after

        return self.faults.call("dynamodb", f"{'PutItem' if alone else 'TransactWriteItems'} run", act, once=not alone)

    def changed(self, before: Run | None, after: Run, notes: Sequence[Note]) -> None:
        """Told of each change when it is made."""

    def _save(self, after: Run, now: datetime, notes: Sequence[Note], news: Sequence[News]) -> None:
        self.saved[after.name] = after
        for attempt in after.attempts:
            if attempt.instance_id:
                self.instances[attempt.instance_id] = after.name
        self._note(after, notes, now)
        self.news += news

    def timeline(self, name: str, limit: int = 100, after: str = "") -> tuple[list[dict[str, Any]], str | None]:
        return [note for run, note in self.told if run == name][:limit], None

    def _move(self, run: str, money: Any, raised: Decimal) -> None:
        """All of it or nothing, as a transaction."""
        needs: dict[str, Decimal] = {}
        for move in money:
            needs[move.month] = needs.get(move.month, ZERO) + move.needs
        for month, needed in needs.items():
            if needed > 0 and self.ledger.months[month].free < needed:
                raise OverLimit("month", needed)
        whole = sum(needs.values(), ZERO) - raised
        account = self.ledger.of_runs[run]
        if whole > 0 and account.free < whole:
            raise OverLimit("run", whole)
        account.free, account.limit = account.free - whole, account.limit + raised
        for move in money:
            part = self.ledger.parts.setdefault((move.month, run), Account(ZERO, ZERO))
            for each in (self.ledger.months[move.month], account, part):
                each.reserved += move.reserved
                each.settled += move.settled
            self.ledger.months[move.month].free -= move.needs

    def _line(self, run: str, change: LineChange) -> None:
        key = (run, change.attempt, change.seq)
        known = self.ledger.lines_of.get(key)
        assert (known.entry if known else None) == change.before, "a line is not what it was"
        if change.after is None:
            del self.ledger.lines_of[key]
        else:
            self.ledger.lines_of[key] = change.after

    def _note(self, run: Run, notes: Sequence[Note], now: datetime) -> None:
        self.told += [(run.name, {"at": now.isoformat(), "status": run.status.value, **plain(n)}) for n in notes]
