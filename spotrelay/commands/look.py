"""`spotrelay runs|show|checkpoints|ledger`: what there is, and how it stands. Nothing is changed."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from spotrelay.client import Client
from spotrelay.commands.api import api_options, pages, run_argument
from spotrelay.commands.shared import answers, console, json_option, print_json
from spotrelay.show import money
from spotrelay.show import runs as show_runs

_STATUSES = (
    "QUEUED",
    "LAUNCHING",
    "RUNNING",
    "RECOVERING",
    "STOPPING",
    "SUSPENDED",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
)


@click.command()
@click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False), help="Only those.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, the newest.")
@api_options
@json_option
def runs(api: Client, status: str | None, limit: int, as_json: bool) -> None:
    """The runs, newest first."""
    found = list(pages(api, "runs", key="runs", most=limit, status=status))
    if as_json:
        print_json(found)
    elif found:
        answers().print(show_runs.listed(found, datetime.now(UTC)))
    else:
        console().print(f"No run is {status}." if status else "No run yet: spotrelay submit run.yaml")


@click.command()
@run_argument
@api_options
@json_option
def show(api: Client, run: str, as_json: bool) -> None:
    """RUN at a glance: how far it is, what it costs, its attempts."""
    found = api.get("runs", run)
    print_json(found) if as_json else answers().print(show_runs.one(found, datetime.now(UTC)))


@click.command()
@run_argument
@api_options
@json_option
def checkpoints(api: Client, run: str, as_json: bool) -> None:
    """The whole checkpoints of RUN, newest first."""
    found = list(pages(api, "runs", run, "checkpoints", key="checkpoints"))
    if as_json:
        print_json(found)
    elif found:
        answers().print(show_runs.checkpoints(found))
    else:
        console().print(f"{run} has no whole checkpoint yet.")


@click.command()
@run_argument
@api_options
@json_option
def ledger(api: Client, run: str, as_json: bool) -> None:
    """What RUN has cost, lease by lease: seconds, rates, and where the price came from."""
    account = api.get("runs", run, "ledger")
    if cursor := account.pop("cursor"):
        account["lines"] += pages(api, "runs", run, "ledger", key="lines", cursor=cursor)
    print_json(account) if as_json else answers().print(money.ledger(account, datetime.now(UTC)))
