"""A short life of the whole system, in which every permission is used: beside what nobody accounts for, a run that is
submitted, interrupted, handed over, paid and pruned.

What comes early is what many permissions need; whoever waits for a refusal seldom waits long.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from spotrelay.client import ENDED, ApiRefused, ApiUnreachable
from spotrelay.rehearsal.job import Job
from spotrelay.rehearsal.stage import STAGE, Stage

SECRET, KNOWN, INPUT = "walk", "known@example.org", "inputs/walk"
LASTS_S = 40.0  # of training: longer than the first half of a lease, so that one is renewed
PATIENCE_S, GONE_S, SWEEPS_AFTER = 180.0, 30.0, 4
EVENTS = ("on_warning", "on_state_change", "sweep")
_OURS = {"Key": "spot-relay:stage", "Value": STAGE}

Look = Callable[[], None]


def prepare(stage: Stage) -> None:
    """What a walk finds: a stored secret, an input, and somebody who is told of another run already."""
    name = f"/spot-relay/{STAGE}/secrets/{SECRET}"
    stage.client("ssm").put_parameter(Name=name, Value="secret", Type="SecureString", Overwrite=True)
    stage.client("s3").put_object(Bucket=stage.deployment.resources.BucketName, Key=f"{INPUT}/file", Body=b"x")
    stage.client("sns").subscribe(
        TopicArn=stage.deployment.resources.TopicArn,
        Protocol="email",
        Endpoint=KNOWN,
        Attributes={"FilterPolicy": json.dumps({"run": ["another"]})},
    )


def walk(stage: Stage, job: Job, name: str, look: Look) -> str:
    """Walk to the end and give the run's status. `look` is called all the time; what it raises ends the walk."""
    _beside(stage)
    look()
    spec = {
        **job.named(name, LASTS_S),
        "secrets": {"WALK": SECRET},
        "inputs": [{"from": INPUT, "to": "given"}],
        "notify": [f"{name}@example.org", KNOWN],
    }
    status, asked, struck = "", False, set[str]()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and status not in ENDED:
        look()
        try:
            if not asked:
                stage.api.post("runs", body=spec)
                asked = True
            run = stage.api.get("runs", name)
            status = run["status"]
            for view in ("events", "checkpoints", "ledger", "results", "logs"):
                stage.api.get("runs", name, view)
            stage.api.get("budget")
            stage.api.get("runs")
            _strike(stage, name, run["attempts"], struck)
        except (ApiRefused, ApiUnreachable) as refused:
            look()
            if isinstance(refused, ApiRefused) and refused.status < 500:
                return f"refused: {refused}"
        time.sleep(0.2)
    enough = stage.sweeps + SWEEPS_AFTER
    while stage.sweeps < enough and time.monotonic() < until:
        look()
        time.sleep(0.1)
    look()
    return status


def clean(stage: Stage, name: str) -> None:
    """End what a walk that was broken off left."""
    stage.control.event_mode("deliver")
    with contextlib.suppress(ApiRefused, ApiUnreachable):
        stage.api.post("runs", name, "cancel")
    ec2, s3, bucket = stage.client("ec2"), stage.client("s3"), stage.deployment.resources.BucketName
    until = time.monotonic() + GONE_S
    while time.monotonic() < until:
        left = [i["id"] for i in stage.control.instances() if i["state"] not in ("shutting-down", "terminated")]
        if not left:
            break
        ec2.terminate_instances(InstanceIds=left)
        time.sleep(0.3)
    for volume in ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["available"]}])["Volumes"]:
        with contextlib.suppress(ec2.exceptions.ClientError):  # the sweep may be first
            ec2.delete_volume(VolumeId=volume["VolumeId"])
    for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _strike(stage: Stage, run: str, attempts: list[dict[str, Any]], struck: set[str]) -> None:
    """Three times the newest attempt is taken away once it has published: each time another function has to launch the next."""
    newest = attempts[-1] if attempts else None
    if newest is None or not newest["instance_id"] or newest["step"] in (None, newest["from_step"]):
        return
    instance = str(newest["instance_id"])
    if instance in struck:
        return
    struck.add(instance)
    if len(struck) == 1:  # the event alone: the instance, told at once, would be faster with its heartbeat
        _warn(stage, instance)
    elif len(struck) == 2:
        stage.control.kill(instance)
    elif len(struck) == 3:  # no event, and no older instance whose heartbeat would let the API look
        stage.control.event_mode("lose")
        for each in stage.control.instances():
            if each["tags"].get("spot-relay:run") == run and each["state"] in ("pending", "running"):
                stage.control.kill(each["id"])
    else:
        stage.control.event_mode("deliver")


def _warn(stage: Stage, instance: str) -> None:
    event = {
        "Source": "aws.ec2",
        "DetailType": "EC2 Spot Instance Interruption Warning",
        "Detail": json.dumps({"instance-id": instance, "instance-action": "terminate"}),
    }
    stage.emulator.client("events", as_ec2_host=True).put_events(Entries=[event])


def _beside(stage: Stage) -> None:
    """A stray, a volume, somebody else's instance, an unfinished upload, events that nobody can handle, a due schedule."""
    ec2, s3, functions = stage.client("ec2"), stage.client("s3"), stage.client("lambda")
    _instance(ec2, {_OURS["Key"]: STAGE, "spot-relay:run": "nobody", "spot-relay:attempt": "1"})
    _instance(ec2, {})
    ec2.create_volume(
        AvailabilityZone="us-east-1a",
        Size=8,
        VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": [_OURS]}],
    )
    resources = stage.deployment.resources
    begun = s3.create_multipart_upload(Bucket=resources.BucketName, Key="runs/unfinished/x")
    s3.upload_part(**{k: begun[k] for k in ("Bucket", "Key", "UploadId")}, PartNumber=1, Body=b"x")
    for key in ("NEWEST", "SCAN"):  # so that storage is measured in the next pass
        stage.client("dynamodb").delete_item(
            TableName=resources.TableName, Key={"pk": {"S": "STORAGE"}, "sk": {"S": key}}
        )
    for event in EVENTS:
        functions.invoke(FunctionName=f"spot-relay-{STAGE}-{event}", InvocationType="Event", Payload=b"[]")
    # No cold start makes it late.
    part = json.dumps(large_slice(datetime.now(UTC) + timedelta(minutes=1))).encode()
    functions.invoke(FunctionName=f"spot-relay-{STAGE}-sweep", InvocationType="Event", Payload=part)
    protected = _instance(ec2, {_OURS["Key"]: STAGE, "spot-relay:protect": "yes"})
    _end_by_schedule(stage, protected)


def large_slice(at: datetime) -> dict[str, Any]:
    """The sweep's event of a slice with more runs than one invocation takes: it gives the rest away."""
    return {
        "version": "0",
        "id": "walk",
        "source": "spot-relay",
        "detail-type": "Spot Relay Slice",
        "account": "",
        "region": "",
        "resources": [],
        "time": at.isoformat(),
        "detail": {"listening": at.isoformat(), "runs": {f"nobody-{n}": "" for n in range(60)}},
    }


def _end_by_schedule(stage: Stage, instance: str) -> None:
    account = stage.emulator.account_id
    stage.client("scheduler").create_schedule(
        Name=f"walk-{instance}",
        GroupName=f"spot-relay-{STAGE}",
        ScheduleExpression=f"at({datetime.now(UTC) + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
            "RoleArn": f"arn:aws:iam::{account}:role/spot-relay-{STAGE}-scheduler",
            "Input": json.dumps({"InstanceIds": [instance]}),
        },
    )


def _instance(ec2: Any, tags: dict[str, str]) -> str:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    specified = {"TagSpecifications": [{"ResourceType": "instance", "Tags": listed}]} if listed else {}
    made = ec2.run_instances(ImageId=image, InstanceType="c6i.xlarge", MinCount=1, MaxCount=1, **specified)
    return str(made["Instances"][0]["InstanceId"])
