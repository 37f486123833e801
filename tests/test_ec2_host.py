"""The rehearsal's EC2 answers like EC2, runs real processes as instances, and leaves none behind."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from spotrelay.rehearsal import ec2_fleet, ec2_shims
from spotrelay.rehearsal.ec2_control import Ec2Host, HostControl, HostError, InstanceView
from spotrelay.rehearsal.ec2_emulator import STATE_CHANGE, WARNING
from spotrelay.rehearsal.ec2_machine import read_user_data
from spotrelay.rehearsal.ec2_processes import belonging, living

PRIVILEGED = """
names="shutdown poweroff apt-get systemctl useradd iptables mount runuser docker"
for name in $names; do command -v $name; done > "$HOME/where"
bash -lc 'command -v shutdown' > "$HOME/where-login"
apt-get install -y nothing; systemctl enable nothing; iptables -A OUTPUT -j DROP
runuser -u nobody -- sh -c 'echo run as asked' > "$HOME/runuser"
"""
A, B = "us-east-1a", "us-east-1b"
USER_DATA = """#!/bin/bash
env > "$HOME/env"
setsid sleep 600 &
env -i /bin/sleep 601 &
env -i SPOT_RELAY_ROOT="$SPOT_RELAY_ROOT" setsid -f sleep 602
env -i HOME="$HOME" setsid -f sleep 603
echo "the console"
while sleep 0.05; do
    if [ -e "$HOME/do" ]; then mv "$HOME/do" "$HOME/doing"; . "$HOME/doing"; touch "$HOME/done"; fi
done
"""


def wait_for(what: Callable[[], Any], timeout_s: float = 10) -> Any:
    """The first true answer of `what`."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ec2Host]:
    with Ec2Host(tmp_path_factory.mktemp("ec2"), time_scale=1 / 60) as running:  # a minute asked for takes a second
        running.control.boot(delay_s=0.05, end_delay_s=0.1)
        yield running


@pytest.fixture(scope="module")
def ec2(host: Ec2Host) -> Any:
    client = boto3.session.Session("test", "test", region_name="us-east-1").client("ec2", endpoint_url=host.endpoint)
    group = client.create_security_group(GroupName="agents", Description="no inbound")["GroupId"]
    client.create_launch_template(
        LaunchTemplateName="relay",
        LaunchTemplateData={
            "ImageId": "resolve:ssm:/image",
            "InstanceType": "c6i.xlarge",
            "UserData": base64.b64encode(USER_DATA.encode()).decode(),
            "IamInstanceProfile": {"Name": "agents"},
            "MetadataOptions": {
                "HttpTokens": "required",
                "InstanceMetadataTags": "enabled",
                "HttpPutResponseHopLimit": 1,
            },
            "SecurityGroupIds": [group],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": True}}
            ],
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "spot-relay:stage", "Value": "test"}]},
                {"ResourceType": "volume", "Tags": [{"Key": "spot-relay:stage", "Value": "test"}]},
            ],
        },
    )
    yield client
    client.close()


@pytest.fixture
def control(host: Ec2Host) -> Iterator[HostControl]:
    """The control API, and afterwards a market without limits and an account without instances."""
    yield host.control
    host.control.quota(None)
    host.control.event_mode("deliver")
    host.control.boot(fail=False)
    for zone in (A, B):
        host.control.pool("c6i.xlarge", zone, reset=True, price=0.068)
    for instance in host.control.instances():
        host.control.kill(instance["id"])
    wait_for(lambda: all(one["state"] == "terminated" and not one["pids"] for one in host.control.instances()))


def launch(ec2: Any, zones: tuple[str, ...] = (A,), **changes: Any) -> Any:
    overrides = [{"InstanceType": "c6i.xlarge", "AvailabilityZone": zone, "MaxPrice": "0.17"} for zone in zones]
    template = {"LaunchTemplateName": "relay", "Version": "$Latest"}
    request = {
        "Type": "instant",
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": template, "Overrides": overrides}],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "spot-relay:run", "Value": "quick-1"}]}],
    }
    return ec2.create_fleet(**{**request, **changes})


def started(answer: Any) -> str:
    return str(answer["Instances"][0]["InstanceIds"][0])


def boot(ec2: Any, control: HostControl) -> InstanceView:
    """An instance whose user data has run up to its waiting loop."""
    instance = started(launch(ec2))
    wait_for(lambda: "the console" in console(control.instance(instance)))
    return control.instance(instance)


def console(instance: InstanceView) -> str:
    log = Path(instance["folder"], "console.log")
    return log.read_text() if log.exists() else ""


def ask(instance: InstanceView, commands: str) -> None:
    """Let the instance itself run `commands`."""
    folder = Path(instance["folder"])
    (folder / "done").unlink(missing_ok=True)
    (folder / "draft").write_text(commands)
    (folder / "draft").rename(folder / "do")


def ended(control: HostControl, instance: str) -> InstanceView:
    return wait_for(lambda: (one := control.instance(instance))["state"] == "terminated" and one)  # type: ignore[no-any-return]


def living_of(pids: list[int]) -> set[int]:
    return {process.pid for process in living()} & set(pids)


class Imds:
    """The metadata service of one instance, as the instance sees it."""

    def __init__(self, instance: InstanceView) -> None:
        environment = Path(instance["folder"], "env").read_text()
        found = re.search("^AWS_EC2_METADATA_SERVICE_ENDPOINT=(.*)$", environment, re.MULTILINE)
        assert found
        self.address = found[1]
        token = urllib.request.Request(f"{self.address}/latest/api/token", method="PUT")
        token.add_header("X-aws-ec2-metadata-token-ttl-seconds", "60")
        self.token = self._send(token)[1]

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.address}/latest/{path}")
        request.add_header("X-aws-ec2-metadata-token", self.token if token is None else token)
        return self._send(request)

    def _send(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""


def test_a_fleet_starts_what_the_whole_launch_template_says(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    found = ec2.describe_instances(InstanceIds=[instance["id"]])["Reservations"][0]["Instances"][0]
    assert found["State"]["Name"] == "running"
    assert found["InstanceLifecycle"] == "spot"
    assert found["IamInstanceProfile"]["Arn"].endswith("instance-profile/agents")
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    assert [group["GroupName"] for group in found["SecurityGroups"]] == ["agents"]
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert (tags["spot-relay:stage"], tags["spot-relay:run"]) == ("test", "quick-1")
    assert "aws:ec2:fleet-id" in tags
    volume = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance["id"]]}])["Volumes"]
    assert [(one["Size"], one["VolumeType"]) for one in volume] == [(50, "gp3")]
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance["id"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert instance["price"] == 0.068
    assert "the console" in ec2.get_console_output(InstanceId=instance["id"])["Output"]


def test_privileged_commands_never_reach_this_machine(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    folder = Path(instance["folder"])
    ask(instance, PRIVILEGED)
    wait_for((folder / "done").exists)
    where = (folder / "where").read_text().splitlines()
    assert len(where) == 9
    assert {str(Path(path).parent) for path in where} == {str(folder / "shims")}
    assert (folder / "where-login").read_text().strip() == str(folder / "shims" / "shutdown")
    path = re.search("^PATH=([^:]*)", (folder / "env").read_text(), re.MULTILINE)
    assert path
    assert path[1] == str(folder / "shims")
    assert (folder / "runuser").read_text() == "run as asked\n"
    asked = ec2_shims.asked(folder)
    assert ("iptables", ["-A", "OUTPUT", "-j", "DROP"]) in asked
    assert not set(os.environ) & set(re.findall("^(PYTEST_.*?)=", (folder / "env").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    "line", ["/sbin/shutdown -P now", "exec /usr/bin/apt-get update", "x=$(/usr/sbin/iptables -L)"]
)
def test_a_command_named_by_its_path_is_refused(line: str) -> None:
    assert ec2_shims.absolute_commands(f"#!/bin/sh\n{line}\n")
    assert not ec2_shims.absolute_commands('#!/bin/sh\n# /sbin/shutdown\nshutdown -P now\n"$ROOT/opt/bin/mount"\n')


def test_the_boot_script_names_privileged_commands_without_a_path() -> None:
    for script in (Path(__file__).parents[1] / "userdata").rglob("*.sh"):
        assert not ec2_shims.absolute_commands(script.read_text()), script


@pytest.mark.skipif(bool(shutil.which("docker")) and os.system("docker info >/dev/null 2>&1") == 0, reason="has Docker")
def test_a_job_that_needs_docker_is_told_when_there_is_none(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    ask(instance, "docker run hello; echo code $?\n")
    wait_for(Path(instance["folder"], "done").exists)
    assert "no Docker engine answers" in console(instance)
    assert "code 125" in console(instance)


def test_a_warning_is_seen_by_the_instance_and_kept(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    imds = Imds(instance)
    assert imds.get("meta-data/spot/instance-action", token="")[0] == 401
    assert imds.get("meta-data/spot/instance-action")[0] == 404
    assert imds.get("meta-data/instance-id") == (200, instance["id"])
    assert imds.get("meta-data/placement/availability-zone") == (200, A)
    assert imds.get("meta-data/tags/instance/spot-relay:run") == (200, "quick-1")
    assert imds.get("meta-data/iam/security-credentials/")[0] == 404, "no emulator, no credentials"
    control.interrupt(instance["id"], notice_s=1)
    status, action = imds.get("meta-data/spot/instance-action")
    assert (status, json.loads(action)["action"]) == (200, "terminate")
    assert control.instance(instance["id"])["state"] == "running"
    assert ended(control, instance["id"])["reason"] == "Server.SpotInstanceTermination"
    ours = [note for note in control.events() if note["detail"]["instance-id"] == instance["id"]]
    assert [note["detail"]["state"] for note in ours if note["detail_type"] == STATE_CHANGE] == [
        "pending", "running", "shutting-down", "terminated",
    ]  # fmt: skip
    assert [note["detail"]["instance-action"] for note in ours if note["detail_type"] == WARNING] == ["terminate"]


def test_a_killed_instance_takes_every_process_with_it(ec2: Any, control: HostControl) -> None:
    other, instance = boot(ec2, control), boot(ec2, control)
    assert len(instance["pids"]) >= 4, "the script, and the sleepers that left its session or its environment"
    control.kill(instance["id"])
    ended(control, instance["id"])
    assert not living_of(instance["pids"])
    assert len(control.instance(other["id"])["pids"]) >= 4, "another instance is not touched"


def test_terminating_through_the_api_is_the_users_doing(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    ec2.terminate_instances(InstanceIds=[instance["id"]])
    assert ended(control, instance["id"])["reason"] == "Client.UserInitiatedShutdown"
    assert not belonging(Path(instance["folder"], "root"))


def test_a_refused_pool_is_an_error_beside_the_instance_of_the_next(ec2: Any, control: HostControl) -> None:
    control.pool("c6i.xlarge", A, capacity=0)
    answer = launch(ec2, (A, B))
    assert [error["ErrorCode"] for error in answer["Errors"]] == ["InsufficientInstanceCapacity"]
    assert answer["Errors"][0]["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == A
    assert answer["Instances"][0]["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"] == B
    assert control.instance(started(answer))["az"] == B


def test_every_pool_refused_is_an_answer_without_instances(ec2: Any, control: HostControl) -> None:
    control.pool("c6i.xlarge", A, error="UnfulfillableCapacity:none today")
    control.pool("c6i.xlarge", B, price=0.2)
    answer = launch(ec2, (A, B))
    assert answer["Instances"] == []
    assert {error["ErrorCode"] for error in answer["Errors"]} == {"UnfulfillableCapacity", "SpotMaxPriceTooLow"}


def test_the_cheapest_pool_is_taken_and_its_price_is_told(ec2: Any, control: HostControl) -> None:
    control.pool("c6i.xlarge", B, price=0.05)
    assert control.instance(started(launch(ec2, (A, B))))["price"] == 0.05
    prices = ec2.describe_spot_price_history(InstanceTypes=["c6i.xlarge"], ProductDescriptions=["Linux/UNIX"])
    by_zone = {entry["AvailabilityZone"]: entry for entry in prices["SpotPriceHistory"]}
    assert (by_zone[A]["SpotPrice"], by_zone[B]["SpotPrice"]) == ("0.068000", "0.050000")
    assert time.time() - by_zone[B]["Timestamp"].timestamp() < 60


def test_a_repeated_token_launches_once(ec2: Any, control: HostControl) -> None:
    first = launch(ec2, ClientToken="one")
    assert started(launch(ec2, ClientToken="one")) == started(first)
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch(ec2, (B,), ClientToken="one")
    control.kill(started(first))
    ended(control, started(first))
    with pytest.raises(ClientError, match="IdempotentInstanceTerminated"):
        launch(ec2, ClientToken="one")
    assert started(launch(ec2, ClientToken="two")) != started(first)


def test_the_spot_quota_counts_until_an_instance_is_gone(ec2: Any, control: HostControl) -> None:
    control.quota(5)
    first = started(launch(ec2))
    assert [error["ErrorCode"] for error in launch(ec2)["Errors"]] == ["MaxSpotInstanceCountExceeded"]
    control.kill(first)
    ended(control, first)
    assert launch(ec2)["Instances"]


def test_a_shutdown_can_be_armed_replaced_cancelled_and_happens(ec2: Any, control: HostControl) -> None:
    instance = boot(ec2, control)
    ask(instance, "shutdown -P +1; shutdown -P +50; touch $HOME/armed; sleep 1.3; shutdown -P +1; shutdown -c\n")
    wait_for(Path(instance["folder"], "done").exists)
    time.sleep(1.2)
    assert control.instance(instance["id"])["state"] == "running"
    ask(instance, "shutdown -P +1\n")
    wait_for(Path(instance["folder"], "done").exists)
    assert ended(control, instance["id"])["reason"] == "Client.InstanceInitiatedShutdown"


@pytest.mark.parametrize("command", ["shutdown -P now", "poweroff"])
def test_powering_off_ends_the_instance(ec2: Any, control: HostControl, command: str) -> None:
    instance = boot(ec2, control)
    ask(instance, f"{command}\n")
    assert ended(control, instance["id"])["reason"] == "Client.InstanceInitiatedShutdown"


def test_a_failed_boot_leaves_a_silent_instance(ec2: Any, control: HostControl) -> None:
    control.boot(fail=True)
    instance = started(launch(ec2))
    wait_for(lambda: "boot failure" in console(control.instance(instance)))
    wait_for(lambda: not control.instance(instance)["pids"])
    assert control.instance(instance)["state"] == "running"


def test_events_can_be_lost(ec2: Any, control: HostControl) -> None:
    control.event_mode("lose", detail_types=[WARNING])
    instance = started(launch(ec2))
    control.interrupt(instance, notice_s=0)
    ended(control, instance)
    ours = [note for note in control.events() if note["detail"]["instance-id"] == instance]
    assert {note["detail_type"] for note in ours if note["outcome"] == "lost"} == {WARNING}


def test_wrong_control_requests_are_answered_with_the_reason(control: HostControl) -> None:
    with pytest.raises(HostError, match="no instance i-none"):
        control.kill("i-none")
    with pytest.raises(HostError, match="mode is"):
        control.event_mode("wrong")  # type: ignore[arg-type]


def test_no_process_is_left_when_the_host_ends(tmp_path: Path, ec2: Any) -> None:
    with Ec2Host(tmp_path / "host") as host:
        second = boto3.session.Session("test", "test", region_name="us-east-1").client(
            "ec2", endpoint_url=host.endpoint
        )
        user_data = base64.b64encode(b"#!/bin/sh\nsetsid -f sleep 600\nsleep 600\n").decode()
        second.create_launch_template(
            LaunchTemplateName="relay",
            LaunchTemplateData={"ImageId": "ami-1", "InstanceType": "c6i.xlarge", "UserData": user_data},
        )
        instance = started(launch(second))
        pids = wait_for(lambda: len(found := host.control.instance(instance)["pids"]) >= 2 and found)
        second.close()
    assert not living_of(pids)
    assert not belonging(tmp_path / "host", below=True)


def test_a_moto_of_another_shape_stops_the_host() -> None:
    with pytest.raises(ec2_fleet.MotoShapeError, match="no longer takes weight"):
        ec2_fleet.expect(lambda self: None, "weight")


@pytest.mark.parametrize("zipped", [False, True])
def test_user_data_is_read_however_it_came(zipped: bool) -> None:
    import gzip

    script = b"#!/bin/sh\n"
    data = gzip.compress(script) if zipped else script
    assert read_user_data(base64.b64encode(data).decode()) == script
    assert zipped or read_user_data(script.decode()) == script
