"""Who goes on when there is money again: the oldest first, and none before an older one that the money does not cover."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from chalicelib import housekeeping
from chalicelib.core import events as ev
from chalicelib.core.calendar import turn
from chalicelib.core.decide import decide
from chalicelib.core.model import Reason, Run, Status, Wanted
from chalicelib.core.resuming import first_lease, to_resume, waiting
from chalicelib.store import Store
from tests.core_world import OFFERS, POLICY, START, new_run
from tests.test_shell import NAME
from tests.test_sweep import Swept

TURN = turn(START, POLICY)
LEASE = first_lease(new_run(), START, POLICY)


def suspended(name: str = "a", age: int = 0, reason: Reason = Reason.BUDGET, **changes: object) -> Run:
    facts: dict[str, object] = {
        "name": name,
        "status": Status.SUSPENDED,
        "wanted": Wanted.SUSPEND,
        "wanted_reason": reason,
        "reason": reason,
        "deadline": TURN,
        "created_at": START - timedelta(hours=age),
        **changes,
    }
    return new_run(**facts)


def queued(name: str = "q", age: int = 0) -> Run:
    facts = {"status": Status.QUEUED, "wanted": Wanted.RUN, "wanted_reason": Reason.USER, "retry_at": TURN}
    return suspended(name, age, **facts)


def chosen(runs: list[Run], leases: str, now: datetime = TURN, raised_at: datetime | None = None) -> list[str]:
    oldest_first = sorted(runs, key=lambda run: run.created_at)
    return [run.name for run in to_resume(oldest_first, LEASE * Decimal(leases), now, POLICY, raised_at=raised_at)]


# -- pure ------------------------------------------------------------------------------------------------------------


def test_the_oldest_goes_first_whoever_else_waits() -> None:
    runs = [suspended("young", 1), queued("oldest", 3), suspended("old", 2)]
    assert chosen(runs, "9") == ["oldest", "old", "young"]
    assert chosen(runs, "2.5") == ["oldest", "old"]


BEFORE = TURN - timedelta(days=3)
REFUSED = BEFORE - timedelta(hours=10)


@pytest.mark.parametrize(
    ("leases", "now", "raised_at", "goes"),
    [
        ("0.99", TURN, None, False),
        ("1", TURN, None, True),
        ("1", TURN + timedelta(days=9), None, True),
        ("1.99", BEFORE, None, False),
        ("2", BEFORE, None, True),
        ("1", BEFORE, REFUSED, True),
        ("1", BEFORE, REFUSED + timedelta(hours=9), True),
        ("0.99", BEFORE, REFUSED, False),
        ("1", BEFORE, REFUSED - timedelta(seconds=1), False),
        ("2", BEFORE, REFUSED - timedelta(seconds=1), True),
    ],
)
@pytest.mark.parametrize("run", [suspended(), queued()], ids=["suspended", "queued"])
def test_money_that_merely_came_back_must_cover_two_leases(
    run: Run, leases: str, now: datetime, raised_at: datetime | None, goes: bool
) -> None:
    assert bool(chosen([replace(run, refused_at=REFUSED)], leases, now, raised_at)) is goes


@pytest.mark.parametrize(
    ("run", "waits"),
    [
        (suspended(), True),
        (queued(), True),
        (suspended(reason=Reason.RUN_BUDGET), False),
        (suspended(reason=Reason.USER), False),
        (replace(queued(), reason=Reason.NO_CAPACITY), False),
        (replace(suspended(), status=Status.STOPPING), False),
    ],
)
def test_only_what_waits_for_the_months_money_is_looked_at(run: Run, waits: bool) -> None:
    assert waiting(run) is waits


@pytest.mark.parametrize("reason", [Reason.USER, Reason.RUN_BUDGET])
def test_the_months_money_resumes_neither_a_persons_suspension_nor_a_runs_own_limit(reason: Reason) -> None:
    run = suspended(reason=reason)
    after = decide(run, ev.ResumeAsked("spot-relay", Reason.BUDGET), TURN, POLICY).run
    assert (after.status, after.wanted_reason) == (Status.SUSPENDED, reason)


# -- with the table --------------------------------------------------------------------------------------------------


class Poor(Swept):
    """A month whose limit the test sets; the run's first lease is the only money that moves."""

    def limit(self, usd: Decimal) -> None:
        months = [f"{self.clock.now:%Y-%m}", f"{turn(self.clock.now, POLICY):%Y-%m}"]
        self.store.ledger.open(months)
        self.store.ledger.set_limit(usd, months, self.clock.now)

    def resume(self) -> list[str]:
        report = self.sweep()
        free = lambda: self.store.ledger.month(f"{self.clock.now:%Y-%m}")["free"]  # noqa: E731
        priced = lambda run: ev.Priced(OFFERS, self.clock.now)  # noqa: E731
        runs = housekeeping.waiting_runs(self.shell, report.waiting)
        raised_at = self.store.ledger.raised_at
        return housekeeping.resume(self.shell, runs, free, raised_at, priced, self.clock.now)

    def add(self, name: str, **changes: object) -> None:
        self.store.create(new_run(name=name, uid=name, **changes), {}, "hash")
        self.shell.tell(name, ev.Submitted())

    def named(self, name: str) -> Run:
        found = self.store.load(name)
        assert found
        return found


@pytest.fixture
def stage(store: Store) -> Poor:
    return Poor(store)


def test_a_suspended_run_goes_on_when_the_limit_is_raised(stage: Poor) -> None:
    stage.limit(Decimal("0.01"))
    assert stage.tell(ev.Submitted()).status is Status.SUSPENDED
    assert stage.resume() == []
    stage.limit(LEASE)
    assert stage.resume() == [NAME]
    assert (stage.run.status, stage.run.attempts[0].reserved) == (Status.LAUNCHING, LEASE)


def test_a_suspended_run_goes_on_when_the_month_turns(stage: Poor) -> None:
    stage.limit(Decimal("0.01"))
    stage.tell(ev.Submitted())
    stage.clock.now = TURN
    stage.limit(LEASE)
    assert stage.resume() == [NAME]
    assert stage.run.status is Status.LAUNCHING


def test_a_run_that_waits_for_its_budget_stays_in_the_queue_and_starts_when_there_is_money(stage: Poor) -> None:
    stage.tell(ev.CancelAsked("me"))
    stage.limit(Decimal("0.01"))
    stage.add("waits", limits=replace(new_run().limits, wait_for_budget=True))
    run = stage.named("waits")
    assert (run.status, run.reason, run.attempts) == (Status.QUEUED, Reason.BUDGET, ())
    assert stage.resume() == []
    stage.limit(2 * LEASE)
    assert stage.resume() == ["waits"]
    assert stage.named("waits").status is Status.LAUNCHING


def test_a_run_that_loses_its_instance_while_money_refuses_another_says_that_it_waits_and_goes_on(stage: Poor) -> None:
    stage.tell(ev.CancelAsked("me"))
    stage.limit(LEASE)
    stage.add("waits", limits=replace(new_run().limits, wait_for_budget=True))
    instance = stage.named("waits").attempts[0].instance_id or ""
    stage.shell.on_instance(ev.Warned(instance, stage.clock.now + POLICY.notice))
    assert (stage.named("waits").status, stage.named("waits").reason) == (Status.LAUNCHING, Reason.BUDGET)
    stage.shell.on_instance(ev.InstanceState(instance, "terminated"))
    assert (stage.named("waits").status, stage.named("waits").reason) == (Status.QUEUED, Reason.BUDGET)
    stage.limit(3 * LEASE)
    assert stage.resume() == ["waits"]
    assert stage.named("waits").attempts[-1].instance_id


def test_at_the_months_turn_a_queued_run_does_not_pass_an_older_suspended_one(stage: Poor) -> None:
    stage.limit(Decimal("0.01"))
    stage.tell(ev.Submitted())
    stage.clock.now = TURN - timedelta(minutes=90)
    stage.shell.tell(NAME, ev.Priced(OFFERS, stage.clock.now))
    stage.add(
        "waits",
        limits=replace(new_run().limits, wait_for_budget=True),
        created_at=stage.clock.now,
        offered_at=stage.clock.now,
    )
    stage.clock.now = TURN
    stage.limit(LEASE * Decimal("1.5"))
    assert stage.resume() == [NAME]
    assert (stage.run.status, stage.named("waits").status) == (Status.LAUNCHING, Status.QUEUED)


def test_a_run_at_its_own_limit_goes_on_only_with_a_higher_cost(stage: Poor) -> None:
    stage.add("dear", limits=replace(new_run().limits, cost_usd=Decimal("0.01")))
    assert (stage.named("dear").status, stage.named("dear").wanted_reason) == (Status.SUSPENDED, Reason.RUN_BUDGET)
    stage.limit(Decimal(30))
    assert stage.resume() == []
    run = stage.shell.tell("dear", ev.ResumeAsked("me"))
    assert run
    assert (run.status, run.wanted_reason) == (Status.SUSPENDED, Reason.RUN_BUDGET)
    run = stage.shell.tell("dear", ev.ResumeAsked("me", cost_usd=Decimal("0.01") + LEASE))
    assert run
    assert (run.status, run.limits.cost_usd) == (Status.LAUNCHING, Decimal("0.01") + LEASE)
    assert stage.store.ledger.run("dear")["free"] == Decimal("0.01")


def test_one_run_that_cannot_be_launched_keeps_no_other_from_going_on(stage: Poor) -> None:
    stage.limit(Decimal("0.01"))
    stage.tell(ev.Submitted())
    stage.add("second", created_at=START + timedelta(seconds=1))
    stage.clock.now = TURN
    stage.limit(Decimal(20))
    launch = stage.ec2.launch

    def broken(run: str, attempt: object) -> object:
        if run == NAME:
            raise ConnectionError("no way to EC2")
        return launch(run, attempt)  # type: ignore[arg-type]

    stage.ec2.launch = broken  # type: ignore[assignment]
    with pytest.raises(ConnectionError):
        stage.resume()
    assert stage.named("second").attempts[0].instance_id
