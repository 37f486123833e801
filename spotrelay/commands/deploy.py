"""`spotrelay deploy` and `spotrelay destroy`."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click
from botocore.exceptions import NoCredentialsError
from rich.console import Console
from rich.table import Table

from spotrelay.commands.shared import Account, account_options, answers, console, json_option, print_json

if TYPE_CHECKING:
    from spotrelay.deploying import Deployment

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _limit(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 < amount <= 10000 or amount != amount.quantize(Decimal("0.01")):
        raise click.BadParameter(f"{value!r} must be an amount in USD above 0, at most 10000 and in whole cents: 20.")
    return f"{amount.normalize():f}"


def _email(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value and not _EMAIL.fullmatch(value):
        raise click.BadParameter(f"{value!r} must be an e-mail address.")
    return value


def _bucket(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value and not _BUCKET.fullmatch(value):
        raise click.BadParameter(f"{value!r} must be a bucket's name: 3 to 63 of a-z, 0-9, '-' and '.'.")
    return value or None


def _parameters(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    from spotrelay.deploying import template

    known, given = template.load()["Parameters"], {}
    for each in values:
        name, separator, value = each.partition("=")
        if not separator or name not in known:
            raise click.BadParameter(f"{each!r} must be NAME=VALUE, where NAME is one of {', '.join(known)}.")
        given[name] = value
    return given


@click.command()
@account_options
@click.option(
    "--email", callback=_email, help="Who is told of alarms and of money; kept from the last deploy if left out."
)
@click.option("--limit", callback=_limit, help="USD a month; kept from the last deploy if left out, 20 at first.")
@click.option(
    "--max-open-runs",
    type=click.IntRange(1, 100_000),
    help="Runs without an end at a time; kept from the last deploy if left out, 100 at first.",
)
@click.option(
    "--bucket", callback=_bucket, help="The bucket's name; one that is there is used, with all that is in it."
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    callback=_parameters,
    help="NAME=VALUE for the template, such as ImageId=ami-…",
)
@click.option("--dry-run", is_flag=True, help="Print what would be made, and change nothing.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def deploy(
    account: Account,
    email: str | None,
    limit: str | None,
    max_open_runs: int | None,
    bucket: str | None,
    parameters: dict[str, str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put the controller into an AWS account, or bring it up to date.

    Can be repeated: after a failure it goes on, and with nothing new it changes nothing.
    """
    from spotrelay import deploying
    from spotrelay.client import Client
    from spotrelay.deploying import limit as limits
    from spotrelay.deploying.functions import Chalice

    if email is not None:
        parameters = {**parameters, "Email": email}
    out = console()
    if dry_run:
        _show_plan(account, bucket, limit, parameters, out, as_json)
        return
    if as_json and not yes:
        raise click.UsageError("--json asks nothing: give --yes with it.")
    number, arn = account.identity()
    out.print(f"Account {number}, as {arn}\nRegion  {account.region}\nStage   {account.stage}")
    if not yes:
        click.confirm("Deploy there?", abort=True, err=True)

    def say(text: str) -> None:
        out.print(f"· {text}")

    chalice = Chalice(account.client, deploying.ROOT, account.stage, account.environment())
    made = deploying.deploy(
        account.client,
        account.stage,
        chalice,
        limit_usd=limit,
        bucket=bucket,
        parameters=parameters,
        extra_env={"MAX_OPEN_RUNS": str(max_open_runs)} if max_open_runs else {},
        say=say,
    )
    applied = None
    if limit and not made.is_new:
        # The functions' own LIMIT_USD counts only until a limit was set once: the API knows the one that holds.
        applied = limits.apply(Client(account.session, made.api_url), limit)
    if as_json:
        told = {"limit": asdict(applied)} if applied else {}
        print_json(
            {"account": number, "region": account.region, "stage": account.stage, **deploying.described(made), **told}
        )
    else:
        out.print(f"\nDeployed. API {made.api_url}\nBucket {made.resources.BucketName}")
        out.print(applied.sentence if applied else _limit_sentence(made, limit), soft_wrap=True)
        _next(account, parameters, out)
    if applied and applied.refusal:
        sys.exit(1)


def _limit_sentence(made: Deployment, limit: str | None) -> str:
    said = f"The limit is {made.env['LIMIT_USD']} USD a month"
    return f"{said}." if limit else f"{said}, unless PUT /budget has set another."


def _next(account: Account, parameters: dict[str, str], out: Console) -> None:
    if parameters.get("Email"):
        out.print(
            f"A mail to {parameters['Email']} asks to confirm the subscription: until then nobody is told anything."
        )
    out.print(f"Next: spotrelay doctor --stage {account.stage} --region {account.region}")


def _show_plan(
    account: Account, bucket: str | None, limit: str | None, parameters: dict[str, str], out: Console, as_json: bool
) -> None:
    from spotrelay.deploying import bucket as buckets
    from spotrelay.deploying import plan

    number: str | None = None
    try:
        number, _ = account.identity()
        chosen = _look(account, number, bucket)
        name, given = chosen.name, chosen.parameters
    except NoCredentialsError:
        out.print("No AWS credentials here: names with the account's number are left open.")
        name = bucket or buckets.default_name(account.stage, plan.OPEN, account.region)
        given = {"NewBucketName": bucket or ""}
    made = plan.make(
        account.stage,
        account.region,
        number,
        (name, given),
        limit,
        parameters,
    )
    if as_json:
        print_json(made.as_json())
        return
    out = answers()
    out.print(f"Account {made.account}, region {made.region}, stage {made.stage}. Nothing is changed.\n")
    _rows(
        out,
        f"Stack {made.stack}",
        [(r.logical_id, r.kind, r.name or "", "stays" if r.retained else "") for r in made.resources],
    )
    _rows(out, "Functions", [*made.functions])
    _rows(out, "API (each route signed)", [(route,) for route in made.routes])
    _rows(out, "Settings of the functions", [*made.environment.items()])
    _rows(out, "Template parameters", [*made.parameters.items()])
    _rows(out, "Afterwards", [(each,) for each in made.after])


def _look(account: Account, number: str, wanted: str | None) -> Any:
    """Which bucket a deploy would choose, by reading only."""
    from spotrelay.deploying import bucket as buckets
    from spotrelay.deploying import stack

    found = stack.describe(account.client("cloudformation"), stack.stack_name(account.stage))
    default = buckets.default_name(account.stage, number, account.region)
    current = buckets.of_stack(found, default) if found and stack.next_step(found["StackStatus"]) == "update" else None
    there = buckets.presence(account.client("s3"), wanted or default, number) if current is None else "ours"
    return buckets.choose(wanted, default, current, there)


def _rows(out: Console, title: str, rows: list[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print()


@click.command()
@account_options
@click.option("--drain", is_flag=True, help="Suspend what runs, and wait until no instance is left.")
@click.option("--patience", default=30, show_default=True, help="Minutes to wait for that.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def destroy(account: Account, drain: bool, patience: int, yes: bool, as_json: bool) -> None:
    """Remove the controller from the account. The bucket stays, with everything in it; so do the secrets."""
    from spotrelay import deploying
    from spotrelay.deploying import destroy as way_back
    from spotrelay.deploying.functions import Chalice

    if as_json and not yes:
        raise click.UsageError("--json asks nothing: give --yes with it.")
    out = console()
    number, arn = account.identity()
    out.print(f"Account {number}, as {arn}\nRegion  {account.region}\nStage   {account.stage}")
    api = deploying.api_of(account.client, account.session, account.stage)
    if not drain:
        _refuse(account, api, draining=False)
    if not yes:
        click.confirm("Remove everything there but the bucket?", abort=True, err=True)
    if drain:
        with out.status("suspending the runs") as status:

            def progress(runs: list[way_back.LiveRun], up: list[str]) -> None:
                left = [*map(str, runs), *up]
                status.update(f"waiting for {', '.join(left)}")
                if not out.is_terminal and left:
                    out.print(f"· waiting for {', '.join(left)}")

            way_back.drain(account.client, account.stage, api, patience * 60, progress)
        _refuse(account, api, draining=True)
    chalice = Chalice(account.client, deploying.ROOT, account.stage, account.environment())
    gone = way_back.destroy(account.client, account.stage, deploying.ROOT, chalice, lambda text: out.print(f"· {text}"))
    if as_json:
        print_json({"removed": gone.removed, "left": {"bucket": gone.bucket, "secrets": gone.secrets}})
        return
    for each in gone.removed:
        out.print(f"removed {each}", soft_wrap=True)
    if not gone.removed:
        out.print("There was nothing to remove.")
    if gone.bucket:
        out.print(
            f"Left: the bucket {gone.bucket}, with everything in it. The next deploy of this stage takes it back."
        )
        out.print(f"To delete it for good: aws s3 rb --force s3://{gone.bucket} (old versions first)", soft_wrap=True)
    if gone.secrets:
        out.print(f"Left: the secrets {', '.join(gone.secrets)}; `spotrelay secret rm NAME` removes one.")


def _refuse(account: Account, api: Any, draining: bool) -> None:
    from spotrelay.deploying import destroy as way_back

    reason = way_back.refusal(
        way_back.live_runs(account.client, account.stage, api),
        way_back.instances_up(account.client, account.stage),
        draining,
    )
    if reason:
        raise click.ClickException(reason)
