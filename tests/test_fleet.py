"""What CreateFleet is asked, and what its answers mean."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from chalicelib.core import events as ev
from chalicelib.core.model import Attempt
from chalicelib.fleet import Fleet, Settings, Unanswered, answer_of, request
from tests.core_world import World

SETTINGS = Settings("test", "spot-relay-test", "https://api.example/api", "bucket", "ab" * 32)


def attempt() -> Attempt:
    world = World()
    world.answer_launches = False
    world.tell(ev.Submitted())
    return world.run.attempts[0]


def error(code: str, message: str = "No.") -> dict[str, str]:
    return {"ErrorCode": code, "ErrorMessage": message}


def answer(*codes: str) -> ev.Launched | ev.LaunchRefused:
    launch = attempt().launch
    assert launch
    return answer_of(1, launch, {"Instances": [], "Errors": [error(c) for c in codes]})


def test_the_request_names_every_pool_with_its_price_cap_and_tags_the_instance() -> None:
    launch = attempt().launch
    assert launch
    asked = request("run1", 1, launch, SETTINGS)
    overrides = asked["LaunchTemplateConfigs"][0]["Overrides"]
    assert {(o["InstanceType"], o["SubnetId"], o["MaxPrice"]) for o in overrides} == {
        (t, s, "0.17") for t in ("c6i.xlarge", "c5.xlarge") for s in ("subnet-a", "subnet-b")
    }
    assert asked["ClientToken"] == launch.token
    assert len(launch.token) <= 64
    assert {t["ResourceType"] for t in asked["TagSpecifications"]} == {"fleet", "instance"}
    assert asked == request("run1", 1, launch, SETTINGS)


def test_an_instance_beats_the_errors_beside_it() -> None:
    launch = attempt().launch
    assert launch
    overrides = {"InstanceType": "c5.xlarge", "SubnetId": "subnet-b"}
    found = answer_of(
        1,
        launch,
        {
            "Errors": [error("UnauthorizedOperation")],
            "Instances": [{"InstanceIds": ["i-1"], "LaunchTemplateAndOverrides": {"Overrides": overrides}}],
        },
    )
    assert found == ev.Launched(1, launch.token, "i-1", "c5.xlarge/us-east-1b/spot")


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (["InsufficientInstanceCapacity", "UnauthorizedOperation"], ev.Refusal.CAPACITY),
        (["InvalidFleetConfiguration", "SpotMaxPriceTooLow"], ev.Refusal.CAPACITY),
        (["MaxSpotInstanceCountExceeded"], ev.Refusal.QUOTA),
        (["MaxSpotInstanceCountExceeded", "InsufficientInstanceCapacity"], ev.Refusal.CAPACITY),
        (["UnauthorizedOperation"], ev.Refusal.FATAL),
        (["InvalidParameterValue", "Blocked"], ev.Refusal.FATAL),
        ([], ev.Refusal.CAPACITY),
    ],
)
def test_a_refusal_is_as_hopeful_as_its_most_hopeful_pool(codes: list[str], kind: ev.Refusal) -> None:
    found = answer(*codes)
    assert isinstance(found, ev.LaunchRefused)
    assert found.kind is kind


class Ec2:
    """An EC2 client whose create_fleet raises one error."""

    def __init__(self, code: str, status: int) -> None:
        self.error = ClientError(
            {"Error": {"Code": code, "Message": "No."}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
            "CreateFleet",
        )

    def create_fleet(self, **_: Any) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize(("code", "status"), [("InternalError", 500), ("RequestLimitExceeded", 503), ("Odd", 502)])
def test_an_error_that_proves_nothing_is_no_answer(code: str, status: int) -> None:
    with pytest.raises(Unanswered):
        Fleet(Ec2(code, status), SETTINGS).launch("run1", attempt())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UnauthorizedOperation", ev.Refusal.FATAL),
        ("InvalidFleetConfiguration", ev.Refusal.FATAL),
        ("MaxSpotInstanceCountExceeded", ev.Refusal.QUOTA),
    ],
)
def test_an_error_that_answers_is_a_refusal(code: str, kind: ev.Refusal) -> None:
    found = Fleet(Ec2(code, 400), SETTINGS).launch("run1", attempt())
    assert isinstance(found, ev.LaunchRefused)
    assert found.kind is kind


def test_a_launch_that_succeeded_unseen_is_found_by_its_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-east-1")
        fleet = Fleet(ec2, SETTINGS)
        assert fleet.find("run1", attempt()) is None
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        tags = [
            {"Key": f"spot-relay:{k}", "Value": v} for k, v in (("stage", "test"), ("run", "run1"), ("attempt", "1"))
        ]
        made = ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            InstanceType="c5.xlarge",
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )["Instances"][0]["InstanceId"]
        found = fleet.find("run1", attempt())
        assert found
        assert found.instance_id == made
        fleet.end(made)
        gone = fleet.find("run1", attempt())
        assert gone, "one that has ended unseen is to be paid all the same"
        assert gone.instance_id == made
        fleet.end("i-0123456789abcdef0")
