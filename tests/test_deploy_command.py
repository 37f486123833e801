"""The command line of `deploy`, `destroy`, `doctor` and `secret`: what can't be right is refused; an error says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from click.testing import CliRunner

from spotrelay.cli import main
from spotrelay.commands import shared
from spotrelay.deploying.errors import DeployError

REGION = "us-east-1"


def spotrelay(*arguments: str, says: str = "") -> Any:
    return CliRunner().invoke(main, [*arguments, "--region", REGION], input=says)


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
