"""`spotrelay doctor`: the checks, and exit code 1 when one fails."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click
from botocore.exceptions import NoCredentialsError
from rich.table import Table
from rich.text import Text

from spotrelay.commands.shared import Account, account_options, answers, json_option, print_json

_SIGNS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


@click.command()
@account_options
@click.option("--online", is_flag=True, help="Ask GitHub about the token, too (read from its secret, never shown).")
@click.option("--token", metavar="NAME", help="The secret that holds the GitHub token; github-token if left out.")
@click.option("--instance-type", default="c6i.xlarge", show_default=True, help="What the Spot quota is compared with.")
@json_option
def doctor(account: Account, online: bool, token: str | None, instance_type: str, as_json: bool) -> None:
    """Find what is wrong with a deployment, and say how to mend it. Changes nothing; exits 1 when a check fails."""
    from spotrelay.doctor.gather import gather
    from spotrelay.doctor.judge import judge

    if account.session.get_credentials() is None:
        raise NoCredentialsError
    facts = gather(
        account.client,
        account.session,
        account.stage,
        account.region,
        token=token,
        instance_type=instance_type,
        online=online,
    )
    checks = judge(facts)
    failed = any(check.verdict == "fail" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for check in checks:
            # AWS's own words may have brackets in them, which rich would take for markup.
            table.add_row(_SIGNS[check.verdict], check.name, Text(check.sentence))
            if check.mend:
                table.add_row("", "", Text(f"→ {check.mend}", style="bold"))
        answers().print(table)
    sys.exit(1 if failed else 0)
