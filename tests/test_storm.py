"""A storm: EC2 takes a third of all live runs' instances back in one minute. Half of it is told by events, each of which comes
twice, and half by nothing: the sweep sees it, and hands on what is too much for it. Each run is relaunched once.

The table is the emulator's, asked by several Lambda environments at once. `make storm` has 10,000 live runs.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import boto3
import pytest

from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.slices import Others, slice_in
from chalicelib.sweep import SLICE
from chalicelib.upkeep import one_slice, whole_pass
from spotrelay.rehearsal.emulator import Emulator
from tests.conftest import TRIED, make_table
from tests.controlled import SETTINGS
from tests.crowd import Crowd

RUNS = int(os.environ.get("SPOT_RELAY_STORM", "330"))
MINUTE = timedelta(minutes=1)
MONTH = "2026-11"
AT_ONCE = 8  # Lambda environments
CALLS_A_RELAUNCH = 20  # with all that asks for it coming twice, and both at once
# Of writing, which DynamoDB gives one partition key (DynamoDB developer guide, partition key design).
UNITS_A_SECOND = 1000


class Storm:
    """The environments, what they write, and Lambda's queue of asynchronous invocations."""

    def __init__(self, session: boto3.Session) -> None:
        self.crowd = Crowd(RUNS, page=1000, session=session)
        self.units: Counter[str] = Counter()  # written, by partition key; what is in a transaction counts twice
        self.slices = 0
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._idle: SimpleQueue[Controller] = SimpleQueue()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        for _ in range(AT_ONCE):
            process = self.crowd.process()
            process.dynamodb.meta.events.register("provide-client-params.dynamodb", self._written)
            self._idle.put(process)

    def invocation(self, act: Callable[[Controller], Any]) -> Future[Any]:
        """In the next environment that is idle."""

        def acts() -> Any:
            process = self._idle.get()
            try:
                return act(process)
            finally:
                self._idle.put(process)

        return self._pool.submit(acts)

    def event(self, event: ev.Warned) -> Future[Any]:
        return self.invocation(lambda c: c.shell.on_instance(event))

    def sweep(self) -> Future[Any]:
        def act(c: Controller) -> None:
            report = whole_pass(c, Others(lambda: self, "sweep", lambda: 300.0))
            report.check()
            assert report.looked_after <= SLICE

        return self.invocation(act)

    def invoke(self, Payload: bytes, **_: Any) -> None:
        """Lambda's client. Each slice will be carried out twice, as Lambda delivers at least once."""
        self.slices += 1
        self._queue.put(Payload)
        self._queue.put(Payload)

    def work(self) -> None:
        """What the sweep has handed on."""

        def act(c: Controller, payload: bytes) -> None:
            given = slice_in(json.loads(payload))
            assert given
            one_slice(c, given).check()

        taken = [self._queue.get() for _ in range(self._queue.qsize())]
        for done in [self.invocation(lambda c, payload=payload: act(c, payload)) for payload in taken]:  # type: ignore[misc]
            done.result()

    def _written(self, params: dict[str, Any], **_: Any) -> None:
        for item in params.get("TransactItems", ()):
            (asked,) = item.values()
            self.units[asked.get("Item", asked.get("Key"))["pk"]["S"]] += 2
        written = params.get("Item") or (params["Key"] if "ConsistentRead" not in params and "Key" in params else None)
        if written:
            self.units[written["pk"]["S"]] += 1


@pytest.fixture
def storm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storm]:
    with Emulator().start(tmp_path, "http://127.0.0.1:9") as emulator:
        monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.endpoint)
        session = emulator.session()
        make_table(session.client("dynamodb"), SETTINGS.table)
        yield Storm(session)


def test_a_third_is_lost_in_a_minute_and_each_is_launched_once(storm: Storm) -> None:
    crowd, store = storm.crowd, storm.crowd.c.store
    store.ledger.set_limit(Decimal(RUNS), [MONTH, "2026-12"], crowd.clock.now)
    storm.sweep().result()
    before, held = _runs(storm), store.ledger.month(MONTH)["reserved"]  # for what is stored
    lost = range(0, RUNS, 3)
    told, untold = lost[::2], lost[1::2]
    crowd.point(*told)
    crowd.lose(*untold)
    crowd.clock.now += MINUTE
    crowd.calls.clear()
    storm.units.clear()
    ends_at = crowd.clock.now + 2 * MINUTE
    invocations = [storm.event(ev.Warned(crowd.instance(k), ends_at)) for k in told for _twice in range(2)]
    for done in [*invocations, storm.sweep()]:
        done.result()
    storm.work()

    assert Counter(crowd.ec2.launched) == {(crowd.name(k), 2): 1 for k in lost}
    after = _runs(storm)
    assert Counter(len(run.live) for run in after.values()) == {1: RUNS - len(told), 2: len(told)}
    assert storm.slices == -(-len(untold) // SLICE) - 1
    month = store.ledger.month(MONTH)
    assert month["reserved"] - held == _reserved(after) - _reserved(before)
    assert month["free"] == month["limit"] - month["reserved"] - month["settled"]
    calls = (len(crowd.calls) + len(crowd.ec2.launched)) / len(lost)
    assert calls <= CALLS_A_RELAUNCH
    ((busiest, units),) = storm.units.most_common(1)
    assert units <= UNITS_A_SECOND * MINUTE.total_seconds()
    TRIED["storms"] = {
        f"storm: {len(lost):,} of {RUNS:,} live runs lost in a minute, {storm.slices} slices, {calls:.1f} AWS calls for each, "
        f"{units / 60:.0f} of {UNITS_A_SECOND} units a second at the busiest key ({busiest})"
    }


def _runs(storm: Storm) -> dict[str, Run]:
    return storm.crowd.c.store.load_many(storm.crowd.name(k) for k in range(RUNS))


def _reserved(runs: dict[str, Run]) -> Decimal:
    return sum((attempt.reserved for run in runs.values() for attempt in run.attempts), Decimal(0))
