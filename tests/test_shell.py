"""From an event to what was done about it: the table in moto, EC2 a fake that keeps its promises about client tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from chalicelib.core import events as ev
from chalicelib.core.model import Reason, Run, Status
from chalicelib.shell import Shell
from chalicelib.store import Store
from tests.core_world import POLICY, START, new_run
from tests.fakes import Clock, FakeEc2, FakeMeter, FakeWatchdog

NAME = "cloud_prod_001"


class Stage:
    def __init__(self, store: Store) -> None:
        self.store, self.ec2, self.clock = store, FakeEc2(), Clock()
        self.meter, self.watchdog = FakeMeter(), FakeWatchdog()
        self.shell = Shell(store, self.ec2, POLICY, self.clock, self.meter, self.watchdog)
        store.create(new_run(), {}, "hash")

    def tell(self, event: ev.Event) -> Run:
        run = self.shell.tell(NAME, event)
        assert run
        return run


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)


def test_a_submitted_run_has_an_instance_and_leads_back_from_it(stage: Stage) -> None:
    run = stage.tell(ev.Submitted())
    assert run.attempts[0].instance_id == "i-00000001"
    assert stage.store.run_on("i-00000001") == NAME


def test_an_event_about_another_instance_is_nothing(stage: Stage) -> None:
    stage.tell(ev.Submitted())
    assert stage.shell.on_instance(ev.InstanceState("i-somebody", "terminated")) is None


def test_a_warning_is_answered_with_one_more_launch_however_often_it_comes(stage: Stage) -> None:
    stage.tell(ev.Submitted())
    for _ in range(3):
        stage.shell.on_instance(ev.Warned("i-00000001", START + POLICY.notice))
    assert sorted(stage.ec2.by_token.values()) == ["i-00000001", "i-00000002"]


def test_a_launch_whose_answer_is_lost_is_replayed_not_repeated(stage: Stage) -> None:
    stage.ec2.silent = True
    run = stage.tell(ev.Submitted())
    assert run.attempts[0].instance_id is None
    stage.ec2.silent = False
    stage.clock.now += timedelta(seconds=60)
    run = stage.tell(ev.Tick())
    assert run.attempts[0].instance_id == "i-00000001"
    assert len(stage.ec2.by_token) == 1


def test_while_a_launch_may_be_answered_nobody_else_asks(stage: Stage) -> None:
    """Two events at once: the one that lost the write would only repeat the other's CreateFleet."""
    stage.ec2.silent = True
    stage.tell(ev.Submitted())
    asked = []
    for seconds in (1, 8, 1):
        stage.clock.now += timedelta(seconds=seconds)
        stage.tell(ev.Tick())
        asked.append(stage.ec2.calls)
    assert asked == [1, 1, 2]


def test_after_the_time_for_replays_the_instance_is_looked_for_by_its_tags(stage: Stage) -> None:
    stage.ec2.silent = True
    stage.tell(ev.Submitted())
    stage.clock.now += POLICY.replay_for
    calls = stage.ec2.calls
    run = stage.tell(ev.Tick())
    assert (run.attempts[0].instance_id, stage.ec2.calls) == ("i-00000001", calls)


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_launch_without_an_answer_is_not_asked_for_again_by_a_run_that_needs_it_no_more(
    stage: Stage, carried_out: bool
) -> None:
    stage.ec2.silent = True
    stage.tell(ev.Submitted())
    if not carried_out:
        stage.ec2.by_token.clear()
    stage.ec2.silent = False
    for _ in range(POLICY.replay_for // timedelta(minutes=1)):
        stage.clock.now += timedelta(minutes=1)
        run = stage.tell(ev.CancelAsked("me"))
    assert stage.ec2.calls == 1
    assert set(stage.ec2.ended) == ({"i-00000001"} if carried_out else set())
    assert run.status is (Status.STOPPING if carried_out else Status.CANCELLED)


def test_what_a_refused_launch_had_reserved_comes_back(stage: Stage) -> None:
    stage.ec2.refusal = (ev.Refusal.FATAL, "UnauthorizedOperation: ask your administrator.")
    run = stage.tell(ev.Submitted())
    assert (run.status, run.reason) == (Status.FAILED, Reason.LAUNCH_REFUSED)
    assert stage.store.ledger.month("2026-11")["free"] == 20


def test_over_the_limit_nothing_is_launched_and_the_run_says_so(stage: Stage) -> None:
    stage.store.ledger._limit = Decimal("0.05")
    run = stage.tell(ev.Submitted())
    assert (run.status, run.reason) == (Status.SUSPENDED, Reason.BUDGET)
    assert stage.ec2.calls == 0
    assert stage.store.ledger.month("2026-11") == {
        "limit": Decimal("0.05"),
        "free": Decimal("0.05"),
        "reserved": 0,
        "settled": 0,
    }


def test_the_timeline_tells_the_story(stage: Stage) -> None:
    stage.tell(ev.Submitted())
    stage.tell(ev.Claimed(1, "i-00000001", ready=False))
    stage.tell(ev.Claimed(1, "i-00000001", ready=True))
    stage.tell(ev.Exited(1, "i-00000001", Reason.DONE, "The result is in S3."))
    said = [e["message"] for e in stage.store.timeline(NAME)[0]]
    assert said[-2:] == ["Attempt 1 trains from step 0.", "The result is in S3."]


def test_an_instance_that_lived_longer_than_was_paid_for_is_told_of(stage: Stage) -> None:
    """Every switch would have to fail first; the ledger can't hold what nobody reserved, so a person must know."""
    run = stage.tell(ev.Submitted())
    until = run.attempts[0].lease.until if run.attempts[0].lease else START
    stage.clock.now = until + timedelta(minutes=30)
    stage.meter.found = replace(stage.meter.found, launched_at=START, ended_at=stage.clock.now)
    run = stage.tell(ev.InstanceState("i-00000001", "terminated", "Client.UserInitiatedShutdown"))
    assert run.attempts[0].outlived == timedelta(minutes=30)
    told = [event for event in stage.store.timeline(NAME)[0] if "30.0 min longer than was paid for" in event["message"]]
    assert [(event["reason"], event["attempt"]) for event in told] == [("lease_end", 1)]
    mails = [item["message"] for item in stage.store.ledger.query("OUTBOX") if item["kind"] == "outlived"]
    assert len(mails) == 1
    assert "about 0.04 USD that the ledger does not hold" in mails[0]
