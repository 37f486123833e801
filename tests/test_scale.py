"""Thousands of runs: a pass costs few calls, ends in time, hands over what is too much, and launches each run once (I2, I6)."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from chalicelib import sweep
from chalicelib.core.model import Phase
from chalicelib.slices import Others, Slice, event_of, slice_in
from chalicelib.store import Store
from chalicelib.sweep import SweepFailed
from chalicelib.upkeep import one_slice, whole_pass
from tests.core_world import POLICY
from tests.crowd import Crowd

MINUTE = timedelta(minutes=1)
SWEEP, SLICE = "spot-relay-test-sweep", 5


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moto copies the whole table for each transaction."""
    monkeypatch.setattr(sweep, "SLICE", SLICE)


class Lambda:
    """Its client: asynchronous invocations, kept until they are carried out. `seconds` is what each invocation has."""

    def __init__(self, crowd: Crowd, seconds: float = 300) -> None:
        self.crowd, self.seconds = crowd, seconds
        self.queue: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.lost = False
        self.spent = 0.0

    def invoke(self, **request: Any) -> None:
        if self.error:
            raise self.error
        assert (request["FunctionName"], request["InvocationType"]) == (SWEEP, "Event")
        assert len(request["Payload"]) < 256 * 1024
        if not self.lost:
            self.queue.append(json.loads(request["Payload"]))

    def others(self) -> Others:
        """An invocation that began now; each look at the clock is a second later."""
        self.spent = 0.0
        return Others(lambda: self, SWEEP, self._left)

    def _left(self) -> float:
        self.spent += 1
        assert self.spent < self.seconds, "it ran out of its time"
        return self.seconds - self.spent

    def work(self) -> None:
        while self.queue:
            given = slice_in(self.queue.pop(0))
            assert given
            one_slice(self.crowd.process(), given, self.others()).check()


def swept(crowd: Crowd) -> list[str]:
    """The calls of a whole pass a minute later."""
    crowd.clock.now += MINUTE
    crowd.calls.clear()
    whole_pass(crowd.c).check()
    return list(crowd.calls)


@pytest.mark.parametrize("heard", [True, False])
def test_runs_that_are_well_cost_no_call_of_their_own(store: Store, heard: bool) -> None:
    crowd = Crowd(150)
    swept(crowd)
    if heard:  # from the third minute on the pass reads when each was heard of last
        crowd.clock.now += POLICY.silence
        crowd.hear(150)
    calls = swept(crowd)
    assert len(calls) <= 40 + 150 / 100
    assert Counter(calls)["dynamodb.BatchGetItem"] == (2 if heard else 0)
    assert Counter(calls)["ec2.DescribeInstances"] == 2
    assert Counter(calls)["dynamodb.GetItem"] < 10
    assert "dynamodb.TransactWriteItems" not in calls


def test_a_third_lost_in_one_minute_is_launched_once_each_oldest_first(store: Store) -> None:
    crowd = Crowd(36)
    swept(crowd)
    crowd.lose(*range(0, 36, 3))
    crowd.clock.now += MINUTE
    functions = Lambda(crowd)
    report = whole_pass(crowd.c, functions.others())
    report.check()
    assert (report.looked_after, report.handed_over, report.late) == (SLICE, 12 - SLICE, 0)
    assert [run for run, _ in crowd.ec2.launched] == [crowd.name(k) for k in range(0, 3 * SLICE, 3)]
    queue = list(functions.queue)
    functions.work()
    functions.queue = queue  # each slice twice: Lambda delivers at least once
    functions.work()
    assert Counter(crowd.ec2.launched) == {(crowd.name(k), 2): 1 for k in range(0, 36, 3)}
    runs = store.load_many(crowd.name(k) for k in range(36))
    assert Counter(len(run.live) for run in runs.values()) == {1: 36}
    assert store.ledger.month("2026-11")["reserved"] > 0


def test_a_pass_stops_in_time_and_what_it_left_is_done_by_others(store: Store) -> None:
    """Each look at the clock is a second, and 75 are kept: an invocation gets a few runs done."""
    crowd = Crowd(14)
    swept(crowd)
    crowd.lose(*range(14))
    crowd.clock.now += MINUTE
    functions = Lambda(crowd, seconds=79)
    report = whole_pass(crowd.c, functions.others())
    assert (report.looked_after, report.handed_over, report.late) == (4, 10, 0)
    functions.work()
    assert Counter(crowd.ec2.launched) == {(crowd.name(k), 2): 1 for k in range(14)}


def test_a_lost_slice_is_made_good_by_the_next_pass(store: Store) -> None:
    crowd = Crowd(SLICE + 5)
    swept(crowd)
    crowd.lose(*range(SLICE + 5))
    functions = Lambda(crowd)
    functions.lost = True
    for done in (SLICE, SLICE + 5):
        crowd.clock.now += MINUTE
        whole_pass(crowd.c, functions.others()).check()
        assert len(crowd.ec2.launched) == done


def test_where_nobody_takes_a_slice_the_pass_goes_on_alone_and_says_so(store: Store) -> None:
    crowd = Crowd(SLICE + 5)
    swept(crowd)
    crowd.lose(*range(SLICE + 5))
    crowd.clock.now += MINUTE
    functions = Lambda(crowd)
    functions.error = ConnectionError("AccessDenied")
    report = whole_pass(crowd.c, functions.others())
    assert len(crowd.ec2.launched) == SLICE + 5
    with pytest.raises(SweepFailed, match="slices: ConnectionError: AccessDenied"):
        report.check()


def test_a_slice_that_comes_late_leaves_its_runs_to_the_pass_that_has_them_again(store: Store) -> None:
    crowd = Crowd(1)
    crowd.lose(0)
    given = Slice(crowd.clock.now, crowd.clock.now, list(store.glances()))
    crowd.clock.now += POLICY.replay_for / 2
    assert one_slice(crowd.c, given).late == 1
    assert crowd.ec2.launched == []


def test_a_slice_in_which_a_run_fails_does_the_others_and_is_seen(store: Store) -> None:
    crowd = Crowd(3)
    crowd.lose(0, 1, 2)
    crowd.ec2.broken = {crowd.name(1)}
    glances = list(store.glances())
    given = slice_in(json.loads(json.dumps(event_of(Slice(crowd.clock.now, crowd.clock.now, glances)))))
    assert given == Slice(crowd.clock.now, crowd.clock.now, glances)
    with pytest.raises(SweepFailed, match="run-00001"):
        one_slice(crowd.c, given).check()
    assert sorted(run for run, _ in crowd.ec2.launched) == ["run-00000", "run-00002"]


def test_the_instance_of_a_run_that_cannot_be_read_is_let_be(store: Store) -> None:
    crowd = Crowd(1)
    item = {"pk": {"S": "RUN#run-00007"}, "sk": {"S": "RUN"}, "version": {"N": "1"}, "run": {"M": {}}}
    crowd.c.dynamodb.put_item(TableName=store._table, Item=item)
    crowd.states[crowd.instance(7)] = "running"
    swept(crowd)
    assert crowd.ec2.ended == []


def test_instances_of_many_lost_records_are_found_in_few_reads_and_ended(store: Store) -> None:
    crowd = Crowd(5)
    for k in range(20, 35):
        crowd.states[crowd.instance(k)] = "running"
    calls = Counter(swept(crowd))
    assert calls["dynamodb.BatchGetItem"] == 1
    assert sorted(crowd.ec2.ended) == sorted(crowd.instance(k) for k in range(20, 35))


def test_everything_that_is_due_is_done_in_the_order_of_its_wait(store: Store) -> None:
    crowd = Crowd(4)
    run = store.load(crowd.name(3))
    assert run
    assert run.live[0].phase is Phase.TRAINING
    crowd.lose(0, 1, 2)
    later = crowd.process()
    crowd.clock.now += POLICY.lease  # run 3's instance outlives nothing yet, and its silence counts
    whole_pass(later)
    assert [name for name, _ in crowd.ec2.launched] == [crowd.name(k) for k in range(3)]


def test_after_an_outage_a_silence_that_nobody_could_hear_ends_nobody(store: Store) -> None:
    crowd = Crowd(3)
    swept(crowd)
    crowd.clock.now += POLICY.lease / 2
    swept(crowd)
    assert crowd.ec2.ended == []
    for _ in range(POLICY.silence // MINUTE):
        crowd.clock.now += MINUTE
        crowd.hear(2)
        swept(crowd)
    assert set(crowd.ec2.ended) == {crowd.instance(2)}
