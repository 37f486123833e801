"""A crowd of live runs on one controller: thousands of items in moto's table, and an EC2 that only lists, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Lock
from types import SimpleNamespace
from typing import Any

import boto3

from chalicelib.codec import plain, to_item
from chalicelib.controller import Controller
from chalicelib.core import calendar
from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Run
from chalicelib.glances import glance, to_text
from tests.controlled import SETTINGS
from tests.core_world import OFFERS, POLICY, START, new_run
from tests.fakes import Clock, FakeEc2, FakeMeter, FakeWatchdog
from tests.hooks import SESSION


class Crowd:
    """`n` runs that train and were heard of just now. `calls` lists the AWS calls since it was cleared last."""

    def __init__(self, n: int, page: int = 100, session: boto3.Session = SESSION) -> None:
        """`page` instances are in a page of EC2's list; EC2's own have 1,000 at most."""
        self.page, self._session = page, session
        self.clock, self.ec2 = Clock(), CountedEc2()
        self.c = self.process()
        self.c.s3.create_bucket(Bucket=SETTINGS.bucket)
        self.states = {self.instance(k): "running" for k in range(n)}
        run = trained()
        self.c.store.ledger.open([calendar.month(at, POLICY) for at in (START, calendar.turn(START, POLICY))])
        self._put(item for k in range(n) for item in self._items(run, k))
        self.hear(n)

    def process(self) -> Controller:
        """Another Lambda environment on the same account."""
        c = Controller(SETTINGS, self._session, self.clock)
        c.__dict__.update(fleet=self.ec2, watchdog=FakeWatchdog(), meter=FakeMeter())
        c.ec2.meta.events.register_first("before-call.ec2.DescribeInstances", self._describe)
        c.ec2.meta.events.register_first("before-call.ec2.DescribeVolumes", self._no_volumes)
        self.calls: list[str] = []
        for client in (c.dynamodb, c.s3):
            client.meta.events.register_first("before-call", self._called)
        return c

    @staticmethod
    def name(k: int) -> str:
        return f"run-{k:05d}"

    @staticmethod
    def instance(k: int) -> str:
        return f"i-{k:017x}"

    def hear(self, n: int) -> None:
        """Each run's agent is heard of now."""
        told = {"attempt": 1, "at": self.clock.now.isoformat(), "phase": "train"}
        self._put({"pk": f"RUN#{self.name(k)}", "sk": "BEAT#0001", **told} for k in range(n))

    def point(self, *numbers: int) -> None:
        """From these instances to their runs, for events."""
        self._put(
            {"pk": f"INSTANCE#{self.instance(k)}", "sk": "INSTANCE", "run": self.name(k), "attempt": 1} for k in numbers
        )

    def lose(self, *numbers: int) -> None:
        """EC2 takes these instances back, and no event tells of it."""
        for k in numbers:
            self.states[self.instance(k)] = "terminated"

    def _items(self, run: Run, k: int) -> Iterator[dict[str, Any]]:
        name, attempt = self.name(k), replace(run.attempts[0], instance_id=self.instance(k))
        mine = replace(run, name=name, uid=f"u{k}", created_at=START + timedelta(seconds=k), attempts=(attempt,))
        seen = {"live": name, "glance": to_text(glance(mine))}
        yield {"pk": f"RUN#{name}", "sk": "RUN", "version": mine.version, "run": plain(mine), **seen}
        account = {"free": Decimal(10), "reserved": attempt.reserved, "settled": Decimal(0)}
        yield {"pk": f"LEDGER#{name}", "sk": "RUN", **account}
        yield {"pk": f"LEDGER#{name}", "sk": "LINE#0001#000001", "entry": "reserved"}

    def _put(self, items: Iterator[dict[str, Any]]) -> None:
        waiting = [{"PutRequest": {"Item": to_item(item)}} for item in items]
        for start in range(0, len(waiting), 25):
            self.c.dynamodb.batch_write_item(RequestItems={SETTINGS.table: waiting[start : start + 25]})

    def _called(self, model: Any, **_: Any) -> None:
        self.calls.append(f"{model.service_model.service_name}.{model.name}")

    def _describe(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        body = params["body"]
        only = {value for key, value in body.items() if key.startswith("Filter.1.Value.")}
        ids = [i for i in self.states if not only or i in only]
        start = int(body.get("NextToken", 0))
        page = ids[start : start + self.page]
        self.calls.append("ec2.DescribeInstances")
        answer: dict[str, Any] = {"Reservations": [{"Instances": [self._described(i) for i in page]}]}
        if start + self.page < len(ids):
            answer["NextToken"] = str(start + self.page)
        return SimpleNamespace(status_code=200), answer

    def _no_volumes(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.calls.append("ec2.DescribeVolumes")
        return SimpleNamespace(status_code=200), {"Volumes": []}

    def _described(self, instance_id: str) -> dict[str, Any]:
        name = self.name(int(instance_id.removeprefix("i-"), 16))
        tags = {"stage": SETTINGS.stage, "run": name, "attempt": "1"}
        return {
            "InstanceId": instance_id,
            "State": {"Name": self.states[instance_id]},
            "LaunchTime": START,
            "InstanceType": "c6i.xlarge",
            "StateReason": {"Code": "Server.SpotInstanceTermination"},
            "Tags": [{"Key": f"spot-relay:{key}", "Value": value} for key, value in tags.items()],
        }


class CountedEc2(FakeEc2):
    """Each attempt's instance has an id of its own, and how often each was asked for is known."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[tuple[str, int]] = []
        self.broken: set[str] = set()  # runs whose launch fails
        self._one_by_one = Lock()

    def launch(self, run: str, attempt: Any) -> ev.Launched | ev.LaunchRefused:
        if run in self.broken:
            raise ConnectionError(run)
        with self._one_by_one:
            if attempt.launch.token not in self.by_token:
                self.launched.append((run, attempt.number))
            return super().launch(run, attempt)

    @staticmethod
    def instance_id(number: int) -> str:
        return f"i-{number + 16**10:017x}"


def trained(now: datetime = START) -> Run:
    """A run whose first attempt trains, with all there is to do done."""
    run = new_run(offered_at=now)
    for event in (ev.Submitted(), ev.Claimed(1, "i-1", False), ev.Claimed(1, "i-1", True)):
        run = decide(run, event, now, POLICY).run
        launch = run.attempts[0].launch
        assert launch
        run = decide(run, ev.Launched(1, launch.token, "i-1", OFFERS[0].pool), now, POLICY).run
    lease = run.attempts[0].lease
    assert lease
    for at in (now, now + POLICY.lands_within):
        run = decide(run, ev.WatchdogSet(1, lease.end + POLICY.grace), at, POLICY).run
    return replace(run, version=1)
