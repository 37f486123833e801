"""What Chalice can't set, after its deploy: retries and where failed events go, log retention, throttling, the Spot role.

Every call sets a state, so that a repeat changes nothing. `chalice deploy` alone leaves all of it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from spotrelay.deploying import record
from spotrelay.deploying.errors import Clients, DeployError

RETRIES = 2
# An event about an instance is worth something as long as Lambda keeps it; a sweep is worth nothing once the next has begun.
EVENT_AGE_S, SWEEP_AGE_S = 21600, 300
LOGS_KEPT_DAYS = 30
# An agent calls every 30 s, every 5 s around a handoff: these are some hundred instances at once.
RATE_PER_S, BURST = 50, 100
SPOT_SERVICE = "spot.amazonaws.com"


def complete(
    clients: Clients, stage: str, api_id: str, url: str, failed_events_arn: str, say: Callable[[str], None]
) -> None:
    """Raises DeployError, ClientError."""
    say("retries, log retention, throttling")
    for function in record.functions(clients, stage):
        keep_logs(clients("logs"), log_group(function.name))
        if function.rules:
            retry(clients("lambda"), function, failed_events_arn)
    throttle(clients("apigateway"), api_id, urlsplit(url).path.rstrip("/").rpartition("/")[2])
    spot_role(clients("iam"))


def log_group(function: str) -> str:
    return f"/aws/lambda/{function}"


def event_age_s(handler: str) -> int:
    return SWEEP_AGE_S if handler == "sweep" else EVENT_AGE_S


def retry(functions: Any, function: record.Found, failed_events_arn: str) -> None:
    """Twice more, then into the queue whose alarm tells."""
    functions.put_function_event_invoke_config(
        FunctionName=function.name,
        MaximumRetryAttempts=RETRIES,
        MaximumEventAgeInSeconds=event_age_s(function.handler),
        DestinationConfig={"OnFailure": {"Destination": failed_events_arn}},
    )


def keep_logs(logs: Any, group: str) -> None:
    """Chalice's own setting names a group that the API's function does not write to."""
    try:
        logs.create_log_group(logGroupName=group)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
    logs.put_retention_policy(logGroupName=group, retentionInDays=LOGS_KEPT_DAYS)


def throttle(gateway: Any, api_id: str, api_stage: str) -> None:
    """Requests a second over all routes; more are answered 429."""
    settings = {"rateLimit": RATE_PER_S, "burstLimit": BURST}
    gateway.update_stage(
        restApiId=api_id,
        stageName=api_stage,
        patchOperations=[
            {"op": "replace", "path": f"/*/*/throttling/{name}", "value": str(value)}
            for name, value in settings.items()
        ],
    )


def spot_role(iam: Any) -> None:
    """The role without which an account's first Spot request is refused; one that is there already is fine."""
    try:
        iam.create_service_linked_role(AWSServiceName=SPOT_SERVICE)
    except ClientError as error:
        taken = "has been taken" in str(error) or error.response["Error"]["Code"] == "EntityAlreadyExists"
        if not taken:
            raise DeployError(
                f"The service-linked role for Spot can't be made: {error}\nWhoever may, runs: "
                f"aws iam create-service-linked-role --aws-service-name {SPOT_SERVICE}"
            ) from error
