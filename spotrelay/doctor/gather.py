"""Ask AWS for the facts. Only reads; what is refused becomes `Unknown` with AWS's reason, and the rest is asked all the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from spotrelay import bundle, secrets
from spotrelay.deploying import application, finish, stack
from spotrelay.deploying.errors import Clients
from spotrelay.doctor import deployed, github
from spotrelay.doctor.facts import (
    Facts,
    Identity,
    Known,
    Mail,
    Network,
    Quota,
    Stack,
    Table,
    Token,
    Unknown,
)

T = TypeVar("T")
DEFAULT_TOKEN = "github-token"
DEFAULT_TYPE = "c6i.xlarge"
SPOT_QUOTA = "L-34B43A08"
_ABSENT = "there is no stack"


def gather(
    clients: Clients,
    session: Any,
    stage: str,
    region: str,
    *,
    token: str | None = None,
    instance_type: str = DEFAULT_TYPE,
    online: bool = False,
) -> Facts:
    """Everything. Raises only when not even credentials are there; `online` asks GitHub about the token, too."""
    now = datetime.now(UTC)
    identity = _asked(lambda: _identity(clients("sts"), now))
    described = _asked(lambda: _stack(clients("cloudformation"), stage))
    there = described if isinstance(described, Stack) else None
    outputs = there.outputs if there else {}
    functions = _asked(lambda: deployed.functions(clients, stage))
    digest = bundle.build()[1]
    bucket = outputs.get("BucketName")
    return Facts(
        stage=stage,
        region=region,
        now=now,
        agent_sha256=digest,
        handlers=tuple(f.handler for f in application.functions()),
        identity=identity,
        stack=described,
        network=_asked(lambda: _network(clients("ec2"))),
        image=_asked(lambda: _image(clients, there)),
        table=_asked(lambda: _table(clients("dynamodb"), f"spot-relay-{stage}")),
        bucket=_asked(lambda: deployed.bucket(clients("s3"), bucket, digest)) if bucket else Unknown(_ABSENT),
        functions=functions,
        api=_asked(lambda: deployed.api(clients, session, stage, functions)),
        sweep=_asked(lambda: deployed.sweep(clients, stage, now)),
        token=_asked(lambda: _token(clients("ssm"), stage, token, online)),
        mail=_asked(lambda: _mail(clients("sns"), outputs.get("TopicArn"))),
        quota=_asked(lambda: _quota(clients, instance_type)),
        spot_role=_asked(lambda: _spot_role(clients("iam"))),
    )


def _asked(ask: Callable[[], T]) -> Known[T]:
    try:
        return ask()
    except ClientError as error:
        said = error.response.get("Error", {})
        return Unknown(f"{error.operation_name}: {said.get('Message') or said.get('Code')}")
    except BotoCoreError as error:
        return Unknown(str(error))


def _identity(sts: Any, now: datetime) -> Identity:
    answer = sts.get_caller_identity()
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    skew = (now - parsedate_to_datetime(date)).total_seconds() if date else None
    return Identity(answer["Account"], answer["Arn"], skew)


def _stack(cloudformation: Any, stage: str) -> Stack | None:
    name = stack.stack_name(stage)
    found = stack.describe(cloudformation, name)
    if found is None:
        return None
    status = found["StackStatus"]
    healthy = status.endswith("_COMPLETE") and "ROLLBACK" not in status
    return Stack(
        status=status,
        failures="" if healthy else stack.failures(cloudformation, name),
        parameters=stack.parameter_values(found),
        outputs={o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", [])},
    )


def _network(ec2: Any) -> Network:
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        return Network(None, ())
    vpc = vpcs[0]["VpcId"]
    filters = [{"Name": "default-for-az", "Values": ["true"]}, {"Name": "vpc-id", "Values": [vpc]}]
    subnets = ec2.describe_subnets(Filters=filters)["Subnets"]
    return Network(vpc, tuple(sorted(s["AvailabilityZone"] for s in subnets)))


def _image(clients: Clients, described: Stack | None) -> str:
    """The AMI's id, or "" when what the stack names gives none."""
    from spotrelay.deploying import template

    named = (described.parameters.get("ImageId") if described else None) or template.defaults(template.load())[
        "ImageId"
    ]
    if named.startswith("resolve:ssm:"):
        try:
            return str(clients("ssm").get_parameter(Name=named.removeprefix("resolve:ssm:"))["Parameter"]["Value"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "ParameterNotFound":
                return ""
            raise
    try:
        images = clients("ec2").describe_images(ImageIds=[named])["Images"]
    except ClientError as error:
        if error.response["Error"]["Code"].startswith("InvalidAMIID"):
            return ""
        raise
    return str(images[0]["ImageId"]) if images else ""


def _table(dynamodb: Any, name: str) -> Table:
    try:
        status = dynamodb.describe_table(TableName=name)["Table"]["TableStatus"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return Table(name, None, False)
        raise
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    recovery = backups.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus")
    return Table(name, status, recovery == "ENABLED")


def _token(ssm: Any, stage: str, named: str | None, online: bool) -> Token:
    name = named or DEFAULT_TOKEN
    stored = name in {each.name for each in secrets.listed(ssm, stage)}
    if not stored or not online:
        return Token(name, stored, named is not None)
    value = ssm.get_parameter(Name=secrets.parameter(stage, name), WithDecryption=True)["Parameter"]["Value"]
    answer = github.ask(value)
    return Token(name, True, named is not None, answer.asked, answer.valid, answer.expires_at)


def _mail(sns: Any, topic: str | None) -> Mail | None:
    """None when there is no topic."""
    if topic is None:
        return None
    confirmed: list[str] = []
    pending: list[str] = []
    for page in sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic):
        for each in page["Subscriptions"]:
            waits = not each["SubscriptionArn"].startswith("arn:")  # "PendingConfirmation"
            (pending if waits else confirmed).append(each["Endpoint"])
    return Mail(tuple(confirmed), tuple(pending))


def _quota(clients: Clients, instance_type: str) -> Quota:
    described = clients("ec2").describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"][0]
    quota = clients("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=SPOT_QUOTA)["Quota"]
    return Quota(float(quota["Value"]), instance_type, int(described["VCpuInfo"]["DefaultVCpus"]))


def _spot_role(iam: Any) -> bool:
    return bool(iam.list_roles(PathPrefix=f"/aws-service-role/{finish.SPOT_SERVICE}/")["Roles"])
