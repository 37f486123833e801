"""What the rehearsal's AWS knows of money: prices, quotas, ends and volumes that cost, notifications."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from spotrelay.rehearsal.ec2_control import Ec2Host, HostError
from spotrelay.rehearsal.emulator import Emulator
from tests.test_emulator import REGION, arn, assume, policy, refused

MINE = {"Key": "spot-relay:stage", "Value": "mine"}
IF_MINE = {"StringEquals": {"aws:ResourceTag/spot-relay:stage": "mine"}}
C6I = {
    "instanceType": "c6i.xlarge",
    "regionCode": "us-east-1",
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "licenseModel": "No License required",
}


def wait_for(what: Callable[[], Any], timeout_s: float = 15) -> Any:
    """The first true answer of `what`."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2Host]:
    with Ec2Host(tmp_path_factory.mktemp("ec2"), time_scale=1 / 60) as running:
        running.control.boot(delay_s=0.05, end_delay_s=0.05)
        yield running


@pytest.fixture(scope="module")
def emulator(host: Ec2Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    folder = tmp_path_factory.mktemp("emulator")
    with Emulator(region=REGION).start(folder, host.endpoint, control=host.control.address) as aws:
        host.control.emulator(aws.endpoint, aws.host_key, aws.access_key_id, aws.secret_access_key)
        yield aws


@pytest.fixture(scope="module")
def ec2(emulator: Emulator) -> Any:
    return emulator.client("ec2")


def run(ec2: Any, *tags: dict[str, str]) -> str:
    tagged = {"TagSpecifications": [{"ResourceType": "instance", "Tags": list(tags)}]} if tags else {}
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, InstanceType="c6i.xlarge", MinCount=1, MaxCount=1, **tagged)
    return str(made["Instances"][0]["InstanceId"])


def described(ec2: Any, instance: str) -> Any:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def ended(ec2: Any, instance: str) -> bool:
    return bool(described(ec2, instance)["State"]["Name"] == "terminated")


def ended_at(instance: Any) -> datetime:
    """When an instance that a user ended was told to."""
    return datetime.strptime(instance["StateTransitionReason"], "User initiated (%Y-%m-%d %H:%M:%S GMT)").replace(
        tzinfo=UTC
    )


def products(client: Any, **changes: str) -> list[str]:
    filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in {**C6I, **changes}.items()]
    return list(client.get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"])


def test_the_pricing_api_names_the_markets_on_demand_prices(emulator: Emulator) -> None:
    pricing = emulator.client("pricing")
    for instance_type, usd in (("c6i.xlarge", 0.17), ("c5.xlarge", 0.17), ("c5a.xlarge", 0.154), ("m6i.xlarge", 0.192)):
        (product,) = products(pricing, instanceType=instance_type)
        (term,) = json.loads(product)["terms"]["OnDemand"].values()
        (dimension,) = term["priceDimensions"].values()
        assert float(dimension["pricePerUnit"]["USD"]) == usd
    for other in ({"instanceType": "x9.large"}, {"operatingSystem": "Windows"}, {"regionCode": "eu-west-1"}):
        assert products(pricing, **other) == []


def test_the_spot_quota_is_the_markets(emulator: Emulator, host: Ec2Host) -> None:
    quotas = emulator.client("service-quotas")

    def value(code: str) -> float:
        return float(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])

    assert value("L-34B43A08") == 256
    host.control.quota(5)
    assert (value("L-34B43A08"), value("L-1216C47A")) == (5, 256)
    host.control.quota(None)
    with pytest.raises(quotas.exceptions.NoSuchResourceException):
        value("L-00000000")


def test_prices_and_quotas_can_fail(emulator: Emulator, host: Ec2Host) -> None:
    once = Config(retries={"total_max_attempts": 1})
    session: Any = emulator.session()
    pricing, quotas = (
        session.client(name, endpoint_url=emulator.endpoint, config=once) for name in ("pricing", "service-quotas")
    )
    quota = {"ServiceCode": "ec2", "QuotaCode": "L-34B43A08"}
    host.control.failing("pricing")
    with pytest.raises(ClientError) as failure:
        products(pricing)
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert quotas.get_service_quota(**quota)
    host.control.failing("servicequotas")
    assert products(pricing)
    with refused("InternalErrorException"):
        quotas.get_service_quota(**quota)
    host.control.failing()
    assert quotas.get_service_quota(**quota)
    with pytest.raises(HostError, match="pricing and servicequotas, not s3"):
        host.control.failing("s3")  # type: ignore[arg-type]


def test_prices_and_quotas_are_for_those_who_may(emulator: Emulator) -> None:
    def clients(session: boto3.Session) -> tuple[Any, Any]:
        make: Any = session.client
        return tuple(make(name, endpoint_url=emulator.endpoint) for name in ("pricing", "service-quotas"))  # type: ignore[return-value]

    document = policy({"Action": ["pricing:GetProducts", "servicequotas:GetServiceQuota"], "Resource": "*"})
    pricing, quotas = clients(assume(emulator, "reader", document))
    assert products(pricing)
    assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-34B43A08")
    nobody = boto3.Session("AKIANOBODY0000000000", "wrong", region_name=REGION)
    stranger = assume(emulator, "price-stranger", policy({"Action": "s3:*", "Resource": "*"}))
    for session, code in ((stranger, "AccessDenied"), (nobody, "UnrecognizedClient|InvalidClientTokenId")):
        pricing, quotas = clients(session)
        with refused(code):
            products(pricing)
        with refused(code):
            quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-34B43A08")


def test_an_ended_instance_says_when_and_by_whom(ec2: Any) -> None:
    instance = run(ec2)  # of the account, and not ours
    wait_for(lambda: described(ec2, instance)["State"]["Name"] == "running")
    before = datetime.now(UTC).replace(microsecond=0)
    ec2.terminate_instances(InstanceIds=[instance])
    wait_for(lambda: ended(ec2, instance))
    gone = described(ec2, instance)
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert gone["LaunchTime"] <= before <= ended_at(gone) <= datetime.now(UTC)
    assert gone.get("Tags", []) == []


def template(ec2: Any, name: str, *, delete: bool) -> None:
    disk = {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": delete}
    ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"],
            "InstanceType": "c6i.xlarge",
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
            "TagSpecifications": [{"ResourceType": "volume", "Tags": [MINE, {"Key": "template", "Value": name}]}],
        },
    )


def volumes(ec2: Any, name: str, *states: str) -> list[Any]:
    filters = [{"Name": "tag:template", "Values": [name]}]
    filters += [{"Name": "status", "Values": list(states)}] if states else []
    return list(ec2.describe_volumes(Filters=filters)["Volumes"])


@pytest.mark.parametrize("delete", [True, False])
def test_a_launchs_volume_has_the_templates_tags_and_goes_with_it_only_when_told(ec2: Any, delete: bool) -> None:
    name = f"disk-{delete}"
    template(ec2, name, delete=delete)
    fleet = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                "Overrides": [{"InstanceType": "c6i.xlarge", "AvailabilityZone": "us-east-1a", "MaxPrice": "0.17"}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    )
    (instance,) = fleet["Instances"][0]["InstanceIds"]
    (volume,) = volumes(ec2, name, "in-use")
    assert (volume["Size"], volume["VolumeType"], volume["State"]) == (50, "gp3", "in-use")
    assert volume["Attachments"][0]["InstanceId"] == instance
    assert MINE in volume["Tags"]
    ec2.terminate_instances(InstanceIds=[instance])
    wait_for(lambda: ended(ec2, instance))
    assert [one["VolumeId"] for one in volumes(ec2, name, "available")] == ([] if delete else [volume["VolumeId"]])
    assert volumes(ec2, name, "in-use") == []


def test_volumes_are_made_found_and_removed_by_their_tags(emulator: Emulator, ec2: Any) -> None:
    def made(stage: str) -> str:
        tags = [{"Key": "spot-relay:stage", "Value": stage}, {"Key": "template", "Value": "by-hand"}]
        specification = [{"ResourceType": "volume", "Tags": tags}]
        volume = ec2.create_volume(
            AvailabilityZone="us-east-1a", Size=50, VolumeType="gp3", TagSpecifications=specification
        )
        return str(volume["VolumeId"])

    mine, other = made("mine"), made("other")
    assert {one["VolumeId"] for one in volumes(ec2, "by-hand", "available")} == {mine, other}
    assert volumes(ec2, "by-hand")[0]["CreateTime"] <= datetime.now(UTC)
    document = policy({"Action": "ec2:DeleteVolume", "Resource": arn("ec2", "volume/*"), "Condition": IF_MINE})
    sweeper = assume(emulator, "volume-sweeper", document).client("ec2", endpoint_url=emulator.endpoint)
    with refused("UnauthorizedOperation"):
        sweeper.delete_volume(VolumeId=other)
    sweeper.delete_volume(VolumeId=mine)
    with refused("InvalidVolume.NotFound"):
        ec2.delete_volume(VolumeId=mine)
    assert [one["VolumeId"] for one in volumes(ec2, "by-hand")] == [other]


def test_the_host_tells_a_pools_whole_price_history(host: Ec2Host) -> None:
    host.control.pool("m6i.xlarge", "us-east-1b", price=0.09)
    host.control.pool("m6i.xlarge", "us-east-1b", price=0.05)
    prices = host.control.prices("m6i.xlarge", "us-east-1b")
    assert [price["usd_hour"] for price in prices] == [0.076, 0.09, 0.05]
    times = [datetime.fromisoformat(price["at"]) for price in prices]
    assert times == sorted(times)
    assert times[-1] <= datetime.now(UTC)


@pytest.mark.parametrize("raw", [True, False])
def test_a_queue_that_its_policy_opens_gets_what_a_topic_is_told(emulator: Emulator, raw: bool) -> None:
    sns, sqs = emulator.client("sns"), emulator.client("sqs")
    name = f"notes-{raw}"
    topic = sns.create_topic(Name=name)["TopicArn"]

    def queue(suffix: str, **attributes: str) -> str:
        url = str(sqs.create_queue(QueueName=name + suffix, Attributes=attributes)["QueueUrl"])
        delivery = {"RawMessageDelivery": str(raw).lower()}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn("sqs", name + suffix), Attributes=delivery)
        return url

    allowed = {
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn("sqs", name),
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    opened, closed = queue("", Policy=policy(allowed)), queue("-closed")
    sns.publish(TopicArn=topic, Subject="Spot Relay", Message="half of the money is reserved")

    def received(url: str) -> list[Any]:
        return list(sqs.receive_message(QueueUrl=url).get("Messages", []))

    body = wait_for(lambda: received(opened))[0]["Body"]
    if raw:
        assert body == "half of the money is reserved"
    else:
        note = json.loads(body)
        assert (note["Subject"], note["Message"]) == ("Spot Relay", "half of the money is reserved")
        assert note["TopicArn"] == topic
    assert received(closed) == []
