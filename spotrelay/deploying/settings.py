"""What the functions are told, and what `chalice deploy` is told about a stage. Nothing here is secret.

`render_config` keeps both in `.chalice/config.json`, so that a later `chalice deploy` alone updates the code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spotrelay.deploying.stack import Resources

DEFAULT_LIMIT_USD = "20"
UNKNOWN_URL = "https://unknown.invalid"
# Without one of these a function refuses to work.
SETTINGS = (
    "STAGE",
    "TABLE",
    "BUCKET",
    "LAUNCH_TEMPLATE",
    "RUN_ROLE_ARN",
    "AGENT_SHA256",
    "API_URL",
    "LIMIT_USD",
    "TOPIC_ARN",
    "LOG_GROUP",
)


def environment(
    stage: str, resources: Resources, agent_sha256: str, limit_usd: str, extra: Mapping[str, str]
) -> dict[str, str]:
    """The functions' environment, all but API_URL."""
    return {
        "STAGE": stage,
        "TABLE": resources.TableName,
        "BUCKET": resources.BucketName,
        "LAUNCH_TEMPLATE": resources.LaunchTemplateName,
        "RUN_ROLE_ARN": resources.RunRoleArn,
        "AGENT_SHA256": agent_sha256,
        "LIMIT_USD": limit_usd,
        "TOPIC_ARN": resources.TopicArn,
        "LOG_GROUP": resources.LogGroup,
        "GUARD": resources.Guard,
        "POWERTOOLS_LOG_LEVEL": "INFO",
        **extra,
    }


def stage_config(roles: Mapping[str, str]) -> dict[str, Any]:
    """What `chalice deploy` needs to know of a stage beside its environment; `roles` are ARNs by handler.

    No role is set for the stage as a whole: a function that the template has no role for fails to deploy, where it would
    otherwise get another's.
    """
    functions: dict[str, dict[str, Any]] = {handler: {"iam_role_arn": arn} for handler, arn in roles.items()}
    functions.setdefault("sweep", {})["lambda_timeout"] = 300
    return {"manage_iam_role": False, "lambda_functions": functions}


def render_config(project: Path, stage: str, env: Mapping[str, str], roles: Mapping[str, str]) -> None:
    """Write the stage into `.chalice/config.json`, beside other stages."""
    path = project / ".chalice/config.json"
    config = json.loads(path.read_text("utf-8"))
    config.setdefault("stages", {})[stage] = stage_config(roles) | {"environment_variables": dict(env)}
    _replace(path, config)


def allow_delete(project: Path, stage: str) -> None:
    """`chalice delete` asks for the API's role, even to remove it: name one where the stage is not in the configuration."""
    path = project / ".chalice/config.json"
    config = json.loads(path.read_text("utf-8"))
    if stage not in config.get("stages", {}):
        config.setdefault("stages", {})[stage] = stage_config({"api_handler": "arn:aws:iam::000000000000:role/none"})
        _replace(path, config)


def forget_stage(project: Path, stage: str) -> None:
    """Take the stage out of `.chalice/config.json`."""
    path = project / ".chalice/config.json"
    config = json.loads(path.read_text("utf-8"))
    if config.get("stages", {}).pop(stage, None) is None:
        return
    if not config["stages"]:
        del config["stages"]
    _replace(path, config)


def _replace(path: Path, config: Mapping[str, Any]) -> None:
    beside = path.with_suffix(".json.tmp")
    beside.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    beside.replace(path)
