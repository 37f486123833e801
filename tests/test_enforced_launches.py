"""What the functions' roles may launch, end and read, asked of the emulator, which refuses what AWS would refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib import fleet
from chalicelib.core.model import Launch, Offer
from spotrelay.rehearsal import ministack_launches
from spotrelay.rehearsal.stage import STAGE
from tests.deployed import Deployed

FUNCTIONS = ("api_handler", "on_warning", "on_state_change", "sweep")
TEMPLATE = f"spot-relay-{STAGE}"
OURS = {"Key": "spot-relay:stage", "Value": STAGE}
Change = Callable[[dict[str, Any]], object]


def refused(code: str = "UnauthorizedOperation") -> Any:
    return pytest.raises(ClientError, match=code)


@pytest.fixture(scope="module", autouse=True)
def nothing_to_be_had(deployed: Deployed) -> Iterator[None]:
    """Every pool is empty: what is allowed is answered with `Errors`, and nothing is launched."""
    pools = deployed.stage.pools(["c6i.xlarge", "t3.micro", "c7g.xlarge"])
    for kind, zone in pools:
        deployed.stage.control.pool(kind, zone, capacity=0)
    yield
    for kind, zone in pools:
        deployed.stage.control.pool(kind, zone, reset=True)


@pytest.fixture(scope="module")
def request_of_ours(deployed: Deployed) -> dict[str, Any]:
    """A CreateFleet as the controller sends it."""
    ec2 = deployed.stage.client("ec2")
    subnet = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][0]["SubnetId"]
    settings = fleet.Settings(STAGE, TEMPLATE, "https://api", deployed.bucket, "a" * 64)
    offer = Offer("c6i.xlarge", "us-east-1a", subnet, Decimal(1))
    request = fleet.request("run", 1, Launch("token", (offer,), datetime.now(UTC)), settings)
    del request["ClientToken"]
    return request


def ec2_of(deployed: Deployed, function: str = "on_warning") -> Any:
    return deployed.client(deployed.role(function), "ec2")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_may_launch_what_a_run_asks_for(
    deployed: Deployed, request_of_ours: dict[str, Any], function: str
) -> None:
    answer = ec2_of(deployed, function).create_fleet(**request_of_ours)
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InsufficientInstanceCapacity"]


def override(request: dict[str, Any], **values: Any) -> None:
    request["LaunchTemplateConfigs"][0]["Overrides"][0].update(values)


def retagged(request: dict[str, Any], kind: str, value: str | None) -> None:
    for each in request["TagSpecifications"]:
        if each["ResourceType"] == kind:
            each["Tags"] = [tag for tag in each["Tags"] if tag["Key"] != OURS["Key"]]
            each["Tags"] += [{**OURS, "Value": value}] if value else []


def disk(**ebs: Any) -> list[dict[str, Any]]:
    whole = {"VolumeSize": 50, "VolumeType": "gp3", "Encrypted": True, **ebs}
    return [{"DeviceName": "/dev/sda1", "Ebs": {k: v for k, v in whole.items() if v is not None}}]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("an instance without our tag", lambda r: retagged(r, "instance", None)),
        ("an instance of another stage", lambda r: retagged(r, "instance", "prod")),
        ("a fleet without our tag", lambda r: retagged(r, "fleet", None)),
        ("a burstable type", lambda r: override(r, InstanceType="t3.micro")),
        ("an ARM type", lambda r: override(r, InstanceType="c7g.xlarge")),
        ("another disk's type", lambda r: override(r, BlockDeviceMappings=disk(VolumeType="io2", Iops=1000))),
        ("a disk that is larger than a spec may ask", lambda r: override(r, BlockDeviceMappings=disk(VolumeSize=1001))),
        ("a disk that is smaller", lambda r: override(r, BlockDeviceMappings=disk(VolumeSize=7))),
        ("a disk of unknown size", lambda r: override(r, BlockDeviceMappings=disk(VolumeSize=None))),
        ("a disk that is not encrypted", lambda r: override(r, BlockDeviceMappings=disk(Encrypted=False))),
    ],
)
def test_no_other_launch_is_allowed(
    deployed: Deployed, request_of_ours: dict[str, Any], what: str, change: Change
) -> None:
    request = copy.deepcopy(request_of_ours)
    change(request)
    with refused():
        ec2_of(deployed).create_fleet(**request)


def test_a_disk_within_bounds_is_allowed(deployed: Deployed, request_of_ours: dict[str, Any]) -> None:
    request = copy.deepcopy(request_of_ours)
    override(request, BlockDeviceMappings=disk(VolumeSize=1000))
    assert ec2_of(deployed).create_fleet(**request)["Errors"]


def test_another_template_launches_nothing(deployed: Deployed, request_of_ours: dict[str, Any]) -> None:
    admin = deployed.stage.client("ec2")
    ours = admin.describe_launch_template_versions(LaunchTemplateName=TEMPLATE, Versions=["$Latest"])
    data = ours["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    admin.create_launch_template(LaunchTemplateName="theirs", LaunchTemplateData=data)
    request = copy.deepcopy(request_of_ours)
    request["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"]["LaunchTemplateName"] = "theirs"
    with refused():
        ec2_of(deployed).create_fleet(**request)


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("without IMDSv2", {"MetadataOptions": {"HttpTokens": "optional"}}),
        ("without a template", {"LaunchTemplate": None}),
        ("another role handed over", {"IamInstanceProfile": {"Name": "theirs"}}),
        ("behind another security group", {"SecurityGroupIds": ["sg-12345678"]}),
    ],
)
def test_run_instances_is_no_way_around(
    deployed: Deployed, request_of_ours: dict[str, Any], what: str, changed: dict[str, Any]
) -> None:
    iam = deployed.stage.client("iam")
    if not any(p["InstanceProfileName"] == "theirs" for p in iam.list_instance_profiles()["InstanceProfiles"]):
        iam.create_instance_profile(InstanceProfileName="theirs")
        iam.add_role_to_instance_profile(InstanceProfileName="theirs", RoleName=f"spot-relay-{STAGE}-api_handler")
    request = {
        "LaunchTemplate": {"LaunchTemplateName": TEMPLATE, "Version": "$Latest"},
        "InstanceType": "c6i.xlarge",
        "MinCount": 1,
        "MaxCount": 1,
        "TagSpecifications": [
            each for each in request_of_ours["TagSpecifications"] if each["ResourceType"] == "instance"
        ],
        **changed,
    }
    with refused():
        ec2_of(deployed).run_instances(**{k: v for k, v in request.items() if v is not None})


def test_a_tag_can_not_be_added_later(deployed: Deployed) -> None:
    instance = stranger(deployed, {})
    with refused():
        ec2_of(deployed).create_tags(Resources=[instance], Tags=[OURS])


@pytest.mark.parametrize("tags", [{}, {"spot-relay:stage": "prod"}, {"spot-relay:run": "a"}])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_only_instances_of_the_stage_are_ended(deployed: Deployed, function: str, tags: dict[str, str]) -> None:
    with refused():
        ec2_of(deployed, function).terminate_instances(InstanceIds=[stranger(deployed, tags)])


def test_only_volumes_of_the_stage_are_deleted_and_only_by_the_sweep(deployed: Deployed) -> None:
    theirs, ours = volume(deployed, []), volume(deployed, [OURS])
    with refused():
        ec2_of(deployed, "sweep").delete_volume(VolumeId=theirs)
    with refused():
        ec2_of(deployed, "api_handler").delete_volume(VolumeId=ours)
    ec2_of(deployed, "sweep").delete_volume(VolumeId=ours)
    deployed.stage.client("ec2").delete_volume(VolumeId=theirs)


@pytest.mark.parametrize("function", ["on_warning", "on_state_change", "sweep"])
def test_only_the_api_lends_the_role_of_runs(deployed: Deployed, function: str) -> None:
    role = deployed.stage.deployment.resources.RunRoleArn
    deployed.client(deployed.role("api_handler"), "sts").assume_role(RoleArn=role, RoleSessionName="run-1")
    with refused("AccessDenied"):
        deployed.client(deployed.role(function), "sts").assume_role(RoleArn=role, RoleSessionName="run-1")


@pytest.mark.parametrize("function", ["on_warning", "on_state_change"])
def test_a_function_of_events_reads_neither_bucket_nor_lists(deployed: Deployed, function: str) -> None:
    session = deployed.role(function)
    with refused("AccessDenied"):
        deployed.client(session, "s3").list_objects_v2(Bucket=deployed.bucket)
    with refused("AccessDenied"):
        deployed.client(session, "dynamodb").scan(TableName=TEMPLATE, IndexName="live")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_reads_a_secret(deployed: Deployed, function: str) -> None:
    name = f"/spot-relay/{STAGE}/secrets/token"
    deployed.stage.client("ssm").put_parameter(Name=name, Value="canary", Type="SecureString", Overwrite=True)
    ssm = deployed.client(deployed.role(function), "ssm")
    for ask in (lambda: ssm.get_parameter(Name=name), lambda: ssm.get_parameters(Names=[name])):
        with refused("AccessDenied"):
            ask()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_watchdog_is_set_in_our_group_and_with_its_own_role_only(deployed: Deployed, function: str) -> None:
    scheduler = deployed.client(deployed.role(function), "scheduler")
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances", "Input": '{"InstanceIds": ["i-0"]}'}
    request = {
        "Name": f"i-{function}",
        "GroupName": TEMPLATE,
        "ScheduleExpression": "at(2099-01-01T00:00:00)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
    }
    role = f"arn:aws:iam::{deployed.stage.emulator.account_id}:role/{TEMPLATE}"
    with refused("AccessDenied"):
        scheduler.create_schedule(
            **{**request, "GroupName": "default"}, Target={**target, "RoleArn": f"{role}-scheduler"}
        )
    with refused("AccessDenied"):
        scheduler.create_schedule(**request, Target={**target, "RoleArn": f"{role}-api_handler"})


def test_a_request_is_taken_apart_as_ec2_does() -> None:
    parameters = {"A.2.B": ["y"], "A.1.B": ["x"], "C": "z"}
    tree = ministack_launches.nested(parameters)
    assert [each["B"] for each in ministack_launches.listed(tree["A"])] == ["x", "y"]
    assert tree["C"] == "z"


def stranger(deployed: Deployed, tags: dict[str, str]) -> str:
    """An instance that an administrator launched; one for each set of tags."""
    ec2 = deployed.stage.client("ec2")
    wanted = [{"Key": k, "Value": v} for k, v in {"stranger": repr(tags), **tags}.items()]
    found = ec2.describe_instances(Filters=[{"Name": "tag:stranger", "Values": [repr(tags)]}])["Reservations"]
    if not found:
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        specified = [{"ResourceType": "instance", "Tags": wanted}]
        made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specified)
        return str(made["Instances"][0]["InstanceId"])
    return str(found[0]["Instances"][0]["InstanceId"])


def volume(deployed: Deployed, tags: list[dict[str, str]]) -> str:
    specified = {"TagSpecifications": [{"ResourceType": "volume", "Tags": tags}]} if tags else {}
    ec2 = deployed.stage.client("ec2")
    return str(ec2.create_volume(AvailabilityZone="us-east-1a", Size=8, **specified)["VolumeId"])
