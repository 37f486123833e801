"""Patches for what ministack leaves out of IAM: policy variables, `dynamodb:LeadingKeys`, several resources in a call.

The controller's, the instances' and the runs' policies rely on these. Without them a rehearsal would refuse what AWS
allows (variables, SSM paths) or allow what AWS refuses (the others).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from spotrelay.rehearsal.ministack_checks import (
    Asked,
    PatchMismatch,
    authorize_each,
    load,
    require_function,
    require_text,
)

_VARIABLE = re.compile(r"\$\{\s*([A-Za-z0-9-]+:[^},]+?)\s*(?:,\s*'([^']*)'\s*)?\}")

# No request carries this, so a statement or a condition that holds it matches nothing.
UNMATCHABLE = "\0"

_RESOURCE_PARAMETERS = "service method path headers body query_params region account_id"


def patch_policy_variables() -> None:
    """Replace `${aws:PrincipalTag/run}`, `${key, 'default'}` and the like in resources and conditions by their values.

    ministack takes them literally, so the statements that hold a run to its own prefix would allow nothing at all. A
    variable without a value matches nothing, as on AWS; nor does one whose value has a wildcard, which must not widen
    a policy.
    """
    evaluator = load("core.iam_evaluator")
    first_match = require_function(evaluator, "_first_match", "ctx stmts effect")
    resolve = require_function(evaluator, "_resolve_condition_key", "key ctx")
    require_text(evaluator, "evaluate", '_first_match(ctx, stmts, "Deny")', '_first_match(ctx, layers[0], "Allow")')
    fields = {field.name for field in dataclasses.fields(evaluator.ParsedStatement)}
    if not {"resources", "not_resources", "conditions"} <= fields:
        raise PatchMismatch("ParsedStatement with resources, not_resources and conditions")

    def with_values(statement: Any, context: Any) -> Any:
        def value_of(match: re.Match[str]) -> str:
            value = resolve(match[1], context)
            if value is None or isinstance(value, list):
                value = match[2]
            return UNMATCHABLE if value is None or set("*?") & set(str(value)) else str(value)

        def fill(part: Any) -> Any:
            if isinstance(part, str):
                return _VARIABLE.sub(value_of, part)
            if isinstance(part, list):
                return [fill(item) for item in part]
            return {key: fill(item) for key, item in part.items()} if isinstance(part, dict) else part

        return dataclasses.replace(
            statement,
            resources=fill(statement.resources),
            not_resources=fill(statement.not_resources),
            conditions=fill(statement.conditions),
        )

    def patched(ctx: Any, stmts: list[Any], effect: str) -> Any:
        return first_match(ctx, [with_values(statement, ctx) for statement in stmts], effect)

    evaluator._first_match = patched


def patch_leading_keys() -> None:
    """Set `dynamodb:LeadingKeys` to the partition keys that a request names.

    ministack never sets it, and `ForAllValues:` is true of an absent key: every caller could read every run. Where the
    keys of a request can't be told, they are set to one that no policy allows. A Scan names none, here as on AWS.
    """
    actions = load("core.iam_actions")
    tables = load("services.dynamodb")._tables
    service_context = require_function(actions, "dynamodb_service_context", "body")
    require_text(load("app"), "_dispatch_service_request", "dynamodb_service_context(body)")

    def partition_key(table: Any, index: Any = None) -> str | None:
        described = tables.get(str(table or "").rsplit("/", 1)[-1]) or {}
        for entry in described.get("GlobalSecondaryIndexes") or []:
            if index is not None and entry.get("IndexName") == index:
                described = entry
        return next((key["AttributeName"] for key in described.get("KeySchema", []) if key["KeyType"] == "HASH"), None)

    def patched(body: bytes) -> dict[str, Any]:
        context: dict[str, Any] = service_context(body)
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            return context
        if isinstance(request, dict):
            keys = list(leading_keys(request, partition_key))
            if keys:
                context["dynamodb:LeadingKeys"] = keys
        return context

    actions.dynamodb_service_context = patched


def leading_keys(request: dict[str, Any], partition_key: Callable[..., str | None]) -> Iterator[str]:
    """The partition keys in a DynamoDB request, as strings."""
    if "Statement" in request or "Statements" in request or "TransactStatements" in request:
        yield UNMATCHABLE  # PartiQL is not taken apart: refused where LeadingKeys decides
        return
    if "Key" in request or "Item" in request:
        yield _key_of(request, partition_key)
    for entry in request.get("TransactItems") or []:
        for operation in entry.values():
            yield _key_of(operation, partition_key)
    for table, wanted in (request.get("RequestItems") or {}).items():
        for key in wanted.get("Keys", []) if isinstance(wanted, dict) else []:
            yield _key_of({"TableName": table, "Key": key}, partition_key)
        for write in wanted if isinstance(wanted, list) else []:
            for operation in write.values():
                yield _key_of({"TableName": table, **operation}, partition_key)
    if "KeyConditionExpression" in request or "KeyConditions" in request:
        yield _queried_key(request, partition_key)


def _key_of(operation: dict[str, Any], partition_key: Callable[..., str | None]) -> str:
    attributes = operation.get("Key") or operation.get("Item") or {}
    return _plain(attributes.get(partition_key(operation.get("TableName"))))


def _queried_key(request: dict[str, Any], partition_key: Callable[..., str | None]) -> str:
    wanted = partition_key(request.get("TableName"), request.get("IndexName"))
    names = request.get("ExpressionAttributeNames") or {}
    values = request.get("ExpressionAttributeValues") or {}
    for name, value in re.findall(r"([#\w.-]+)\s*=\s*(:\w+)", request.get("KeyConditionExpression") or ""):
        if wanted is not None and names.get(name, name) == wanted:
            return _plain(values.get(value))
    return UNMATCHABLE


def _plain(attribute: Any) -> str:
    """The value of `{"S": "…"}`."""
    return str(next(iter(attribute.values()))) if isinstance(attribute, dict) and attribute else UNMATCHABLE


class ManyResources(str):
    """The ARN of a call's first resource, which carries those of the others: each is authorized."""

    others: tuple[str, ...] = ()


def patch_resource_arns() -> None:
    """Authorize SSM by path and by names, EC2 calls on several instances, and logs by stream, on each resource they name.

    ministack looks at no SSM path or list of names (the resource is then `*`, which no narrow policy allows), only
    at the first of several instances (naming an own instance first would allow ending any other), and at no log stream
    (a run that may write its own could write none).
    """
    actions = load("core.iam_actions")
    extract = require_function(actions, "extract_resource_arn", _RESOURCE_PARAMETERS)
    require_text(
        load("app"),
        "_dispatch_service_request",
        "extract_resource_arn(",
        "denied = enforce(",
        "resource_arn=checked_arn",
    )

    def patched_extract(*args: Any, **kwargs: Any) -> str:
        arn: str = extract(*args, **kwargs)
        service, _, _, _, body, query, region, account = args
        named: list[str] = []
        if service == "ssm" and arn == "*":
            named = [f"arn:aws:ssm:{region}:{account}:parameter/{name.strip('/')}" for name in ssm_names(body)]
        elif service == "ec2" and ":instance/" in arn:
            fields = [key for key in query if re.fullmatch(r"InstanceId\.\d+", key)]
            prefix = arn.rsplit("/", 1)[0]
            named = [f"{prefix}/{_first(query[key])}" for key in sorted(fields)]
        elif service == "logs" and (stream := log_stream(args[3], body)):
            named = [f"{arn}:log-stream:{stream}"]
        if not named:
            return arn
        many = ManyResources(named[0])
        many.others = tuple(named[1:])
        return many

    def each_named(asked: Asked) -> list[Asked]:
        arns = (asked.resource_arn, *getattr(asked.resource_arn, "others", ()))
        return [asked._replace(resource_arn=arn) for arn in arns]

    actions.extract_resource_arn = patched_extract
    authorize_each(each_named)


def ssm_names(body: bytes) -> list[str]:
    """The parameters, or the path, that an SSM request names."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return []
    if not isinstance(request, dict):
        return []
    names = request.get("Names") or [request.get("Path")]
    return [name for name in names if isinstance(name, str)]


def log_stream(headers: Any, body: bytes) -> str | None:
    """The stream that a call is about, for the two actions that are authorized on one (Service Authorization Reference)."""
    if str(headers.get("x-amz-target", "")).rpartition(".")[2] not in ("CreateLogStream", "PutLogEvents"):
        return None
    name = json.loads(body or b"{}").get("logStreamName")
    return str(name) if name else None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value
