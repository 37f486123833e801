"""What commands that reach an AWS account share: options, clients, who we are, and errors that say what to do."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import boto3
import click
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from rich.console import Console

from spotrelay.client import ApiRefused, ApiUnreachable
from spotrelay.deploying.errors import DeployError

Command = TypeVar("Command", bound=Callable[..., Any])
STAGE = re.compile(r"[a-z][a-z0-9-]{0,19}")
_NO_CREDENTIALS = (
    "There are no AWS credentials here: run `aws configure` (or `aws sso login`), or choose a profile with --profile."
)
_EXPIRED = (
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
)
_REFUSED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError")


@dataclass(frozen=True)
class Account:
    """A session for one account, region and stage."""

    session: boto3.Session
    stage: str
    region: str
    profile: str | None = None

    def client(self, service: str) -> Any:
        made: Any = self.session
        return made.client(service, config=Config(retries={"mode": "standard", "total_max_attempts": 5}))

    def identity(self) -> tuple[str, str]:
        """The account's number and the caller's ARN."""
        answer = self.client("sts").get_caller_identity()
        return str(answer["Account"]), str(answer["Arn"])

    def environment(self) -> dict[str, str]:
        """What a process needs to reach the same account and region."""
        chosen = {"AWS_DEFAULT_REGION": self.region, "AWS_REGION": self.region}
        return chosen | ({"AWS_PROFILE": self.profile} if self.profile else {})


def account_options(command: Command) -> Command:
    """`--stage`, `--region` and `--profile`; the command is given `account: Account` instead, and its errors are told."""

    @click.option("--stage", default="dev", show_default=True, envvar="SPOT_RELAY_STAGE", help="Which deployment.")
    @click.option("--region", help="AWS region; left out: the profile's, or AWS_DEFAULT_REGION.")
    @click.option("--profile", help="Profile in ~/.aws; left out: AWS_PROFILE, or the default one.")
    @functools.wraps(command)
    def run(*args: Any, stage: str, region: str | None, profile: str | None, **options: Any) -> Any:
        with told():
            return command(*args, account=open_account(stage, region, profile), **options)

    return run  # type: ignore[return-value]


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")(
        command
    )


def open_account(stage: str, region: str | None, profile: str | None) -> Account:
    """Raises click.UsageError when a name can't be right or no region is known."""
    if not STAGE.fullmatch(stage):
        raise click.UsageError(f"--stage: {stage!r} must be 1 to 20 of a-z, 0-9 and '-', beginning with a letter.")
    session = boto3.Session(profile_name=profile, region_name=region)
    if session.region_name is None:
        raise click.UsageError("No region is chosen: give --region, such as us-east-1, or set AWS_DEFAULT_REGION.")
    return Account(session, stage, session.region_name, profile)


class told:
    """Turns what AWS, the API and our own steps complain of into one message and exit code 1; no traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        message = explain(error) if error is not None else None
        if message is not None:
            raise click.ClickException(message) from error


def explain(error: BaseException) -> str | None:
    """What to say and do about an error; None when it is not one of those that can be helped from here."""
    if isinstance(error, DeployError | ApiRefused | ApiUnreachable):
        return str(error)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return _NO_CREDENTIALS
    if isinstance(error, NoRegionError):
        return "No region is chosen: give --region, or set AWS_DEFAULT_REGION."
    if isinstance(error, ProfileNotFound):
        return f"{error}. `aws configure list-profiles` names those that there are."
    if isinstance(error, TokenRetrievalError | UnauthorizedSSOTokenError):
        return f"{error}\nLog in again: aws sso login"
    if isinstance(error, ClientError):
        return _explain_refusal(error)
    if isinstance(error, ConnectionError | HTTPClientError):
        return f"AWS can't be reached: {error}. Check the network and --region."
    if isinstance(error, BotoCoreError):
        return str(error)
    return None


def _explain_refusal(error: ClientError) -> str:
    code = error.response["Error"]["Code"]
    if code in _EXPIRED:
        return (
            f"{error}\nThe credentials have expired or are not valid: log in again (`aws sso login`, `aws configure`)."
        )
    if code in _REFUSED:
        return f"{error}\nWhoever runs this needs that permission: deploying takes an administrator of the account."
    if code in ("RequestTimeTooSkewed", "SignatureDoesNotMatch"):
        return f"{error}\nIs this machine's clock right? AWS refuses calls that are more than 5 minutes off."
    return str(error)


def console() -> Console:
    """What is said along the way: standard error, so that standard output holds nothing but what was asked for."""
    return _console(stderr=True)


def answers() -> Console:
    """What was asked for, on standard output."""
    return _console(stderr=False)


def _console(stderr: bool) -> Console:
    shown = Console(stderr=stderr, highlight=False)
    return shown if shown.is_terminal else Console(stderr=stderr, highlight=False, width=140)


def print_json(value: object, line: bool = False) -> None:
    """Indented, or on one line where more follow."""
    click.echo(json.dumps(value, indent=None if line else 1, default=str))


def is_interactive() -> bool:
    return sys.stdin.isatty()
