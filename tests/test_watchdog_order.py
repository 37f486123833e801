"""I3: of two calls to Scheduler the last to land holds: never later than what is paid for, and early only for minutes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from chalicelib.core import apply, leases
from chalicelib.core import events as ev
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, Phase, Run
from chalicelib.core.reconcile import next_deadline, reconcile
from chalicelib.shell import Shell
from chalicelib.store import OverLimit, Store
from chalicelib.watchdog import Watchdog
from tests.core_world import POLICY, START, new_run
from tests.hooks import aws
from tests.test_shell import NAME, Stage
from tests.test_watchdog import GROUP, ROLE

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
ID = "i-00000001"


class Scheduled(Stage):
    """A run that trains, whose entry is in moto's Scheduler; `slow` is another process on the same table and Scheduler."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        aws("scheduler").create_schedule_group(Name=GROUP)
        self.shell, self.slow_client = self.process(aws("scheduler")), aws("scheduler")
        self.slow = self.process(self.slow_client)
        self.under_way: list[dict[str, Any]] = []
        self.tell(ev.Submitted())
        for ready in (False, True):
            self.tell(ev.Claimed(1, ID, ready))

    def process(self, client: Any) -> Shell:
        return Shell(self.store, self.ec2, POLICY, self.clock, self.meter, Watchdog(lambda: client, GROUP, ROLE))

    def delay(self) -> None:
        """What the slow process asks of Scheduler is under way, and the process dies with it."""

        def keep(params: dict[str, Any], **_: Any) -> None:
            self.under_way.append(params)
            raise ReadTimeoutError(endpoint_url="https://scheduler.example")

        self.slow_client.meta.events.register("provide-client-params.scheduler.UpdateSchedule", keep)

    def land(self) -> None:
        aws("scheduler").update_schedule(**self.under_way.pop(0))

    def renew(self) -> None:
        def renewal(run: Run) -> ev.Renewed:
            held = run.attempts[0]
            assert held.lease
            return ev.Renewed(1, held.lease.seq, leases.usage(run, held, self.clock.now, Evidence(), POLICY))

        self.shell.tell(NAME, renewal)

    @property
    def entry(self) -> datetime:
        said = aws("scheduler").get_schedule(GroupName=GROUP, Name=ID)["ScheduleExpression"]
        at = datetime.strptime(said, "at(%Y-%m-%dT%H:%M:%S)").replace(tzinfo=START.tzinfo)
        run = self.store.load(NAME)
        assert run
        assert run.attempts[0].lease
        assert at <= run.attempts[0].lease.end + POLICY.grace < run.attempts[0].lease.until, (
            "later than what is paid for"
        )
        return at


@pytest.fixture
def stage(store: Store) -> Scheduled:
    return Scheduled(store)


def after_lease(renewed: timedelta) -> datetime:
    return START + renewed + POLICY.lease + POLICY.grace


def test_an_older_update_that_lands_after_a_newer_one_is_made_good_before_it_can_fire(stage: Scheduled) -> None:
    stage.delay()
    stage.clock.now = START + 26 * MINUTE
    with pytest.raises(ReadTimeoutError):
        stage.slow.tell(NAME, ev.Tick())  # the first lease's time, once more
    stage.clock.now += 10 * SECOND
    stage.renew()
    renewed = stage.clock.now - START
    assert stage.entry == after_lease(renewed)
    stage.clock.now += 10 * SECOND
    stage.land()
    assert stage.entry == after_lease(0 * MINUTE), "back at the first lease's time: early"
    while stage.clock.now - START < renewed + POLICY.lands_within:
        stage.clock.now += 30 * SECOND
        stage.tell(ev.Beat(1, ID))
    assert stage.entry == after_lease(renewed)
    assert stage.clock.now < after_lease(0 * MINUTE) - 20 * MINUTE, "long before the first lease's time"


def test_the_sweep_sets_it_once_more_when_no_heartbeat_does(stage: Scheduled) -> None:
    stage.clock.now = START + 26 * MINUTE
    stage.renew()
    run = stage.store.load(NAME)
    assert run
    assert run.attempts[0].watchdog_again_at == stage.clock.now + POLICY.lands_within
    run = replace(run, attempts=(replace(run.attempts[0], phase=Phase.LEAVING, phase_since=START + 31 * MINUTE),))
    assert next_deadline(run, stage.clock.now, POLICY) == stage.clock.now + POLICY.lands_within


def test_an_entry_is_set_twice_for_each_lease_and_no_more(stage: Scheduled) -> None:
    calls: list[str] = []
    for each in (stage.shell, stage.slow):
        client = each.watchdog._scheduler()  # type: ignore[attr-defined]
        client.meta.events.register("before-call.scheduler", lambda model, **_: calls.append(model.name) or None)
    for _ in range(25 * 2):
        stage.clock.now += 30 * SECOND
        stage.tell(ev.Beat(1, ID))
        stage.slow.tell(NAME, ev.Tick())
    assert calls == ["UpdateSchedule"], "the first lease's time once more"
    stage.clock.now += MINUTE
    stage.renew()
    for _ in range(20 * 2):
        stage.clock.now += 30 * SECOND
        stage.tell(ev.Beat(1, ID))
        stage.slow.tell(NAME, ev.Tick())
    assert calls == ["UpdateSchedule"] * 3


def test_a_renewal_that_is_not_paid_for_moves_no_entry(stage: Scheduled) -> None:
    month = "2026-11"
    held = stage.store.ledger.month(month)
    stage.store.ledger.set_limit(held["settled"] + held["reserved"], [month], START)
    stage.clock.now = START + 26 * MINUTE
    with pytest.raises(OverLimit):
        stage.renew()
    assert stage.entry == after_lease(0 * MINUTE)


def test_an_update_that_lands_after_the_entry_was_taken_back_makes_none(stage: Scheduled) -> None:
    stage.delay()
    stage.clock.now = START + 6 * MINUTE
    with pytest.raises(ReadTimeoutError):
        stage.slow.tell(NAME, ev.Tick())
    stage.shell.on_instance(ev.InstanceState(ID, "terminated"))
    scheduler = aws("scheduler")
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        stage.land()
    assert [s["Name"] for s in scheduler.list_schedules(GroupName=GROUP)["Schedules"]] == ["i-00000002"]


# -- pure ------------------------------------------------------------------------------------------------------------

OFFER_PRICE = new_run().offers[0].max_price
FIRST, SECOND_LEASE = after_lease(0 * MINUTE), after_lease(26 * MINUTE)
NOW, AGAIN = START + 31 * MINUTE, START + 36 * MINUTE


@pytest.mark.parametrize(
    ("stands", "again_at", "told", "becomes"),
    [
        (None, None, FIRST, AGAIN),  # made
        (FIRST, None, SECOND_LEASE, AGAIN),  # moved
        (FIRST, NOW, FIRST, None),  # set once more
        (FIRST, NOW + SECOND, FIRST, NOW + SECOND),  # the same answer twice
        (FIRST, None, FIRST, None),
        (SECOND_LEASE, NOW, FIRST, AGAIN),  # an older answer comes late
        (FIRST, NOW, None, None),  # taken back
    ],
)
def test_each_new_time_is_to_be_set_once_more_when_no_older_call_can_land_any_more(
    stands: datetime | None, again_at: datetime | None, told: datetime | None, becomes: datetime | None
) -> None:
    held = Attempt(1, Phase.TRAINING, START, instance_id=ID, watchdog_at=stands, watchdog_again_at=again_at)
    after = apply.watchdog_set(new_run(attempts=(held,)), ev.WatchdogSet(1, told), NOW, POLICY).attempts[0]
    assert (after.watchdog_at, after.watchdog_again_at) == (told, becomes)


def test_an_older_answer_that_comes_late_has_the_entry_set_anew() -> None:
    lease = leases.first(START + 26 * MINUTE, 2, OFFER_PRICE, 50, POLICY)
    held = Attempt(1, Phase.TRAINING, START, instance_id=ID, lease=lease, watchdog_at=SECOND_LEASE)
    run = apply.watchdog_set(new_run(attempts=(held,), baton=1), ev.WatchdogSet(1, FIRST), NOW, POLICY)
    assert ev.SetWatchdog(1, ID, SECOND_LEASE, moves=True) in reconcile(run, NOW, POLICY).commands
