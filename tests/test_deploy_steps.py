"""Deploying's decisions and single steps: any stack state has a way on, no bucket of others is touched, no secret is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from spotrelay.deploying import bucket as buckets
from spotrelay.deploying import finish, functions, plan, settings, stack, template
from spotrelay.deploying.errors import DeployError

ACCOUNT, REGION = "123456789012", "us-east-1"


# -- the stack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (None, "create"),
        ("DELETE_COMPLETE", "create"),
        ("CREATE_COMPLETE", "update"),
        ("UPDATE_COMPLETE", "update"),
        ("UPDATE_ROLLBACK_COMPLETE", "update"),
        ("UPDATE_FAILED", "update"),
        ("CREATE_IN_PROGRESS", "wait"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait"),
        ("ROLLBACK_IN_PROGRESS", "wait"),
        ("REVIEW_IN_PROGRESS", "delete"),
        ("ROLLBACK_COMPLETE", "delete"),
        ("ROLLBACK_FAILED", "delete"),
        ("CREATE_FAILED", "delete"),
        ("DELETE_FAILED", "delete"),
        ("UPDATE_ROLLBACK_FAILED", "continue_rollback"),
    ],
)
def test_every_state_of_a_stack_has_a_way_on(status: str | None, step: str) -> None:
    assert stack.next_step(status) == step


def described(status: str) -> dict[str, Any]:
    return {"Stacks": [{"StackName": "s", "CreationTime": "2026-01-01T00:00:00Z", "StackStatus": status}]}


def event(resource: str, status: str, reason: str = "") -> dict[str, Any]:
    return {
        "StackId": "id",
        "EventId": f"{resource}{status}",
        "StackName": "s",
        "LogicalResourceId": resource,
        "PhysicalResourceId": "id" if resource == "s" else resource,
        "Timestamp": "2026-01-01T00:00:00Z",
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
    }


@pytest.fixture
def cloudformation() -> Iterator[tuple[Any, Stubber]]:
    client: Any = boto3.client("cloudformation", REGION, aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def test_a_rollback_that_got_stuck_is_continued_before_the_update(cloudformation: tuple[Any, Stubber]) -> None:
    client, stub = cloudformation
    stub.add_response("describe_stacks", described("UPDATE_ROLLBACK_FAILED"))
    stub.add_response("continue_update_rollback", {}, {"StackName": "s"})
    stub.add_response("describe_stacks", described("UPDATE_ROLLBACK_COMPLETE"))
    stub.add_response("describe_stacks", described("UPDATE_ROLLBACK_COMPLETE"))
    settled = stack.settle(client, "s")
    assert settled is not None
    assert settled["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"


def test_the_shell_of_a_failed_creation_is_removed(cloudformation: tuple[Any, Stubber]) -> None:
    client, stub = cloudformation
    stub.add_response("describe_stacks", described("ROLLBACK_COMPLETE"))
    stub.add_response("delete_stack", {}, {"StackName": "s"})
    stub.add_response("describe_stacks", described("DELETE_COMPLETE"))
    stub.add_response("describe_stacks", described("DELETE_COMPLETE"))
    assert stack.settle(client, "s") is None


def test_only_the_last_operations_failures_are_told(cloudformation: tuple[Any, Stubber]) -> None:
    client, stub = cloudformation
    events = [
        event("s", "UPDATE_ROLLBACK_COMPLETE"),
        event("Topic", "UPDATE_FAILED", "cancelled"),
        event("Table", "UPDATE_FAILED", "too many indexes"),
        event("s", "UPDATE_IN_PROGRESS"),
        event("Bucket", "CREATE_FAILED", "of last month"),
    ]
    stub.add_response("describe_stack_events", {"StackEvents": events})
    assert stack.failures(client, "s") == "  Table: too many indexes\n  Topic: cancelled"


def test_a_stack_of_an_older_template_asks_for_a_deploy() -> None:
    with pytest.raises(DeployError, match=r"lacks the output .*make deploy"):
        stack.outputs({"Outputs": []}, "s")


# -- the bucket ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "current", "there", "name", "parameters", "restored"),
    [
        (None, None, "absent", "std", {"BucketName": "", "NewBucketName": ""}, None),
        ("mine", None, "absent", "mine", {"BucketName": "", "NewBucketName": "mine"}, None),
        (None, None, "ours", "std", {"BucketName": "std", "NewBucketName": ""}, "std"),
        ("mine", None, "ours", "mine", {"BucketName": "mine", "NewBucketName": ""}, None),
        (None, "old", "ours", "old", {}, None),
        (None, "std", "ours", "std", {}, "std"),
        ("old", "old", "ours", "old", {}, None),
    ],
)
def test_a_bucket_is_made_named_adopted_or_kept(
    wanted: str | None,
    current: str | None,
    there: buckets.Presence,
    name: str,
    parameters: dict[str, str],
    restored: str | None,
) -> None:
    chosen = buckets.choose(wanted, "std", current, there)
    assert (chosen.name, chosen.parameters, chosen.restore) == (name, parameters, restored)


def test_another_bucket_for_a_stage_that_has_one_is_refused() -> None:
    with pytest.raises(DeployError, match="keeps its runs in old"):
        buckets.choose("new", "std", "old", "ours")


def test_a_bucket_of_another_account_is_refused() -> None:
    s3: Any = boto3.client("s3", REGION, aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(s3) as stub:
        for status in (403, 301, 404):
            asked = {"Bucket": "taken", "ExpectedBucketOwner": ACCOUNT}
            stub.add_client_error("head_bucket", str(status), http_status_code=status, expected_params=asked)
        found = [buckets.presence(s3, "taken", ACCOUNT) for _ in range(3)]
    assert found == ["foreign", "foreign", "absent"]
    with pytest.raises(DeployError, match="BUCKET="):
        buckets.choose("taken", "std", None, "foreign")


def test_a_bucket_that_is_taken_back_gets_the_templates_settings(aws: Callable[[str], Any]) -> None:
    s3 = aws("s3")
    s3.create_bucket(Bucket="std")
    buckets.restore(s3, "std", tls_only=True)
    ours = template.load()["Resources"]
    wanted = ours["Bucket"]["Properties"]
    assert (
        s3.get_public_access_block(Bucket="std")["PublicAccessBlockConfiguration"]
        == wanted["PublicAccessBlockConfiguration"]
    )
    assert s3.get_bucket_versioning(Bucket="std")["Status"] == wanted["VersioningConfiguration"]["Status"]
    made = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket="std")["Rules"]}
    for rule in wanted["LifecycleConfiguration"]["Rules"]:
        for key, value in rule.items():
            assert made[rule["Id"]]["ID" if key == "Id" else key] == value
    (statement,) = ours["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (set_,) = json.loads(s3.get_bucket_policy(Bucket="std")["Policy"])["Statement"]
    assert {k: v for k, v in set_.items() if k != "Resource"} == {k: v for k, v in statement.items() if k != "Resource"}


# -- what Chalice can't set ------------------------------------------------------------------------------------------------


def iam_that_refuses(code: str, message: str) -> Any:
    client: Any = boto3.client("iam", REGION, aws_access_key_id="a", aws_secret_access_key="b")
    stub = Stubber(client)
    stub.add_client_error("create_service_linked_role", code, message)
    stub.activate()
    return client


def test_the_spot_role_may_be_there_already() -> None:
    finish.spot_role(iam_that_refuses("InvalidInput", "Service role name X has been taken in this account, please try"))


def test_whoever_may_not_make_the_spot_role_is_told_the_command() -> None:
    with pytest.raises(DeployError, match="aws iam create-service-linked-role"):
        finish.spot_role(iam_that_refuses("AccessDenied", "no"))


@pytest.mark.parametrize(
    ("url", "api_id"),
    [
        ("https://abc.execute-api.eu-west-1.amazonaws.com/api", "abc"),
        ("http://127.0.0.1:4566/_aws/execute-api/abc/api", "abc"),
        (settings.UNKNOWN_URL, None),
    ],
)
def test_an_apis_id_is_read_from_its_address(url: str, api_id: str | None) -> None:
    assert functions.api_id_in(url) == api_id


def test_a_stage_that_is_gone_is_forgotten_beside_others(tmp_path: Path) -> None:
    (tmp_path / ".chalice").mkdir()
    path = tmp_path / ".chalice/config.json"
    path.write_text(json.dumps({"stages": {"prod": {}, "dev": {}}}))
    settings.forget_stage(tmp_path, "dev")
    assert json.loads(path.read_text()) == {"stages": {"prod": {}}}


# -- the plan ------------------------------------------------------------------------------------------------------------


def test_a_plan_names_what_would_be_made_and_leaves_out_what_would_not() -> None:
    made = plan.make("dev", REGION, None, ("b", {"BucketName": "b"}), "20", {})
    kinds = {r.logical_id: r for r in made.resources}
    assert "Bucket" not in kinds, "one that is adopted is not made"
    assert "MailToPerson" not in kinds, "without an address nobody is told"
    assert kinds["Table"].name == "spot-relay-dev"
    assert "Bucket" in {r.logical_id for r in plan.make("dev", REGION, ACCOUNT, ("b", {}), "20", {}).resources}
    assert set(settings.SETTINGS) <= set(made.environment)
    assert "POST /runs" in made.routes
