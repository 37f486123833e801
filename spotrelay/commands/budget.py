"""`spotrelay budget`: the month's money, and another limit."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from spotrelay.client import Client
from spotrelay.commands.api import api_options
from spotrelay.commands.shared import answers, json_option, print_json
from spotrelay.show import money


@click.command()
@click.option(
    "--limit", metavar="USD", help="The limit of this month and of all to come; runs that wait for money go on."
)
@api_options
@json_option
def budget(api: Client, limit: str | None, as_json: bool) -> None:
    """The month's money: what is spent, reserved and free, who has it, and what the month will have cost."""
    month = api.put("budget", body={"limit_usd": limit}) if limit else api.get("budget")
    print_json(month) if as_json else answers().print(money.budget(month, datetime.now(UTC)))
