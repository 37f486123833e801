"""The rehearsal's EventBridge Scheduler: schedules that end instances on time, as their role, made by those who may."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spotrelay.rehearsal.emulator import Emulator
from tests.test_emulator import arn, assume, create_role, policy, refused
from tests.test_emulator_money import IF_MINE, MINE, described, ec2, emulator, ended, ended_at, host, run, wait_for

__all__ = ["ec2", "emulator", "host"]  # the fixtures

END_INSTANCES = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
SCHEDULER = {"Service": "scheduler.amazonaws.com"}
GROUP = {"GroupName": "leases"}


@pytest.fixture(scope="module")
def ender(emulator: Emulator) -> str:
    """The role that schedules act as: it may end instances of this stage."""
    emulator.client("scheduler").create_schedule_group(Name="leases")
    allowed = {"Action": "ec2:TerminateInstances", "Resource": arn("ec2", "instance/*"), "Condition": IF_MINE}
    return create_role(emulator, "ender", SCHEDULER, policy(allowed))


def at(seconds: float) -> str:
    """An expression for so many seconds from now, and for the next whole one."""
    return f"at({datetime.now(UTC) + timedelta(seconds=seconds + 1):%Y-%m-%dT%H:%M:%S})"


def ending(role: str, instance: str, expression: str, **changes: Any) -> dict[str, Any]:
    target = {"Arn": END_INSTANCES, "RoleArn": role, "Input": json.dumps({"InstanceIds": [instance]})}
    schedule = {"Name": instance, **GROUP, "ScheduleExpression": expression, "ActionAfterCompletion": "DELETE"}
    return {**schedule, "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": target, **changes}


def named(scheduler: Any) -> set[str]:
    pages = scheduler.get_paginator("list_schedules").paginate(GroupName="leases")
    return {one["Name"] for page in pages for one in page["Schedules"]}


def test_a_schedule_ends_its_instance_at_its_time_and_is_gone(emulator: Emulator, ec2: Any, ender: str) -> None:
    scheduler, instance = emulator.client("scheduler"), run(ec2, MINE)
    expression = at(2)
    scheduler.create_schedule(**ending(ender, instance, expression))
    assert scheduler.get_schedule(Name=instance, **GROUP)["ScheduleExpression"] == expression
    wait_for(lambda: ended(ec2, instance))
    due = datetime.fromisoformat(expression[3:-1] + "+00:00")
    assert timedelta(0) <= ended_at(described(ec2, instance)) - due <= timedelta(seconds=5)
    wait_for(lambda: instance not in named(scheduler))


def test_a_time_in_the_past_fires_at_once(emulator: Emulator, ec2: Any, ender: str) -> None:
    instance = run(ec2, MINE)
    emulator.client("scheduler").create_schedule(**ending(ender, instance, at(-60)))
    wait_for(lambda: ended(ec2, instance))


def test_an_update_moves_the_time_and_a_kept_schedule_can_fire_again(emulator: Emulator, ec2: Any, ender: str) -> None:
    scheduler, first, second = emulator.client("scheduler"), run(ec2, MINE), run(ec2, MINE)
    schedule = ending(ender, first, at(3600), Name="moved", ActionAfterCompletion="NONE")
    scheduler.create_schedule(**schedule)
    assert not ended(ec2, first)
    scheduler.update_schedule(**{**schedule, "ScheduleExpression": at(-1)})
    wait_for(lambda: ended(ec2, first))
    again = ending(ender, second, at(-1), Name="moved", ActionAfterCompletion="NONE")
    scheduler.update_schedule(**again)
    wait_for(lambda: ended(ec2, second))
    scheduler.delete_schedule(Name="moved", **GROUP)
    assert "moved" not in named(scheduler)


def test_a_schedule_does_only_what_its_role_may(emulator: Emulator, ec2: Any, ender: str) -> None:
    scheduler, other = emulator.client("scheduler"), run(ec2, {**MINE, "Value": "other"})
    scheduler.create_schedule(**ending(ender, other, at(-1)))
    wait_for(lambda: other not in named(scheduler))
    logged = rf"schedule/leases/{other}: ec2:terminateInstances as {ender} failed: .*UnauthorizedOperation"
    wait_for(lambda: re.search(logged, emulator.log_file.read_text()))
    assert described(ec2, other)["State"]["Name"] in ("pending", "running")


def test_a_role_that_trusts_no_scheduler_ends_nothing(emulator: Emulator, ec2: Any, ender: str) -> None:
    scheduler, iam, instance = emulator.client("scheduler"), emulator.client("iam"), run(ec2, MINE)
    allowed = policy({"Action": "ec2:TerminateInstances", "Resource": "*"})
    foreign = create_role(emulator, "foreign", {"Service": "lambda.amazonaws.com"}, allowed)
    with refused("ValidationException.*assume the role"):
        scheduler.create_schedule(**ending(foreign, instance, at(3600)))
    guarded = create_role(emulator, "guarded", SCHEDULER, allowed)
    trust = {"Principal": SCHEDULER, "Action": "sts:AssumeRole"}
    group = {"StringEquals": {"aws:SourceArn": arn("scheduler", "schedule-group/leases")}}
    iam.update_assume_role_policy(RoleName="guarded", PolicyDocument=policy({**trust, "Condition": group}))
    scheduler.create_schedule(**ending(guarded, instance, at(2)))
    elsewhere = {"StringEquals": {"aws:SourceArn": arn("scheduler", "schedule-group/other")}}
    iam.update_assume_role_policy(RoleName="guarded", PolicyDocument=policy({**trust, "Condition": elsewhere}))
    wait_for(lambda: instance not in named(scheduler))
    wait_for(lambda: "role/guarded does not let" in emulator.log_file.read_text())
    assert described(ec2, instance)["State"]["Name"] == "running"


def test_schedules_that_are_not_there_there_already_or_unreadable_are_refused(emulator: Emulator, ender: str) -> None:
    scheduler = emulator.client("scheduler")
    schedule = ending(ender, "i-1", at(3600), Name="twice")
    scheduler.create_schedule(**schedule)
    with pytest.raises(scheduler.exceptions.ConflictException):
        scheduler.create_schedule(**schedule)
    scheduler.delete_schedule(Name="twice", **GROUP)
    for attempt in (scheduler.delete_schedule, scheduler.get_schedule):
        with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
            attempt(Name="twice", **GROUP)
    with pytest.raises(scheduler.exceptions.ResourceNotFoundException):
        scheduler.update_schedule(**schedule)
    for expression in ("at(2026-11-25T10:00:00Z)", "at(2026-11-25T10:00:00.5)", "at(tomorrow)"):
        with refused("ValidationException.*Invalid Schedule Expression"):
            scheduler.create_schedule(**{**schedule, "ScheduleExpression": expression})


def test_a_list_of_schedules_has_pages(emulator: Emulator, ender: str) -> None:
    scheduler = emulator.client("scheduler")
    names = {f"page-{n:03}" for n in range(103)}
    for name in names:
        scheduler.create_schedule(**ending(ender, "i-1", at(3600), Name=name))
    assert len(scheduler.list_schedules(GroupName="leases")["Schedules"]) == 100
    assert names <= named(scheduler)
    for name in names:
        scheduler.delete_schedule(Name=name, **GROUP)


def test_a_caller_needs_the_schedule_and_the_role_it_passes(emulator: Emulator, ec2: Any, ender: str) -> None:
    own = {"Action": "scheduler:*", "Resource": arn("scheduler", "schedule/leases/own-*")}
    passing = {"Action": "iam:PassRole", "Resource": ender}
    passed = {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}

    def client(name: str, *statements: dict[str, Any]) -> Any:
        return assume(emulator, name, policy(*statements)).client("scheduler", endpoint_url=emulator.endpoint)

    may, may_not = client("may", own, {**passing, "Condition": passed}), client("may-not", own)
    own_one = ending(ender, "i-1", at(3600), Name="own-1")
    may.create_schedule(**own_one)
    may.update_schedule(**own_one)
    assert may.get_schedule(Name="own-1", **GROUP)["Name"] == "own-1"
    may.delete_schedule(Name="own-1", **GROUP)
    for caller, schedule in (
        (may_not, own_one),
        (may, {**own_one, "Name": "foreign-1"}),
        (may, {**own_one, "GroupName": "default"}),
    ):
        with refused("AccessDenied"):
            caller.create_schedule(**schedule)
    with refused("AccessDenied"):
        may.delete_schedule(Name="foreign-1", **GROUP)
    with refused("AccessDenied"):
        may.list_schedules(GroupName="leases")


def test_a_stack_makes_and_removes_a_group_of_schedules(emulator: Emulator) -> None:
    stacks, scheduler = emulator.client("cloudformation"), emulator.client("scheduler")
    resource = {"Type": "AWS::Scheduler::ScheduleGroup", "Properties": {"Name": "from-stack"}}
    output = {"Arn": {"Value": {"Fn::GetAtt": ["Group", "Arn"]}}}
    stacks.create_stack(
        StackName="group", TemplateBody=json.dumps({"Resources": {"Group": resource}, "Outputs": output})
    )
    wait_for(lambda: stacks.describe_stacks(StackName="group")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE")
    group = scheduler.get_schedule_group(Name="from-stack")
    assert stacks.describe_stacks(StackName="group")["Stacks"][0]["Outputs"][0]["OutputValue"] == group["Arn"]
    stacks.delete_stack(StackName="group")

    def gone() -> bool:
        return "from-stack" not in {one["Name"] for one in scheduler.list_schedule_groups()["ScheduleGroups"]}

    wait_for(gone)
