"""`spotrelay secret set|list|rm`. A value comes from standard input or a hidden prompt, never from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click
from rich.table import Table

from spotrelay import secrets
from spotrelay.commands.shared import (
    Account,
    account_options,
    answers,
    console,
    is_interactive,
    json_option,
    print_json,
)

T = TypeVar("T")


@click.group()
def secret() -> None:
    """Secrets that specs name: source.token and secrets.* (SSM SecureStrings)."""


@secret.command("set")
@click.argument("name")
@account_options
def set_(account: Account, name: str) -> None:
    """Store a secret under NAME, over what was there.

    Asks for the value without showing it, or reads it from standard input: spotrelay secret set github-token < file
    """
    path = _refusing(lambda: secrets.parameter(account.stage, name))
    if is_interactive():
        value = click.prompt(f"Value of {name}", hide_input=True, err=True)
    else:
        # What echo or an editor puts at a file's end is no part of it.
        value = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    version = _refusing(lambda: secrets.store(account.client("ssm"), account.stage, name, value))
    console().print(f"Stored {path} (version {version}). A spec names it {name}.")


@secret.command("list")
@account_options
@json_option
def list_(account: Account, as_json: bool) -> None:
    """Names of the stored secrets and when they were set; never a value."""
    found = secrets.listed(account.client("ssm"), account.stage)
    if as_json:
        print_json([{"name": s.name, "changed_at": s.changed_at.isoformat(), "version": s.version} for s in found])
        return
    if not found:
        console().print(f"No secrets in stage {account.stage}: spotrelay secret set NAME stores one.")
        return
    table = Table("name", "set", "version", box=None, pad_edge=False)
    for each in found:
        table.add_row(each.name, f"{each.changed_at:%Y-%m-%d %H:%M}", str(each.version))
    answers().print(table)


@secret.command("rm")
@click.argument("name")
@account_options
def remove(account: Account, name: str) -> None:
    """Remove the secret NAME."""
    if not _refusing(lambda: secrets.remove(account.client("ssm"), account.stage, name)):
        raise click.ClickException(f"There is no secret {name} in stage {account.stage}.")
    console().print(f"Removed {name}. Runs that name it fail at their next start.")


def _refusing(act: Callable[[], T]) -> T:
    try:
        return act()
    except secrets.SecretError as error:
        raise click.ClickException(str(error)) from error
