"""Chalice's record of what it deployed (`.chalice/deployed/<stage>.json`), rebuilt from the account.

Chalice writes the record only after everything went well, and trusts it blindly: after a deploy that failed in the
middle, or from another laptop, it would make a second API beside the first, and `chalice delete` would miss or stumble over
what is there. So the record is made anew before each of its commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from spotrelay.deploying.errors import Clients

APP = "spot-relay"
_API_HANDLER = "api_handler"


@dataclass(frozen=True)
class Found:
    """A function that Chalice deployed: its handler (`api_handler` for the routes), its name and ARN, the rules that call it."""

    handler: str
    name: str
    arn: str
    rules: tuple[str, ...] = ()


def functions(clients: Clients, stage: str) -> list[Found]:
    """The stage's functions in the account, told from another stage's by Chalice's own tag."""
    known, events = clients("lambda"), clients("events")
    prefix, found = f"{APP}-{stage}", []
    for page in known.get_paginator("list_functions").paginate():
        for each in page["Functions"]:
            name, arn = each["FunctionName"], each["FunctionArn"]
            if name != prefix and not name.startswith(f"{prefix}-"):
                continue
            tag = known.list_tags(Resource=arn)["Tags"].get("aws-chalice", "")
            if f"stage={stage}" not in tag.split(":") or f"app={APP}" not in tag.split(":"):
                continue
            rules = tuple(events.list_rule_names_by_target(TargetArn=arn)["RuleNames"])
            found.append(Found(name.removeprefix(prefix).removeprefix("-") or _API_HANDLER, name, arn, rules))
    return found


def apis(gateway: Any, stage: str) -> list[str]:
    """Ids of the REST APIs whose routes call the stage's function; Chalice names those of all stages alike."""
    return [
        each["id"]
        for page in gateway.get_paginator("get_rest_apis").paginate()
        for each in page["items"]
        if each["name"] == APP and any(f":function:{APP}-{stage}/" in uri for uri in _integrations(gateway, each["id"]))
    ]


def rebuild(clients: Clients, project: Path, stage: str, api_stage: str, api_id: str | None = None) -> bool:
    """Write the record; `api_id` is preferred where there are several APIs. False, and no file, when nothing is deployed."""
    path = project / ".chalice/deployed" / f"{stage}.json"
    gateway, resources = clients("apigateway"), []
    for each in functions(clients, stage):
        resources.append({"name": each.handler, "resource_type": "lambda_function", "lambda_arn": each.arn})
        for number, rule in enumerate(each.rules):
            name = f"{each.handler}-event" + (f"-{number}" if number else "")
            resources.append({"name": name, "resource_type": "cloudwatch_event", "rule_name": rule})
    there = apis(gateway, stage)
    if there:
        chosen = api_id if api_id in there else there[0]
        url = f"https://{chosen}.execute-api.{gateway.meta.region_name}.amazonaws.com/{api_stage}/"
        resources.append({"name": "rest_api", "resource_type": "rest_api", "rest_api_id": chosen, "rest_api_url": url})
    if not resources:
        path.unlink(missing_ok=True)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"resources": resources, "schema_version": "2.0", "backend": "api"}, indent=2), "utf-8")
    return True


def _integrations(gateway: Any, api_id: str) -> Iterator[str]:
    try:
        for page in gateway.get_paginator("get_resources").paginate(restApiId=api_id, embed=["methods"]):
            for resource in page["items"]:
                for method in resource.get("resourceMethods", {}).values():
                    yield method.get("methodIntegration", {}).get("uri", "")
    except ClientError as error:
        if error.response["Error"]["Code"] != "NotFoundException":
            raise
