"""The way back: functions, rules and API by `chalice delete`, our own resources with their stack, the functions' logs.

The bucket stays, with everything in it. Each step finds out for itself what is there, so that a destroy that failed in the
middle is simply run again. Nothing is removed while a run lives or an instance is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from spotrelay.client import ApiRefused, ApiUnreachable, Client
from spotrelay.deploying import bucket as buckets
from spotrelay.deploying import record, settings, stack
from spotrelay.deploying.errors import Clients, DeployError
from spotrelay.deploying.finish import log_group
from spotrelay.deploying.functions import Chalice

_POLL_S = 5.0
_UP = ["pending", "running", "stopping", "shutting-down"]
UNKNOWN_STATUS = "status unknown: the API does not answer"


@dataclass(frozen=True)
class LiveRun:
    """A run without an end. `status` is the API's word for it, or a sentence why there is none."""

    name: str
    status: str

    @property
    def running(self) -> bool:
        """Whether it has, or may yet get, an instance."""
        return self.status != "SUSPENDED"

    def __str__(self) -> str:
        return f"{self.name} ({self.status})"


@dataclass(frozen=True)
class Destroyed:
    """What was removed, and what is left."""

    removed: tuple[str, ...]
    bucket: str | None
    secrets: tuple[str, ...]


def live_runs(clients: Clients, stage: str, api: Client | None) -> list[LiveRun]:
    """The stage's runs without an end, by the table; what each does now is asked of the API."""
    found = []
    try:
        pages = clients("dynamodb").get_paginator("scan").paginate(TableName=f"spot-relay-{stage}", IndexName="live")
        names = sorted(item["live"]["S"] for page in pages for item in page["Items"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return []
        raise
    for name in names:
        status = UNKNOWN_STATUS
        if api is not None:
            try:
                status = str(api.get("runs", name)["status"])
            except (ApiRefused, ApiUnreachable):
                api = None
        found.append(LiveRun(name, status))
    return found


def instances_up(clients: Clients, stage: str) -> list[str]:
    """Ids of the stage's instances that still exist."""
    pages = (
        clients("ec2")
        .get_paginator("describe_instances")
        .paginate(
            Filters=[
                {"Name": "tag:spot-relay:stage", "Values": [stage]},
                {"Name": "instance-state-name", "Values": _UP},
            ]
        )
    )
    return [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]


def refusal(runs: Iterable[LiveRun], instances: Iterable[str], draining: bool) -> str | None:
    """Why nothing may be removed now, or None. A suspended run only holds back who did not ask to drain."""
    held = [str(run) for run in runs if run.running or not draining]
    up = sorted(instances)
    if held:
        return (
            f"These runs have not ended: {', '.join(held)}. Their records would go with the table (checkpoints stay in the "
            "bucket). Cancel them, or run `make destroy DRAIN=1`, which suspends them first."
        )
    if up:
        return (
            f"These instances are still up: {', '.join(up)}. Wait until they have gone, or end them with "
            f"`aws ec2 terminate-instances --instance-ids {' '.join(up)}`."
        )
    return None


def drain(
    clients: Clients,
    stage: str,
    api: Client | None,
    patience_s: float,
    progress: Callable[[list[LiveRun], list[str]], None] = lambda runs, instances: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have every run suspended and wait until none runs and no instance is up. Raises DeployError after `patience_s`."""
    runs = live_runs(clients, stage, api)
    if runs and api is None:
        raise DeployError(
            "The API does not answer, so nothing can be suspended: mend it (`make doctor`) and try again."
        )
    for run in runs:
        assert api is not None
        try:
            api.post("runs", run.name, "suspend")
        except ApiRefused as error:
            if error.status not in (404, 409):  # it ended meanwhile
                raise
    deadline = clock() + patience_s
    while True:
        running = [run for run in live_runs(clients, stage, api) if run.running]
        up = instances_up(clients, stage)
        progress(running, up)
        if not running and not up:
            return
        if clock() >= deadline:
            raise DeployError(
                f"After {patience_s / 60:.0f} minutes still running: {', '.join([*map(str, running), *up])}. Run it again, "
                "or cancel the runs."
            )
        sleep(_POLL_S)


def destroy(
    clients: Clients, stage: str, project: Path, chalice: Chalice, say: Callable[[str], None] = lambda text: None
) -> Destroyed:
    """Remove everything but the bucket and the secrets. Raises DeployError."""
    cloudformation, name = clients("cloudformation"), stack.stack_name(stage)
    removed = []
    functions = [each.name for each in record.functions(clients, stage)]
    say("functions, rules, API (chalice delete)")
    if chalice.delete():
        removed.append("functions, rules and API")
    before = stack.describe(cloudformation, name)
    bucket = _bucket(clients, stage, before)
    if before is not None:
        say("resources (CloudFormation)")
        if stack.next_step(before["StackStatus"]) == "wait":
            before = stack.settle(cloudformation, name, say)
        if before is not None:
            stack.delete_stack(cloudformation, name)
        removed.append(f"stack {name}")
    groups = remove_logs(clients("logs"), [log_group(each) for each in {*functions, *expected_functions(stage)}])
    removed += [f"log group {group}" for group in groups]
    settings.forget_stage(project, stage)
    return Destroyed(tuple(removed), bucket, tuple(secret_names(clients("ssm"), stage)))


def expected_functions(stage: str) -> list[str]:
    """What the functions of this code are called."""
    from spotrelay.deploying.application import functions

    return [each.name(stage) for each in functions()]


def remove_logs(logs: Any, groups: Iterable[str]) -> list[str]:
    """Delete these log groups; gives those that were there."""
    gone = []
    for group in sorted(groups):
        try:
            logs.delete_log_group(logGroupName=group)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
        else:
            gone.append(group)
    return gone


def secret_names(ssm: Any, stage: str) -> list[str]:
    """Names of the stored secrets: they are the person's, and are left."""
    from spotrelay.secrets import listed

    return [each.name for each in listed(ssm, stage)]


def _bucket(clients: Clients, stage: str, described: Mapping[str, Any] | None) -> str | None:
    """The bucket that is left: the stack's, or, once there is no stack, one of the stage's own name."""
    found = {o["OutputKey"]: o["OutputValue"] for o in (described or {}).get("Outputs", [])}
    if "BucketName" in found:
        return str(found["BucketName"])
    account = clients("sts").get_caller_identity()["Account"]
    s3 = clients("s3")
    name = buckets.default_name(stage, account, s3.meta.region_name)
    return name if buckets.presence(s3, name, account) == "ours" else None
