"""Ask AWS about what was deployed: bucket, functions, API, sweep. Only reads. Raises what AWS refuses with."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from spotrelay import bundle
from spotrelay.client import ApiRefused, ApiUnreachable, Client
from spotrelay.deploying import finish, record
from spotrelay.deploying.errors import Clients
from spotrelay.doctor.facts import Api, Bucket, Function, Known, Sweep

T = TypeVar("T")
_LOOK_BACK_S = 900


def bucket(s3: Any, name: str, digest: str) -> Bucket:
    if not _holds(lambda: s3.head_bucket(Bucket=name)):
        return Bucket(name, False, False, False, False, False, False)
    block = _or_none(lambda: s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]) or {}
    policy = _or_none(lambda: json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])) or {"Statement": []}
    rules = _or_none(lambda: s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]) or []
    return Bucket(
        name=name,
        reachable=True,
        private=len(block) == 4 and all(block.values()),
        tls_only=any(_refuses_plain(each) for each in policy["Statement"]),
        versioned=s3.get_bucket_versioning(Bucket=name).get("Status") == "Enabled",
        cleans_up=any("AbortIncompleteMultipartUpload" in rule for rule in rules),
        has_agent=_holds(lambda: s3.head_object(Bucket=name, Key=bundle.key(digest))),
    )


def _refuses_plain(statement: dict[str, Any]) -> bool:
    secure = statement.get("Condition", {}).get("Bool", {}).get("aws:SecureTransport")
    return statement.get("Effect") == "Deny" and str(secure).lower() == "false"


def _holds(ask: Callable[[], Any]) -> bool:
    """False when there is none, or it is closed to us."""
    try:
        ask()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (301, 403, 404):
            return False
        raise
    return True


def _or_none(ask: Callable[[], T]) -> T | None:
    """None where S3 says that no such configuration was made."""
    try:
        return ask()
    except ClientError as error:
        if error.response["Error"]["Code"].startswith("NoSuch"):
            return None
        raise


def functions(clients: Clients, stage: str) -> tuple[Function, ...]:
    known, events, logs = clients("lambda"), clients("events"), clients("logs")
    found = []
    for each in record.functions(clients, stage):
        configured = known.get_function_configuration(FunctionName=each.name)
        retries = _absent_is_none(lambda name: known.get_function_event_invoke_config(FunctionName=name), each.name)
        rules = [events.describe_rule(Name=rule)["State"] for rule in each.rules]
        group = finish.log_group(each.name)
        kept = [
            g.get("retentionInDays")
            for g in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
            if g["logGroupName"] == group
        ]
        destinations = (retries or {}).get("DestinationConfig", {})
        found.append(
            Function(
                handler=each.handler,
                environment=configured.get("Environment", {}).get("Variables", {}),
                called_by_events=bool(each.rules),
                enabled=all(state == "ENABLED" for state in rules),
                retries=(retries or {}).get("MaximumRetryAttempts"),
                failed_to=destinations.get("OnFailure", {}).get("Destination"),
                logs_kept_days=kept[0] if kept else None,
                role=configured["Role"].rpartition("/")[2],
            )
        )
    return tuple(found)


def _absent_is_none(ask: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any] | None:
    try:
        return ask(name)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise


def api(clients: Clients, session: Any, stage: str, known: Known[tuple[Function, ...]]) -> Api:
    gateway = clients("apigateway")
    ids = tuple(record.apis(gateway, stage))
    told = known[0].environment.get("API_URL", "") if isinstance(known, tuple) and known else ""
    status: int | None = None
    if told.startswith("http"):
        try:
            Client(session, told).get("budget")
            status = 200
        except ApiRefused as error:
            status = error.status
        except ApiUnreachable:
            status = None
    rate = None
    if ids:
        stages = gateway.get_stages(restApiId=ids[0])["item"]
        rate = stages[0].get("methodSettings", {}).get("*/*", {}).get("throttlingRateLimit") if stages else None
    return Api(ids, status, rate)


def sweep(clients: Clients, stage: str, now: datetime) -> Sweep:
    since = int((now.timestamp() - _LOOK_BACK_S) * 1000)
    group = finish.log_group(f"spot-relay-{stage}-sweep")
    newest: int | None = None
    try:
        pages = clients("logs").get_paginator("filter_log_events").paginate(logGroupName=group, startTime=since)
        for page in pages:
            newest = max([*(e["timestamp"] for e in page["events"]), newest or 0]) or None
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    failed = 0
    sqs = clients("sqs")
    try:
        url = sqs.get_queue_url(QueueName=f"spot-relay-{stage}-failed")["QueueUrl"]
        asked = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        failed = int(asked["Attributes"]["ApproximateNumberOfMessages"])
    except ClientError as error:
        if "NonExistentQueue" not in error.response["Error"]["Code"] + str(error):
            raise
    return Sweep(max(0.0, now.timestamp() - newest / 1000) if newest else None, failed)
