"""The rehearsal's AWS: what is deployed runs, and what AWS would refuse is refused."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from spotrelay.rehearsal import ministack_checks
from spotrelay.rehearsal.emulator import DeployedApi, Emulator, EmulatorError, group_members

PROJECT = Path(__file__).parent / "deployable"
REGION = "us-east-1"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **each} for each in statements]})


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:123456789012:{resource}"


def create_role(emulator: Emulator, name: str, trusted: dict[str, str], document: str) -> str:
    iam = emulator.client("iam")
    trust = policy({"Principal": trusted, "Action": ["sts:AssumeRole", "sts:TagSession"]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document)
    return str(role["Arn"])


def assume(emulator: Emulator, name: str, document: str, **extra: Any) -> boto3.Session:
    role = create_role(emulator, name, {"AWS": "arn:aws:iam::123456789012:root"}, document)
    given = emulator.client("sts").assume_role(RoleArn=role, RoleSessionName=name, **extra)["Credentials"]
    return boto3.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], REGION)


def call(url: str, session: boto3.Session | None = None) -> tuple[int, dict[str, Any]]:
    request = AWSRequest("GET", url)
    if session is not None:
        keys = session.get_credentials()
        signer = SigV4Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "execute-api", REGION)
        signer.add_auth(request)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(request.headers)), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read() or b"{}")


def state_change(instance: str, **detail: Any) -> dict[str, str]:
    body = {"instance-id": instance, "state": "terminated", **detail}
    return {
        "Source": "aws.ec2",
        "DetailType": "EC2 Instance State-change Notification",
        "Detail": json.dumps(body),
    }


def attempts_noted(emulator: Emulator, instance: str, at_least: int, timeout: float = 10) -> int:
    deadline, noted = time.monotonic() + timeout, 0
    while noted < at_least and time.monotonic() < deadline:
        key = {"pk": {"S": f"{instance}/terminated"}}
        item = emulator.client("dynamodb").get_item(TableName="noted", Key=key).get("Item")
        noted = int(item["attempts"]["N"]) if item else 0
        time.sleep(0.1)
    return noted


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


@pytest.fixture(scope="module")
def ec2_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def emulator(ec2_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(region=REGION).start(tmp_path_factory.mktemp("emulator"), ec2_endpoint) as running:
        running.client("dynamodb").create_table(
            TableName="noted",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield running


def deploy(emulator: Emulator, stage_name: str) -> DeployedApi:
    role = "arn:aws:iam::123456789012:role/deployable"
    env = {"STAGE_NAME": stage_name, "TABLE": "noted"}
    return emulator.chalice_deploy(PROJECT, "test", env, stage_config={"iam_role_arn": role})


@pytest.fixture(scope="module")
def api(emulator: Emulator) -> DeployedApi:
    allowed = {"Action": "dynamodb:UpdateItem", "Resource": arn("dynamodb", "table/noted")}
    create_role(emulator, "deployable", {"Service": "lambda.amazonaws.com"}, policy(allowed))
    return deploy(emulator, "first")


@pytest.fixture(scope="module")
def caller(emulator: Emulator, api: DeployedApi) -> boto3.Session:
    allowed = {"Action": "execute-api:Invoke", "Resource": arn("execute-api", f"{api.api_id}/api/GET/who")}
    return assume(emulator, "caller", policy(allowed, {"Action": "events:PutEvents", "Resource": "*"}))


def test_a_signed_call_names_its_caller(api: DeployedApi, caller: boto3.Session) -> None:
    status, body = call(f"{api.url}/who", caller)
    assert (status, body["caller"]) == (200, "arn:aws:sts::123456789012:assumed-role/caller/caller")
    assert body["stage"] == "first"


def test_an_unsigned_or_unauthorized_call_is_refused(emulator: Emulator, api: DeployedApi) -> None:
    stranger = assume(emulator, "stranger", policy({"Action": "s3:ListBucket", "Resource": "*"}))
    assert call(f"{api.url}/who")[0] == 403
    assert call(f"{api.url}/who", stranger)[0] == 403


def test_the_hosts_event_reaches_the_function(emulator: Emulator, api: DeployedApi) -> None:
    host = emulator.client("events", as_ec2_host=True)
    assert host.put_events(Entries=[state_change("i-1")])["FailedEntryCount"] == 0
    assert attempts_noted(emulator, "i-1", 1) == 1


def test_nobody_else_may_send_events_of_aws(emulator: Emulator, api: DeployedApi, caller: boto3.Session) -> None:
    for client in (emulator.client("events"), caller.client("events", endpoint_url=emulator.endpoint)):
        answer = client.put_events(Entries=[state_change("i-2")])
        assert answer["Entries"][0]["ErrorCode"] == "NotAuthorizedForSourceException"
    assert attempts_noted(emulator, "i-2", 1, timeout=1) == 0


def test_a_failed_event_is_tried_again(emulator: Emulator, api: DeployedApi) -> None:
    emulator.client("events", as_ec2_host=True).put_events(Entries=[state_change("i-3", fail_first=True)])
    assert attempts_noted(emulator, "i-3", 2) == 2


def test_a_redeploy_keeps_the_api_and_updates_it(emulator: Emulator, api: DeployedApi, caller: boto3.Session) -> None:
    started = time.monotonic()
    assert deploy(emulator, "second") == api
    assert time.monotonic() - started < 15  # 40 s and more while boto's waiters have to wait for a function
    assert call(f"{api.url}/who", caller)[1]["stage"] == "second"
    assert not (PROJECT / ".chalice" / "deployed").exists()
    assert not (PROJECT / ".chalice" / "deployments").exists()


def test_policy_variables_and_leading_keys(emulator: Emulator) -> None:
    table = {"TableName": "noted"}
    emulator.client("ssm").put_parameter(Name="/own/a/x", Value="1", Type="String")
    emulator.client("ssm").put_parameter(Name="/other/y", Value="2", Type="String")
    emulator.client("s3").create_bucket(Bucket="runs")
    emulator.client("dynamodb").put_item(**table, Item={"pk": {"S": "RUN#a"}})
    document = policy(
        {"Action": "s3:PutObject", "Resource": "arn:aws:s3:::runs/${aws:PrincipalTag/run}/*"},
        {
            "Action": "dynamodb:*",
            "Resource": arn("dynamodb", "table/noted"),
            "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["RUN#${aws:PrincipalTag/run}"]}},
        },
        {"Action": "ssm:GetParameter*", "Resource": arn("ssm", "parameter/own/*")},
    )
    session = assume(emulator, "agent", document, Tags=[{"Key": "run", "Value": "a"}])
    s3, dynamodb, ssm = (
        session.client(name, endpoint_url=emulator.endpoint)  # type: ignore[call-overload]
        for name in ("s3", "dynamodb", "ssm")
    )

    s3.put_object(Bucket="runs", Key="a/x", Body=b"")
    with refused("AccessDenied"):
        s3.put_object(Bucket="runs", Key="b/x", Body=b"")

    def query(key: str) -> Any:
        values = {":pk": {"S": key}}
        return dynamodb.query(**table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues=values)

    def write(key: str) -> Any:
        put = {"Put": {**table, "Item": {"pk": {"S": key}}}}
        return dynamodb.transact_write_items(TransactItems=[put])

    assert dynamodb.get_item(**table, Key={"pk": {"S": "RUN#a"}})["Item"]
    assert query("RUN#a")["Count"] == 1
    write("RUN#a")
    for attempt in (query, write, lambda key: dynamodb.get_item(**table, Key={"pk": {"S": key}})):
        with refused("AccessDenied"):
            attempt("RUN#b")
    with refused("AccessDenied"):
        dynamodb.execute_statement(Statement="SELECT * FROM noted")

    assert ssm.get_parameters_by_path(Path="/own/a")["Parameters"][0]["Value"] == "1"
    assert ssm.get_parameters(Names=["/own/a/x"])["Parameters"][0]["Value"] == "1"
    with refused("AccessDenied"):
        ssm.get_parameters_by_path(Path="/other")
    with refused("AccessDenied"):
        ssm.get_parameters(Names=["/own/a/x", "/other/y"])


def test_ec2_is_the_hosts_with_tags_that_decide(emulator: Emulator) -> None:
    ec2 = emulator.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    mine, other = (
        ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "spot-relay:stage", "Value": stage}]}],
        )["Instances"][0]["InstanceId"]
        for stage in ("mine", "other")
    )
    tagged = {"StringEquals": {"aws:ResourceTag/spot-relay:stage": "mine"}}
    document = policy({"Action": "ec2:TerminateInstances", "Resource": arn("ec2", "instance/*"), "Condition": tagged})
    client = assume(emulator, "ender", document).client("ec2", endpoint_url=emulator.endpoint)
    for instances in ([other], [mine, other]):
        with refused("UnauthorizedOperation"):
            client.terminate_instances(InstanceIds=instances)
    client.terminate_instances(InstanceIds=[mine])
    with refused("UnauthorizedOperation"):
        client.describe_instances()


def test_nothing_is_left_after_stop(ec2_endpoint: str, tmp_path: Path) -> None:
    emulator = Emulator(region=REGION).start(tmp_path, ec2_endpoint)
    role = create_role(
        emulator, "deployable", {"Service": "lambda.amazonaws.com"}, policy({"Action": "s3:*", "Resource": "*"})
    )
    api = emulator.chalice_deploy(PROJECT, "left", {"TABLE": "none"}, stage_config={"iam_role_arn": role})
    assert call(f"{api.url}/who", emulator.session())[0] == 200
    group = emulator.process_group
    assert group is not None
    assert len(group_members(group)) >= 2  # the server and a function
    emulator.stop()
    assert group_members(group) == []
    with pytest.raises(EmulatorError, match="not running"):
        _ = emulator.endpoint


def test_it_ends_when_the_starting_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal; from spotrelay.rehearsal.emulator import Emulator; "
        f"e = Emulator().start(pathlib.Path({str(tmp_path)!r}), 'http://127.0.0.1:9'); "
        "print(e.process_group, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    printed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30).stdout
    deadline = time.monotonic() + 10
    while group_members(int(printed)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_members(int(printed)) == []


def test_a_server_that_dies_says_why(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match=r"(?s)ended with 1.*no such thing"):
        Emulator().start(tmp_path, "http://127.0.0.1:9", env={"PYTHONPATH": str(broken(tmp_path))})


def broken(folder: Path) -> Path:
    (folder / "ministack").mkdir()
    (folder / "ministack" / "__init__.py").write_text("raise RuntimeError('no such thing')")
    return folder


def test_another_ministack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.9.9")
    with pytest.raises(ministack_checks.PatchMismatch, match=r"ministack 9\.9\.9 .* version 1\.5\.33"):
        ministack_checks.require_pinned_version()
    module = SimpleNamespace(__name__="m", f=lambda a, b: None)
    with pytest.raises(ministack_checks.PatchMismatch, match=r"expected m\.f\(a, c\)"):
        ministack_checks.require_function(module, "f", "a c")
