"""Whole passes of the sweep on moto's EC2 (I2, I3): what is left behind goes, and no part that fails stops the pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib import housekeeping
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Status
from chalicelib.settings import Settings
from chalicelib.store import Store
from chalicelib.sweep import Report, SweepFailed
from chalicelib.upkeep import whole_pass
from tests.controlled import SETTINGS
from tests.core_world import OFFERS, START, new_run
from tests.fakes import Clock, FakeWatchdog
from tests.hooks import SESSION, answers, aws

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MONTH = "2026-11"
IMAGE = "ami-12c6146b"  # one that moto knows


class House:
    """A controller on moto, EC2 included; what EC2 made says that it was made at START."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.clock, self.session = Clock(), SESSION
        self.c = self.process(settings)
        self.c.s3.create_bucket(Bucket=settings.bucket)

    def process(self, settings: Settings = SETTINGS) -> Controller:
        """Another Lambda environment on the same account."""
        c = Controller(settings, self.session, self.clock)
        c.__dict__["watchdog"] = FakeWatchdog()
        c.ec2.meta.events.register("after-call.ec2.DescribeVolumes", _made_at_start)
        c.ec2.meta.events.register("after-call.ec2.DescribeInstances", _made_at_start)
        return c

    def volume(self, stage: str | None = "test", *more: str) -> str:
        tags = [{"Key": key, "Value": ""} for key in more]
        tags += [{"Key": "spot-relay:stage", "Value": stage}] if stage else []
        wanted = [{"ResourceType": "volume", "Tags": tags}] if tags else []
        made = self.c.ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, TagSpecifications=wanted)
        return str(made["VolumeId"])

    def instance(self, **tags: str) -> str:
        wanted = [{"Key": f"spot-relay:{key}", "Value": value} for key, value in tags.items()]
        specs = [{"ResourceType": "instance", "Tags": wanted}] if wanted else []
        made = self.c.ec2.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, InstanceType="c6i.xlarge", TagSpecifications=specs
        )
        return str(made["Instances"][0]["InstanceId"])

    def states(self) -> dict[str, str]:
        found = self.c.ec2.describe_instances()["Reservations"]
        return {i["InstanceId"]: i["State"]["Name"] for r in found for i in r["Instances"]}

    def volumes(self) -> set[str]:
        return {v["VolumeId"] for v in aws("ec2").describe_volumes()["Volumes"] if not v["Attachments"]}

    def sweep(self, after: timedelta = MINUTE, c: Controller | None = None) -> Report:
        self.clock.now += after
        return whole_pass(c or self.c)

    def told(self) -> list[str]:
        """The acts, oldest first."""
        return [str(act["message"]) for act in reversed(self.c.acts.recent(100))]

    def spend(self, usd: str) -> None:
        self.c.store.ledger.open([MONTH])
        moved = self.c.store.ledger.moved(MONTH, Decimal(0), Decimal(usd))
        self.c.dynamodb.transact_write_items(TransactItems=[moved])


def _made_at_start(parsed: dict[str, Any], **_: Any) -> None:
    for volume in parsed.get("Volumes", []):
        volume["CreateTime"] = START
    for reservation in parsed.get("Reservations", []):
        for instance in reservation["Instances"]:
            instance["LaunchTime"] = START


@pytest.fixture
def house(store: Store) -> House:
    return House()


# -- thresholds ------------------------------------------------------------------------------------------------------


def thresholds(house: House) -> list[str]:
    return [message.split(" USD")[0] for message in house.told()]


def test_each_threshold_is_told_once_and_by_a_fresh_process_not_again(house: House) -> None:
    steps = [("9.99", 0), ("0.01", 1), ("0", 1), ("6", 2), ("0", 2), ("4", 3), ("0", 3)]
    for n, (usd, told) in enumerate(steps):
        house.spend(usd)
        house.sweep(HOUR, house.process() if n % 2 else None).check()
        assert len(house.told()) == told
    assert thresholds(house) == ["10.00", "16.00", "20.00"]
    assert "nothing is lost" in house.told()[-1]


def test_the_next_month_has_thresholds_of_its_own(house: House) -> None:
    house.spend("12")
    house.sweep()
    house.sweep(timedelta(days=11))
    assert len(house.told()) == 1


def test_the_month_is_at_its_end_when_a_run_waits_for_money(house: House) -> None:
    housekeeping._thresholds(house.c, True, START)
    assert [item["sk"] for item in house.c.store.ledger.query("ACTS")] == ["2026-11#100"]


# -- volumes ---------------------------------------------------------------------------------------------------------


def test_only_volumes_of_ours_that_hang_on_nothing_are_deleted_and_only_after_a_minute(house: House) -> None:
    ours = house.volume()
    others = {house.volume(None), house.volume("prod"), house.volume("test", "spot-relay:protect")}
    house.sweep(MINUTE - timedelta(seconds=1)).check()
    assert ours in house.volumes()
    assert house.sweep(timedelta(seconds=1)).strays == [ours]
    assert house.volumes() == others
    assert house.told() == [f"The volume {ours} is deleted: no instance has it any more."]


def test_a_volume_that_cannot_be_deleted_keeps_no_other_and_is_told_once(house: House) -> None:
    ours = {house.volume() for _ in range(3)}
    answers(house.c.ec2, "DeleteVolume", "VolumeInUse", "InvalidVolume.NotFound")
    report = house.sweep(2 * MINUTE)
    with pytest.raises(SweepFailed, match="VolumeInUse"):
        report.check()
    assert len(house.volumes() & ours) == 2
    house.sweep().check()
    assert house.volumes() & ours == set()
    assert len(house.told()) == 3


# -- instances of others ---------------------------------------------------------------------------------------------


def guarded(guard: str) -> House:
    return House(replace(SETTINGS, guard=guard))


@pytest.mark.parametrize(
    ("guard", "age", "ended"), [("own", HOUR, False), ("account", HOUR, True), ("account", 9 * MINUTE, False)]
)
def test_instances_of_others_are_ended_only_under_guard_and_not_young(
    store: Store, guard: str, age: timedelta, ended: bool
) -> None:
    house = guarded(guard)
    theirs, kept, prod = (
        house.instance(),
        house.instance(protect=""),
        house.instance(stage="prod", run="r", attempt="1"),
    )
    house.sweep(age).check()
    states = house.states()
    assert (states[theirs] == "running") is not ended
    assert (states[kept], states[prod]) == ("running", "running")
    report = house.c.unmanaged.report()
    assert report
    assert {i.instance_id for i in report.instances} == {theirs, kept}


def test_one_that_cannot_be_ended_keeps_no_other(store: Store) -> None:
    house = guarded("account")
    theirs = [house.instance() for _ in range(2)]
    answers(house.c.ec2, "TerminateInstances", "OperationNotPermitted")
    with pytest.raises(SweepFailed, match="OperationNotPermitted"):
        house.sweep(HOUR).check()
    assert sorted(house.states()[i] for i in theirs) == ["running", "terminated"]


# -- strays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stray_is_ended_running_or_stopped(house: House, stopped: bool) -> None:
    """A stopped instance keeps its volume, which is charged."""
    stray = house.instance(stage="test", run="nobody", attempt="1")
    if stopped:
        house.c.ec2.stop_instances(InstanceIds=[stray])
    assert house.sweep(2 * MINUTE).strays == [stray]
    assert house.states()[stray] == "terminated"
    assert house.sweep().strays == []


# -- the whole pass --------------------------------------------------------------------------------------------------


def test_an_idle_minute_costs_three_calls(house: House) -> None:
    house.sweep().check()
    for _ in range(8):
        before = len(house.c.counter.calls)
        house.sweep().check()
        assert house.c.counter.calls[before:] == ["ec2.DescribeInstances", "dynamodb.Scan", "ec2.DescribeVolumes"]
    before = len(house.c.counter.calls)
    house.sweep(10 * MINUTE).check()
    assert len(house.c.counter.calls) - before > 3


def test_a_pass_that_failed_is_not_idle(house: House) -> None:
    answers(house.c.s3, "ListObjectVersions", "InternalError")
    assert set(house.sweep().failed) == {"storage"}
    house.sweep().check()
    assert house.c.storage.stored()


PARTS: list[tuple[str, Callable[[Controller], None]]] = [
    ("storage", lambda c: _fail(c.storage, "keep")),
    ("volumes", lambda c: answers(c.ec2, "DescribeVolumes", "InternalError", always=True) and None),
    ("other instances", lambda c: _fail(c.unmanaged, "keep")),
    ("mail", lambda c: _fail(c.outbox, "deliver")),
]


def _fail(part: Any, method: str) -> None:
    def failing(*_: Any) -> None:
        raise ConnectionError("no answer")

    setattr(part, method, failing)


@pytest.mark.parametrize(("part", "broken"), PARTS, ids=[name for name, _ in PARTS])
def test_one_part_that_fails_keeps_no_other_from_being_done(
    house: House, part: str, broken: Callable[[Controller], None]
) -> None:
    house.spend("11")
    house.instance()
    volume = house.volume()
    broken(house.c)
    report = house.sweep(2 * MINUTE)
    assert set(report.failed) == {part}
    assert any(message.startswith("11.") for message in house.told())
    assert (volume in house.volumes()) is (part == "volumes")
    assert (house.c.storage.stored() is None) is (part == "storage")
    assert (house.c.unmanaged.report() is None) is (part == "other instances")
    assert bool(list(house.c.outbox._waiting())) is (part == "mail")


def test_a_whole_pass_carries_a_run_from_its_launch_over_a_loss_to_the_next(house: House) -> None:
    c = house.c
    subnets = {s["AvailabilityZone"]: s["SubnetId"] for s in c.ec2.describe_subnets()["Subnets"]}
    c.ec2.create_launch_template(LaunchTemplateName=SETTINGS.launch_template, LaunchTemplateData={"ImageId": IMAGE})
    run = c.store.create(new_run(offers=tuple(replace(o, subnet=subnets[o.zone]) for o in OFFERS)), {}, "hash")
    house.sweep().check()
    first = c.store.load(run.name)
    assert first
    instance = first.attempts[0].instance_id
    assert instance
    assert house.states() == {instance: "running"}
    assert c.store.ledger.month(MONTH)["reserved"] >= first.attempts[0].reserved > 0
    c.ec2.terminate_instances(InstanceIds=[instance])
    house.sweep().check()
    second = c.store.load(run.name)
    assert second
    assert second.attempts[0].lease
    assert second.attempts[0].lease.settled
    assert second.attempts[1].instance_id in house.states()
    c.shell.tell(run.name, ev.CancelAsked("me"))
    for _ in range(2):
        house.sweep().check()
    gone = c.store.load(run.name)
    assert gone
    assert (gone.status, set(house.states().values())) == (Status.CANCELLED, {"terminated"})
    account = c.store.ledger.month(MONTH)
    assert account["settled"] >= sum(a.cost for a in gone.attempts) > 0
    assert account["free"] == account["limit"] - account["reserved"] - account["settled"]
