"""I3: Scheduler's entry ends the instance at lease end and grace; set, moved and taken back, however answers are lost."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from chalicelib.store import Store
from chalicelib.watchdog import Watchdog
from tests.core_world import START
from tests.hooks import answers, aws, counted, lose_answer

GROUP, ROLE, ID = "spot-relay-test", "arn:aws:iam::123456789012:role/spot-relay-test-scheduler", "i-00000001"
LATER = START + timedelta(minutes=55)


class Scheduled:
    def __init__(self) -> None:
        self.client = aws("scheduler")
        self.client.create_schedule_group(Name=GROUP)
        self.watchdog = Watchdog(lambda: self.client, GROUP, ROLE)
        self.calls = counted(self.client, ["CreateSchedule", "UpdateSchedule", "DeleteSchedule"])

    @property
    def entries(self) -> dict[str, str]:
        listed = self.client.list_schedules(GroupName=GROUP)["Schedules"]
        return {s["Name"]: self.entry(s["Name"])["ScheduleExpression"] for s in listed}

    def entry(self, name: str) -> dict[str, Any]:
        return dict(self.client.get_schedule(GroupName=GROUP, Name=name))


@pytest.fixture
def scheduled(store: Store) -> Scheduled:
    return Scheduled()


def test_the_entry_ends_this_one_instance_once_at_its_time_and_goes_by_itself(scheduled: Scheduled) -> None:
    scheduled.watchdog.set(ID, LATER, moves=False)
    entry = scheduled.entry(ID)
    assert entry["ScheduleExpression"] == "at(2026-11-20T10:55:00)"
    assert (entry["ScheduleExpressionTimezone"], entry["FlexibleTimeWindow"]) == ("UTC", {"Mode": "OFF"})
    assert entry["ActionAfterCompletion"] == "DELETE"
    target = entry["Target"]
    assert (target["Arn"], target["RoleArn"]) == ("arn:aws:scheduler:::aws-sdk:ec2:terminateInstances", ROLE)
    assert json.loads(target["Input"]) == {"InstanceIds": [ID]}


def test_a_renewal_moves_the_entry(scheduled: Scheduled) -> None:
    scheduled.watchdog.set(ID, START, moves=False)
    scheduled.watchdog.set(ID, LATER, moves=True)
    assert scheduled.entries == {ID: "at(2026-11-20T10:55:00)"}
    assert scheduled.calls == ["CreateSchedule", "UpdateSchedule"]


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_whatever_was_thought_to_be_there_the_entry_is_set(scheduled: Scheduled, there: bool, moves: bool) -> None:
    if there:
        scheduled.watchdog.set(ID, START, moves=False)
    for _ in range(2):
        scheduled.watchdog.set(ID, LATER, moves=moves)
    assert scheduled.entries == {ID: "at(2026-11-20T10:55:00)"}


@pytest.mark.parametrize(("operation", "moves"), [("CreateSchedule", False), ("UpdateSchedule", True)])
def test_an_answer_that_is_lost_is_asked_for_again(scheduled: Scheduled, operation: str, moves: bool) -> None:
    if moves:
        scheduled.watchdog.set(ID, START, moves=False)
    lose_answer(scheduled.client, operation)
    with pytest.raises(ReadTimeoutError):
        scheduled.watchdog.set(ID, LATER, moves=moves)
    scheduled.watchdog.set(ID, LATER, moves=moves)
    assert scheduled.entries == {ID: "at(2026-11-20T10:55:00)"}


def test_an_entry_is_taken_back_once_and_none_there_is_what_was_wanted(scheduled: Scheduled) -> None:
    scheduled.watchdog.set(ID, LATER, moves=False)
    scheduled.watchdog.set("i-00000002", LATER, moves=False)
    for _ in range(2):
        scheduled.watchdog.clear(ID)
    assert list(scheduled.entries) == ["i-00000002"]


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalServerException", "AccessDeniedException"])
def test_what_scheduler_refuses_for_another_reason_rises(scheduled: Scheduled, code: str) -> None:
    operations = ("CreateSchedule", "UpdateSchedule", "DeleteSchedule")
    seen = [answers(scheduled.client, operation, code) for operation in operations]
    with pytest.raises(ClientError, match=code):
        scheduled.watchdog.set(ID, LATER, moves=False)
    with pytest.raises(ClientError, match=code):
        scheduled.watchdog.clear(ID)
    assert [len(calls) for calls in seen] == [1, 0, 1]


def test_a_time_of_another_zone_is_the_same_moment(scheduled: Scheduled) -> None:
    scheduled.watchdog.set(ID, LATER.astimezone(ZoneInfo("America/New_York")), moves=False)
    assert scheduled.entries == {ID: "at(2026-11-20T10:55:00)"}


def test_part_of_a_second_never_ends_an_instance_after_its_time(scheduled: Scheduled) -> None:
    scheduled.watchdog.set(ID, LATER + timedelta(milliseconds=999), moves=False)
    assert scheduled.entries == {ID: "at(2026-11-20T10:55:00)"}
