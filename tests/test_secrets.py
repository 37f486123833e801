"""Stored secrets: read from standard input, kept encrypted by stage, and never shown again (I8)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from spotrelay import secrets
from tests.test_deploy_command import spotrelay


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
