"""Deploying, step by step: our own resources by CloudFormation, the agent under its hash, then `chalice deploy`.

Each step can be repeated; a deploy that failed in the middle is simply run again. A rehearsal takes the same way: it only
passes its own `chalice deploy` and its own clients.

| module | what |
|---|---|
| `stack` | the CloudFormation stack, whatever state it is in |
| `bucket` | which bucket: the stack's, an adopted or a new one |
| `settings` | the functions' environment, Chalice's configuration of a stage |
| `functions`, `record` | `chalice deploy` and `delete` as a process, and its record rebuilt from the account |
| `bytecode` | what `chalicelib` compiles to, shipped with it |
| `finish` | what Chalice can't set |
| `limit` | the monthly limit of a deployment that is there already |
| `plan`, `template` | what a deploy would make, without making it |
| `destroy` | the way back |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from botocore.exceptions import ClientError

from spotrelay import bundle
from spotrelay.client import Client
from spotrelay.deploying import bucket as buckets
from spotrelay.deploying import finish
from spotrelay.deploying.errors import Clients, DeployError
from spotrelay.deploying.settings import DEFAULT_LIMIT_USD, UNKNOWN_URL, environment, render_config, stage_config
from spotrelay.deploying.stack import (
    ROOT,
    Resources,
    deploy_resources,
    parameter_values,
    settle,
    stack_name,
    user_data,
)

__all__ = [
    "ROOT",
    "ChaliceDeploy",
    "Clients",
    "DeployError",
    "Deployment",
    "Resources",
    "api_of",
    "deploy",
    "deploy_resources",
    "described",
    "environment",
    "render_config",
    "stack_name",
    "stage_config",
    "user_data",
]


class ChaliceDeploy(Protocol):
    """Runs `chalice deploy` for a stage with these settings and roles (ARN by handler).

    Gives the API's id and its URL, no slash at the end.
    """

    def __call__(self, env: Mapping[str, str], roles: Mapping[str, str]) -> tuple[str, str]: ...


@dataclass(frozen=True)
class Deployment:
    """`is_new`: there were no functions of this stage before."""

    resources: Resources
    agent_sha256: str
    api_id: str
    api_url: str
    env: Mapping[str, str]
    is_new: bool = False


def deploy(
    clients: Clients,
    stage: str,
    chalice_deploy: ChaliceDeploy,
    *,
    limit_usd: str | None = None,
    bucket: str | None = None,
    parameters: Mapping[str, str] | None = None,
    extra_env: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Deployment:
    """Everything, in order. What is not given stays as it was deployed before. Raises DeployError, ClientError.

    The API's URL is known only after `chalice deploy`, and instances must be told it: the first deploy of a stage
    therefore deploys the functions twice, later ones once.
    """
    given = dict(parameters or {})
    given.setdefault("VpcId", default_vpc(clients("ec2")))
    say("resources (CloudFormation)")
    chosen, before_values = _choose_bucket(clients, stage, bucket, say)
    given = {**chosen.parameters, **given}
    if chosen.restore:
        tls_only = {"TlsOnly": "true", **before_values, **given}["TlsOnly"] == "true"
        buckets.restore(clients("s3"), chosen.restore, tls_only)
    resources = deploy_resources(clients("cloudformation"), stage, given, say)
    say("agent")
    digest = upload_agent(clients("s3"), resources.BucketName)
    before = deployed_environment(clients("lambda"), stage)
    kept = {"MAX_OPEN_RUNS": before["MAX_OPEN_RUNS"]} if "MAX_OPEN_RUNS" in before else {}
    limit = limit_usd or before.get("LIMIT_USD") or DEFAULT_LIMIT_USD
    env = environment(stage, resources, digest, limit, {**kept, **(extra_env or {})})
    known = before.get("API_URL")
    say("functions (chalice deploy)")
    api_id, url = chalice_deploy({**env, "API_URL": known or UNKNOWN_URL}, resources.function_roles)
    if url != known:
        say("functions once more: they now know their own address")
        api_id, url = chalice_deploy({**env, "API_URL": url}, resources.function_roles)
    say("permission to call the API")
    deploy_resources(clients("cloudformation"), stage, {**given, "ApiId": api_id}, say)
    finish.complete(clients, stage, api_id, url, resources.FailedEventsArn, say)
    return Deployment(resources, digest, api_id, url, {**env, "API_URL": url}, is_new=not before)


def default_vpc(ec2: Any) -> str:
    """The default VPC's id. Raises DeployError with the command that makes one."""
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise DeployError("The region has no default VPC: make one with `aws ec2 create-default-vpc`.")
    return str(vpcs[0]["VpcId"])


def upload_agent(s3: Any, bucket: str) -> str:
    """Put the agent under its hash, unless it is there. Gives the SHA-256, hex."""
    body, digest = bundle.build()
    try:
        s3.put_object(Bucket=bucket, Key=bundle.key(digest), Body=body, ContentType="application/zip", IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
            raise DeployError(f"The agent can't be stored in {bucket}: {error}") from error
    return digest


def deployed_environment(functions: Any, stage: str) -> dict[str, str]:
    """What the deployed functions are told, by the sweep's configuration; empty when there is none."""
    try:
        found = functions.get_function_configuration(FunctionName=f"spot-relay-{stage}-sweep")
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return {}
        raise
    return dict(found.get("Environment", {}).get("Variables", {}))


def api_of(clients: Clients, session: Any, stage: str) -> Client | None:
    """The deployed API, as the functions know it; None when nothing is deployed."""
    url = deployed_environment(clients("lambda"), stage).get("API_URL")
    return Client(session, url) if url and url != UNKNOWN_URL else None


def described(deployment: Deployment) -> dict[str, Any]:
    """A deployment in JSON types, for `--json`."""
    return {**asdict(deployment.resources), "agent_sha256": deployment.agent_sha256, "api_url": deployment.api_url}


def _choose_bucket(
    clients: Clients, stage: str, wanted: str | None, say: Callable[[str], None]
) -> tuple[buckets.Choice, dict[str, str]]:
    """The choice, and the parameters of the stack that stands."""
    identity = clients("sts").get_caller_identity()
    cloudformation, s3 = clients("cloudformation"), clients("s3")
    stack = settle(cloudformation, stack_name(stage), say)
    default = buckets.default_name(stage, identity["Account"], cloudformation.meta.region_name)
    current = buckets.of_stack(stack, default)
    there = buckets.presence(s3, wanted or default, identity["Account"]) if current is None else "ours"
    chosen = buckets.choose(wanted, default, current, there)
    say(chosen.sentence)
    return chosen, parameter_values(stack)
