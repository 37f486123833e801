"""Deploying's decisions and single steps: any stack state has a way on, no bucket of others is touched, no secret is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.stub import Stubber
from click.testing import CliRunner
from moto import mock_aws

from spotrelay import secrets
from spotrelay.cli import main
from spotrelay.client import ApiRefused
from spotrelay.commands import shared
from spotrelay.deploying import bucket as buckets
from spotrelay.deploying import destroy, finish, functions, plan, settings, stack, template
from spotrelay.deploying.destroy import LiveRun
from spotrelay.deploying.errors import DeployError

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        session: Any = boto3.Session(region_name=REGION)
        yield session.client


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


# -- the way back --------------------------------------------------------------------------------------------------------

RUNNING, SUSPENDED = LiveRun("a", "RUNNING"), LiveRun("b", "SUSPENDED")


@pytest.mark.parametrize(
    ("runs", "instances", "draining", "said"),
    [
        ([], [], False, None),
        ([RUNNING], [], False, "a (RUNNING)"),
        ([SUSPENDED], [], False, "b (SUSPENDED)"),
        ([SUSPENDED], [], True, None),
        ([RUNNING], [], True, "a (RUNNING)"),
        ([LiveRun("c", destroy.UNKNOWN_STATUS)], [], True, "the API does not answer"),
        ([], ["i-2", "i-1"], True, "--instance-ids i-1 i-2"),
    ],
)
def test_nothing_is_removed_while_a_run_lives(
    runs: list[LiveRun], instances: list[str], draining: bool, said: str | None
) -> None:
    reason = destroy.refusal(runs, instances, draining)
    assert (said in reason) if said and reason else reason is said


class Api:
    """The API of a stage whose runs take two looks to be suspended."""

    def __init__(self, *names: str, slow: int = 2) -> None:
        self.left = dict.fromkeys(names, slow)
        self.asked: list[str] = []

    def get(self, *path: str) -> dict[str, str]:
        name = path[1]
        if name not in self.asked:
            return {"status": "RUNNING"}
        self.left[name] -= 1
        return {"status": "STOPPING" if self.left[name] > 0 else "SUSPENDED"}

    def post(self, *path: str) -> None:
        if path[1] == "ended":
            raise ApiRefused(409, {"message": "it ended"})
        self.asked.append(path[1])


@pytest.fixture
def stage_with_runs(aws: Callable[[str], Any]) -> Callable[[str], Any]:
    keys = [{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk", "live")]
    aws("dynamodb").create_table(
        TableName="spot-relay-dev",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=keys,
        GlobalSecondaryIndexes=[
            {
                "IndexName": "live",
                "KeySchema": [{"AttributeName": "live", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    )
    for name in ("a", "b"):
        item = {"pk": {"S": f"RUN#{name}"}, "sk": {"S": "RUN"}, "live": {"S": name}}
        aws("dynamodb").put_item(TableName="spot-relay-dev", Item=item)
    aws("dynamodb").put_item(TableName="spot-relay-dev", Item={"pk": {"S": "RUN#old"}, "sk": {"S": "RUN"}})
    return aws


def test_draining_suspends_every_run_and_waits_until_none_runs(stage_with_runs: Callable[[str], Any]) -> None:
    api: Any = Api("a", "b")
    seen: list[list[str]] = []
    destroy.drain(
        stage_with_runs,
        "dev",
        api,
        60,
        lambda runs, up: seen.append([str(r) for r in runs]),
        lambda: 0.0,
        lambda s: None,
    )
    assert api.asked == ["a", "b"]
    assert seen == [["a (STOPPING)", "b (STOPPING)"], []]


def test_draining_ends_with_what_still_runs_when_patience_does(stage_with_runs: Callable[[str], Any]) -> None:
    times = iter([0.0, 30.0, 61.0])
    api: Any = Api("a", "b", slow=100)
    with pytest.raises(DeployError, match=r"still running: a \(STOPPING\), b"):
        destroy.drain(stage_with_runs, "dev", api, 60, clock=lambda: next(times), sleep=lambda s: None)


def test_without_an_api_runs_are_named_and_nothing_can_be_drained(stage_with_runs: Callable[[str], Any]) -> None:
    assert [r.name for r in destroy.live_runs(stage_with_runs, "dev", None)] == ["a", "b"]
    with pytest.raises(DeployError, match="make doctor"):
        destroy.drain(stage_with_runs, "dev", None, 60)


def test_a_stage_without_a_table_has_no_runs(aws: Callable[[str], Any]) -> None:
    assert destroy.live_runs(aws, "nowhere", None) == []


# -- secrets -------------------------------------------------------------------------------------------------------------


def spotrelay(*arguments: str, says: str = "") -> Any:
    return CliRunner().invoke(main, [*arguments, "--region", REGION], input=says)


def test_a_secret_is_read_from_standard_input_and_never_shown(aws: Callable[[str], Any]) -> None:
    done = spotrelay("secret", "set", "github-token", says="ghp_canary\n")
    assert done.exit_code == 0, done.output
    stored = aws("ssm").get_parameter(Name="/spot-relay/dev/secrets/github-token", WithDecryption=True)["Parameter"]
    assert (stored["Value"], stored["Type"]) == ("ghp_canary", "SecureString")
    listed = spotrelay("secret", "list", "--json")
    assert [each["name"] for each in json.loads(listed.stdout)] == ["github-token"]
    assert "ghp_canary" not in done.output + listed.output + spotrelay("secret", "list").output


def test_a_secret_is_replaced_and_removed(aws: Callable[[str], Any]) -> None:
    for value in ("one", "two"):
        assert spotrelay("secret", "set", "key", says=value).exit_code == 0
    assert (
        aws("ssm").get_parameter(Name=secrets.parameter("dev", "key"), WithDecryption=True)["Parameter"]["Value"]
        == "two"
    )
    assert spotrelay("secret", "rm", "key").exit_code == 0
    gone = spotrelay("secret", "rm", "key")
    assert gone.exit_code == 1
    assert "There is no secret key" in gone.output


@pytest.mark.parametrize("name", ["", "../other", "a b", "-x", "x" * 129])
def test_a_name_that_no_spec_could_hold_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(secrets.SecretError, match="no name for a secret") as refused:
        secrets.parameter("dev", name)
    assert not name or name not in str(refused.value)


@pytest.mark.parametrize("value", ["", "x" * 4097, "a\0b"])
def test_a_value_that_can_not_be_kept_is_refused_without_repeating_it(aws: Callable[[str], Any], value: str) -> None:
    with pytest.raises(secrets.SecretError, match="The value of key has"):
        secrets.store(aws("ssm"), "dev", "key", value)


def test_one_stages_secrets_are_not_anothers(aws: Callable[[str], Any]) -> None:
    secrets.store(aws("ssm"), "dev", "key", "v")
    secrets.store(aws("ssm"), "dev-2", "other", "v")
    assert [s.name for s in secrets.listed(aws("ssm"), "dev")] == ["key"]


# -- the command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deploy", "--stage", "Dev_1"), "beginning with a letter"),
        (("deploy", "--limit", "0"), "above 0"),
        (("deploy", "--limit", "lots"), "above 0"),
        (("deploy", "--limit", "20.005"), "whole cents"),
        (("deploy", "--email", "me"), "e-mail address"),
        (("deploy", "--bucket", "No_Bucket"), "bucket's name"),
        (("deploy", "--parameter", "Nonsense=1"), "NAME is one of"),
        (("deploy", "--json"), "--yes"),
        (("destroy", "--json"), "--yes"),
    ],
)
def test_a_value_that_can_not_be_right_is_refused_before_anything_is_asked(
    arguments: tuple[str, ...], said: str
) -> None:
    done = spotrelay(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NoCredentialsError(), "aws configure"),
        (ClientError({"Error": {"Code": "ExpiredToken", "Message": "old"}}, "X"), "log in again"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "X"), "needs that permission"),
        (ClientError({"Error": {"Code": "RequestTimeTooSkewed", "Message": "no"}}, "X"), "clock"),
        (DeployError("what to do"), "what to do"),
    ],
)
def test_an_error_says_what_to_do(error: Exception, said: str) -> None:
    assert said in (shared.explain(error) or "")


def test_a_bug_of_ours_is_not_dressed_up() -> None:
    assert shared.explain(KeyError("x")) is None


def test_without_credentials_every_command_says_so_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for command in (("deploy", "--yes"), ("destroy", "--yes"), ("doctor",), ("secret", "list")):
        done = spotrelay(*command)
        assert done.exit_code == 1
        assert "There are no AWS credentials here" in done.output
    assert "names with the account's number are left open" in spotrelay("deploy", "--dry-run").output
