"""The sweep finds out what no event told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest

from chalicelib.core import events as ev
from chalicelib.core.model import Reason, Run, Status
from chalicelib.core.news import News
from chalicelib.glances import Glance
from chalicelib.instances import Instance
from chalicelib.store import Store
from chalicelib.sweep import Report, sweep
from tests.core_world import START
from tests.test_shell import NAME, Stage


class Heard:
    def __init__(self) -> None:
        self.at: dict[int, datetime] = {}
        self.pruned: list[str] = []
        self.recorded: dict[str, str] = {}
        self.listening = START - timedelta(days=1)

        self.taken: list[list[str]] | None = None  # None: nobody takes a slice
        self.runs_in_time = 10**9

    def glimpse(self, attempts: list[tuple[str, int]]) -> Mapping[tuple[str, int], datetime]:
        return {(name, number): self.at[number] for name, number in attempts if number in self.at}

    def untidy(self, glance: Glance) -> bool:
        return False

    def in_time(self) -> bool:
        self.runs_in_time -= 1
        return self.runs_in_time > 0

    def hand_over(self, runs: list[Glance]) -> bool:
        if self.taken is not None:
            self.taken.append([g.name for g in runs])
        return self.taken is not None

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        return self.at

    def priced(self, run: Run) -> ev.Priced | None:
        return None

    def prune(self, run: Run) -> None:
        self.pruned.append(run.name)

    def record(self, what: str, news: News, run: Run | None) -> None:
        self.recorded[what] = news.message


class Swept(Stage):
    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.heard = Heard()
        self.listed: list[Instance] = []

    def list(self, instance: str, state: str = "running", attempt: int = 1, run: str = NAME, reason: str = "") -> None:
        self.listed = [i for i in self.listed if i.instance_id != instance]
        self.listed.append(Instance(instance, state, run, attempt, START, reason=reason))

    def sweep(self, after: float = 60) -> Report:
        self.clock.now += timedelta(seconds=after)
        return sweep(self.shell, self.store.glances(), self.listed, self.heard, self.clock.now)

    @property
    def run(self) -> Run:
        run = self.store.load(NAME)
        assert run
        return run

    def training(self) -> Swept:
        self.tell(ev.Submitted())
        for ready in (False, True):
            self.tell(ev.Claimed(1, "i-00000001", ready))
        self.list("i-00000001")
        return self


@pytest.fixture
def stage(store: Store) -> Swept:
    return Swept(store)


def test_a_run_that_is_well_is_left_alone(stage: Swept) -> None:
    stage.training()
    before = stage.run
    stage.heard.at[1] = stage.clock.now + timedelta(seconds=50)
    stage.sweep()
    assert stage.run == before


def test_an_end_that_no_event_told_relaunches(stage: Swept) -> None:
    stage.training()
    stage.list("i-00000001", "terminated", reason="Server.SpotInstanceTermination")
    stage.sweep()
    assert stage.run.attempts[0].ended_by is Reason.SPOT_INTERRUPTION
    assert stage.run.attempts[1].instance_id == "i-00000002"


def test_an_instance_missing_from_ec2s_list_is_gone_only_after_a_while(stage: Swept) -> None:
    stage.training()
    stage.listed = []
    stage.heard.at[1] = stage.clock.now
    stage.sweep(60)
    assert stage.run.status is Status.RUNNING
    stage.sweep(300)
    assert stage.run.attempts[0].ended_by is Reason.INSTANCE_ENDED


def test_silence_confirmed_by_ec2_ends_the_instance_first(stage: Swept) -> None:
    stage.training()
    stage.sweep(181)
    assert stage.ec2.ended == ["i-00000001"]
    assert len(stage.run.attempts) == 1
    stage.list("i-00000001", "terminated")
    stage.sweep()
    assert stage.run.attempts[1].instance_id == "i-00000002"


def test_an_instance_without_a_run_is_ended(stage: Swept) -> None:
    stage.training()
    stage.heard.at[1] = stage.clock.now + timedelta(seconds=60)
    stage.list("i-stray", run="nobody")
    assert stage.sweep().strays == ["i-stray"]
    assert stage.ec2.ended == ["i-stray"]
    assert "'nobody' is not known" in stage.heard.recorded["i-stray"]


def test_a_second_instance_of_the_same_attempt_is_ended(stage: Swept) -> None:
    stage.training()
    stage.heard.at[1] = stage.clock.now + timedelta(seconds=60)
    stage.list("i-twin")
    assert stage.sweep().strays == ["i-twin"]


def test_an_instance_that_was_launched_but_not_recorded_is_adopted(stage: Swept) -> None:
    stage.ec2.silent = True
    stage.tell(ev.Submitted())
    stage.ec2.silent = False
    stage.list("i-00000001")
    assert stage.sweep().strays == []
    assert stage.run.attempts[0].instance_id == "i-00000001"


def test_a_protected_instance_is_never_ended(stage: Swept) -> None:
    stage.listed = [Instance("i-kept", "running", "nobody", 1, START, protected=True)]
    assert stage.sweep().strays == []


def test_one_run_that_cannot_be_read_is_no_failure_and_does_not_keep_the_others_waiting(stage: Swept) -> None:
    stage.training()
    other = stage.store.load(NAME)
    assert other
    broken = {
        "pk": {"S": "RUN#broken"},
        "sk": {"S": "RUN"},
        "live": {"S": "broken"},
        "run": {"M": {"name": {"N": "7"}}},
    }
    stage.store._client.put_item(TableName=stage.store._table, Item=broken)
    stage.list("i-00000001", "terminated")
    report = stage.sweep()
    report.check()
    assert [error.what for error in report.unreadable] == ["RUN#broken / RUN"]
    assert stage.run.attempts[1].instance_id == "i-00000002"


def test_capacity_is_asked_for_again_when_the_wait_is_over(stage: Swept) -> None:
    stage.ec2.refusal = (ev.Refusal.CAPACITY, "InsufficientInstanceCapacity")
    stage.tell(ev.Submitted())
    assert stage.run.status is Status.QUEUED
    stage.ec2.refusal = None
    for _ in range(20):
        stage.sweep(120)
        if stage.run.attempts[0].instance_id:
            break
    assert stage.run.status is Status.LAUNCHING
