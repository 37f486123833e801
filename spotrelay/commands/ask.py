"""`spotrelay cancel|suspend|resume`: what a person asks of a run. Asking again for what is so already changes nothing."""

from __future__ import annotations

from typing import Any

import click

from spotrelay.client import Client
from spotrelay.commands.api import api_options, run_argument
from spotrelay.commands.shared import console, json_option, print_json


@click.command()
@run_argument
@api_options
@json_option
def cancel(api: Client, run: str, as_json: bool) -> None:
    """End RUN for good. What it has published stays in the bucket."""
    _told(api.post("runs", run, "cancel"), as_json)


@click.command()
@run_argument
@api_options
@json_option
def suspend(api: Client, run: str, as_json: bool) -> None:
    """Have RUN save and power off; `spotrelay resume` has it go on from there."""
    _told(api.post("runs", run, "suspend"), as_json)


@click.command()
@run_argument
@click.option("--cost-usd", metavar="USD", help="What RUN may cost from now on: limits.cost_usd, raised.")
@api_options
@json_option
def resume(api: Client, run: str, cost_usd: str | None, as_json: bool) -> None:
    """Have a suspended RUN go on from its newest whole checkpoint."""
    _told(api.post("runs", run, "resume", body={"cost_usd": cost_usd} if cost_usd else {}), as_json)


def _told(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        console().print(f"{run['name']} is {run['status']}. {run['message']}", markup=False, soft_wrap=True)
