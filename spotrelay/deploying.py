"""Deploying, step by step: our own resources by CloudFormation, the agent under its hash, then `chalice deploy`.

Each step can be repeated; a deploy that failed in the middle is simply run again. A rehearsal takes the same way: it only
passes its own `chalice deploy` and its own sessions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import ClientError, WaiterError

from spotrelay import bundle

ROOT = Path(__file__).resolve().parent.parent
_USER_DATA_PARAMETERS, _PARAMETER_CHARACTERS = 6, 4096
_STACK_PATIENCE = {"Delay": 2, "MaxAttempts": 450}


class DeployError(Exception):
    """A step failed; the message says which and why."""


class Clients(Protocol):
    """Makes boto3 clients for the account that is deployed into."""

    def __call__(self, service: str) -> Any: ...


class ChaliceDeploy(Protocol):
    """Runs `chalice deploy` for a stage with these settings. Gives the API's id and its URL, no slash at the end."""

    def __call__(self, env: Mapping[str, str], role_arn: str) -> tuple[str, str]: ...


@dataclass(frozen=True)
class Resources:
    """What the stack made, by its outputs."""

    TableName: str
    BucketName: str
    LaunchTemplateName: str
    ControllerRoleArn: str
    InstanceRoleName: str
    RunRoleArn: str
    TopicArn: str
    LogGroup: str


@dataclass(frozen=True)
class Deployment:
    resources: Resources
    agent_sha256: str
    api_id: str
    api_url: str
    env: Mapping[str, str]


def deploy(
    clients: Clients,
    stage: str,
    chalice_deploy: ChaliceDeploy,
    *,
    limit_usd: str = "20",
    parameters: Mapping[str, str] | None = None,
    extra_env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Deployment:
    """Everything, in order. Raises DeployError.

    The API's URL is known only after `chalice deploy`, and instances must be told it: the first deploy of a stage
    therefore deploys the functions twice, later ones once.
    """
    given = dict(parameters or {})
    given.setdefault("VpcId", default_vpc(clients("ec2")))
    say("resources (CloudFormation)")
    resources = deploy_resources(clients("cloudformation"), stage, given)
    say("agent")
    digest = upload_agent(clients("s3"), resources.BucketName)
    env = environment(stage, resources, digest, limit_usd, extra_env or {})
    known = _known_url(clients("lambda"), stage)
    say("functions (chalice deploy)")
    api_id, url = chalice_deploy({**env, "API_URL": known or "https://unknown.invalid"}, resources.ControllerRoleArn)
    if url != known:
        say("functions once more: they now know their own address")
        api_id, url = chalice_deploy({**env, "API_URL": url}, resources.ControllerRoleArn)
    say("permission to call the API")
    deploy_resources(clients("cloudformation"), stage, {**given, "ApiId": api_id})
    return Deployment(resources, digest, api_id, url, {**env, "API_URL": url})


def stack_name(stage: str) -> str:
    return f"spot-relay-{stage}-resources"


def default_vpc(ec2: Any) -> str:
    """The default VPC's id. Raises DeployError with the command that makes one."""
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise DeployError("The region has no default VPC: make one with `aws ec2 create-default-vpc`.")
    return str(vpcs[0]["VpcId"])


def deploy_resources(cloudformation: Any, stage: str, parameters: Mapping[str, str]) -> Resources:
    """Create or update the stack; nothing to change is fine. Raises DeployError with CloudFormation's own words.

    A parameter that is not given keeps its value.
    """
    name = stack_name(stage)
    template = (ROOT / ".chalice/resources.yaml").read_text("utf-8")
    wanted = {"Stage": stage, **user_data((ROOT / "userdata/boot.sh").read_bytes()), **parameters}
    before = _stack(cloudformation, name)
    if before is not None and before["StackStatus"] == "ROLLBACK_COMPLETE":
        # A first creation that failed leaves a shell that can't be updated.
        cloudformation.delete_stack(StackName=name)
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig=_STACK_PATIENCE)
        before = None
    kept = {p["ParameterKey"] for p in (before or {}).get("Parameters", [])} - set(wanted)
    request: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": template,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Parameters": [
            *({"ParameterKey": key, "ParameterValue": value} for key, value in wanted.items()),
            *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept) if f"  {key}:" in template),
        ],
        "Tags": [{"Key": "spot-relay:stage", "Value": stage}],
    }
    try:
        if before is None:
            cloudformation.create_stack(**request)
            waiter = "stack_create_complete"
        else:
            cloudformation.update_stack(**request)
            waiter = "stack_update_complete"
        cloudformation.get_waiter(waiter).wait(StackName=name, WaiterConfig=_STACK_PATIENCE)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise DeployError(f"CloudFormation refused the stack {name}: {error}") from error
    except WaiterError as error:
        raise DeployError(f"The stack {name} failed:\n{_failures(cloudformation, name)}") from error
    stack = _stack(cloudformation, name)
    outputs = {o["OutputKey"]: o["OutputValue"] for o in (stack or {}).get("Outputs", [])}
    try:
        return Resources(**{f.name: outputs[f.name] for f in fields(Resources)})
    except KeyError as error:
        raise DeployError(f"The stack {name} lacks the output {error}.") from error


def user_data(script: bytes) -> dict[str, str]:
    """The boot script as the template's parameters. Raises DeployError when EC2 would not take it."""
    if len(script) > 16 * 1024:
        raise DeployError(f"userdata/boot.sh has {len(script)} bytes; EC2 takes 16384.")
    text = base64.b64encode(script).decode()
    parts = [text[at : at + _PARAMETER_CHARACTERS] for at in range(0, len(text), _PARAMETER_CHARACTERS)]
    parts += [""] * (_USER_DATA_PARAMETERS - len(parts))
    return {f"UserData{n}": part for n, part in enumerate(parts)}


def upload_agent(s3: Any, bucket: str) -> str:
    """Put the agent under its hash, unless it is there. Gives the SHA-256, hex."""
    body, digest = bundle.build()
    try:
        s3.put_object(Bucket=bucket, Key=bundle.key(digest), Body=body, ContentType="application/zip", IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise DeployError(f"The agent can't be stored in {bucket}: {error}") from error
    return digest


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
        "POWERTOOLS_LOG_LEVEL": "INFO",
        **extra,
    }


def render_config(project: Path, stage: str, env: Mapping[str, str], role_arn: str) -> None:
    """Write the stage into `.chalice/config.json`, so that a later `chalice deploy` alone updates the code."""
    path = project / ".chalice/config.json"
    config = json.loads(path.read_text("utf-8"))
    config.setdefault("stages", {})[stage] = stage_config(role_arn) | {"environment_variables": dict(env)}
    beside = path.with_suffix(".json.tmp")
    beside.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    beside.replace(path)


def stage_config(role_arn: str) -> dict[str, Any]:
    """What `chalice deploy` needs to know of a stage beside its environment."""
    return {
        "manage_iam_role": False,
        "iam_role_arn": role_arn,
        "lambda_functions": {"sweep": {"lambda_timeout": 300}},
    }


def described(deployment: Deployment) -> dict[str, Any]:
    """A deployment in JSON types, for `--json`."""
    return {**asdict(deployment.resources), "agent_sha256": deployment.agent_sha256, "api_url": deployment.api_url}


def _stack(cloudformation: Any, name: str) -> dict[str, Any] | None:
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def _failures(cloudformation: Any, name: str) -> str:
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    failed = [e for e in events if e["ResourceStatus"].endswith("_FAILED")]
    return "\n".join(f"  {e['LogicalResourceId']}: {e.get('ResourceStatusReason', '?')}" for e in reversed(failed))


def _known_url(functions: Any, stage: str) -> str | None:
    """The API's address that the deployed functions know already."""
    try:
        found = functions.get_function_configuration(FunctionName=f"spot-relay-{stage}-sweep")
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise
    return found.get("Environment", {}).get("Variables", {}).get("API_URL") or None
