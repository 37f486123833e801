"""A run reaches its own things and no other's: each way across is refused, asked of the deployed system and its permissions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from spotrelay.client import ApiRefused, Client
from spotrelay.rehearsal.stage import STAGE
from tests.deployed import Deployed

A, B = "run-a", "run-b"
BEAT = {"phase": "train", "step": 1}
EXIT = {"code": 0, "reason": "done", "message": "It ended.", "step": 1, "drained": False, "results": None}
ACTS: dict[str, dict[str, Any]] = {"claim": {"ready": False}, "heartbeat": BEAT, "exit": EXIT}
LOG_GROUP = f"/spot-relay/{STAGE}"
PATIENCE_S = 20.0


@dataclass
class Two:
    """Runs A and B, each with an instance, and what A's agent was given when it claimed."""

    deployed: Deployed
    a: str
    b: str
    claim: dict[str, Any]

    @property
    def bucket(self) -> str:
        return self.deployed.bucket

    def as_a(self, service: str) -> Any:
        """AWS with the credentials of run A."""
        return self.deployed.client(self.session, service)

    def __post_init__(self) -> None:
        given = self.claim["credentials"]
        region = self.deployed.stage.emulator.region
        self.session = boto3.Session(given["access_key_id"], given["secret_access_key"], given["session_token"], region)


@pytest.fixture(scope="module")
def two(deployed: Deployed) -> Iterator[Two]:
    ssm = deployed.stage.client("ssm")
    for name in ("named", "other"):
        ssm.put_parameter(Name=f"/spot-relay/{STAGE}/secrets/{name}", Value="canary", Type="SecureString")
    a, b = deployed.submit(A, secrets={"NAMED": "named"}), deployed.submit(B, secrets={"OTHER": "other"})
    s3 = deployed.stage.client("s3")
    for key in (f"runs/{A}/checkpoints/0001/000000000001/x", f"runs/{B}/checkpoints/0001/000000000001/x", "secret/x"):
        s3.put_object(Bucket=deployed.bucket, Key=key, Body=b"canary")
    claim = deployed.agent(a).post("attempts", A, "1", "claim", body=ACTS["claim"])
    yield Two(deployed, a, b, claim)
    for name in (A, B):
        deployed.stage.api.post("runs", name, "cancel")


def denied(code: str = "AccessDenied") -> Any:
    return pytest.raises(ClientError, match=code)


def refused(status: int, code: str | None = None) -> Any:
    def fits(error: ApiRefused) -> bool:
        return error.status == status and (code is None or error.error.get("code") == code)

    return pytest.raises(ApiRefused, check=fits)


# -- what a run's credentials reach ----------------------------------------------------------------------------------------


def test_a_run_reads_and_writes_its_own(two: Two) -> None:
    s3 = two.as_a("s3")
    key = f"runs/{A}/checkpoints/0001/000000000002/x"
    s3.put_object(Bucket=two.bucket, Key=key, Body=b"x")
    assert s3.get_object(Bucket=two.bucket, Key=key)["Body"].read() == b"x"
    assert s3.list_objects_v2(Bucket=two.bucket, Prefix=f"runs/{A}/")["KeyCount"] >= 2
    named = two.as_a("ssm").get_parameter(Name=f"/spot-relay/{STAGE}/secrets/named", WithDecryption=True)
    assert named["Parameter"]["Value"] == "canary"
    two.as_a("logs").create_log_stream(logGroupName=LOG_GROUP, logStreamName=f"{A}/0001")


def test_a_run_does_not_read_another(two: Two) -> None:
    with denied():
        two.as_a("s3").get_object(Bucket=two.bucket, Key=f"runs/{B}/checkpoints/0001/000000000001/x")


def test_a_run_does_not_read_what_else_is_in_the_bucket(two: Two) -> None:
    with denied():
        two.as_a("s3").get_object(Bucket=two.bucket, Key="secret/x")


def test_a_run_does_not_write_to_another(two: Two) -> None:
    with denied():
        two.as_a("s3").put_object(Bucket=two.bucket, Key=f"runs/{B}/checkpoints/0001/000000000002/x", Body=b"")


def test_a_run_does_not_copy_from_another(two: Two) -> None:
    source = {"Bucket": two.bucket, "Key": f"runs/{B}/checkpoints/0001/000000000001/x"}
    with denied():
        two.as_a("s3").copy_object(Bucket=two.bucket, Key=f"runs/{A}/results/0001/x", CopySource=source)


@pytest.mark.parametrize("prefix", [f"runs/{B}/", "runs/", ""])
def test_a_run_does_not_list_another(two: Two, prefix: str) -> None:
    with denied():
        two.as_a("s3").list_objects_v2(Bucket=two.bucket, Prefix=prefix)


@pytest.mark.parametrize("folder", ["checkpoints", "results", "logs"])
def test_an_attempt_does_not_write_under_another_attempts_number(two: Two, folder: str) -> None:
    with denied():
        two.as_a("s3").put_object(Bucket=two.bucket, Key=f"runs/{A}/{folder}/0002/x", Body=b"")


def test_a_run_deletes_nothing_not_even_its_own(two: Two) -> None:
    with denied():
        two.as_a("s3").delete_object(Bucket=two.bucket, Key=f"runs/{A}/checkpoints/0001/000000000001/x")


def test_a_run_does_not_write_into_another_log(two: Two) -> None:
    with denied():
        two.as_a("logs").create_log_stream(logGroupName=LOG_GROUP, logStreamName=f"{B}/0001")


def test_a_run_does_not_read_a_secret_that_its_spec_does_not_name(two: Two) -> None:
    with denied():
        two.as_a("ssm").get_parameter(Name=f"/spot-relay/{STAGE}/secrets/other", WithDecryption=True)


def test_a_runs_credentials_call_no_route(two: Two) -> None:
    for path in (("runs",), ("runs", A)):
        with refused(403):
            two.deployed.api(two.session).get(*path)
    with refused(403):
        two.deployed.api(two.session).post("attempts", A, "1", "heartbeat", body=BEAT)


# -- what an instance's own role reaches -------------------------------------------------------------------------------------


def test_an_instance_fetches_the_agent_and_nothing_else_of_the_bucket(two: Two) -> None:
    s3 = two.deployed.client(two.deployed.role("instance", two.a), "s3")
    s3.get_object(Bucket=two.bucket, Key=f"agent/{two.deployed.stage.deployment.agent_sha256}.zip")
    for ask in (
        lambda: s3.get_object(Bucket=two.bucket, Key=f"runs/{A}/checkpoints/0001/000000000001/x"),
        lambda: s3.put_object(Bucket=two.bucket, Key="agent/other.zip", Body=b""),
        lambda: s3.list_objects_v2(Bucket=two.bucket, Prefix="agent/"),
    ):
        with denied():
            ask()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", ("runs",)),
        ("get", ("runs", A)),
        ("get", ("budget",)),
        ("post", ("runs",)),
        ("post", ("runs", A, "cancel")),
    ],
)
def test_an_agent_calls_no_route_of_people(two: Two, method: str, path: tuple[str, ...]) -> None:
    with refused(403):
        getattr(two.deployed.agent(two.a), method)(*path)


@pytest.mark.parametrize("act", ACTS)
def test_an_instance_does_not_act_for_another_run(two: Two, act: str) -> None:
    with refused(403, "not_your_attempt"):
        two.deployed.agent(two.a).post("attempts", B, "1", act, body=ACTS[act])


@pytest.mark.parametrize("act", ACTS)
def test_an_instance_that_nobody_launched_acts_for_no_run(two: Two, act: str) -> None:
    with refused(403, "not_your_attempt"):
        two.deployed.agent("i-0123456789abcdef0").post("attempts", A, "1", act, body=ACTS[act])


@pytest.mark.parametrize("act", ACTS)
def test_a_person_does_not_act_for_an_instance(two: Two, act: str) -> None:
    with refused(403, "not_an_instance"):
        person(two).post("attempts", A, "1", act, body=ACTS[act])


@pytest.mark.parametrize("act", ACTS)
def test_another_role_that_is_named_like_an_instance_is_none(two: Two, act: str) -> None:
    with refused(403, "not_an_instance"):
        person(two, session=two.a).post("attempts", A, "1", act, body=ACTS[act])


@pytest.mark.parametrize("act", ACTS)
def test_an_old_attempt_does_not_act_for_its_successor(two: Two, act: str) -> None:
    successor = replaced(two)
    assert successor != two.b
    with refused(403, "not_your_attempt"):
        two.deployed.agent(two.b).post("attempts", B, "2", act, body=ACTS[act])


def replaced(two: Two) -> str:
    """The instance of B's second attempt, after EC2 took the first's."""
    deployed = two.deployed
    deployed.stage.control.kill(two.b)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        attempts = deployed.stage.api.get("runs", B)["attempts"]
        if len(attempts) > 1 and attempts[1]["instance_id"]:
            return str(attempts[1]["instance_id"])
        time.sleep(0.1)
    raise AssertionError("B has no second attempt")


def person(two: Two, session: str = "somebody") -> Client:
    """Somebody who may call every route."""
    stage = two.deployed.stage
    iam, name = stage.client("iam"), "person"
    if not any(role["RoleName"] == name for role in iam.list_roles()["Roles"]):
        trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{stage.emulator.account_id}:root"},
                 "Action": "sts:AssumeRole"}  # fmt: skip
        allowed = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps({"Statement": [allowed]}))
    role = f"arn:aws:iam::{stage.emulator.account_id}:role/{name}"
    given = stage.client("sts").assume_role(RoleArn=role, RoleSessionName=session)["Credentials"]
    keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return two.deployed.api(boto3.Session(*keys, stage.emulator.region))
