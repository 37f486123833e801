"""What commands that call the API share: finding it, walking its pages, and running what can be asked again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.text import Text

from chalicelib.contracts.names import is_run_name
from spotrelay.client import ApiRefused, ApiUnreachable, Client
from spotrelay.commands.shared import Account, account_options
from spotrelay.deploying import api_of
from spotrelay.deploying.errors import DeployError

Command = TypeVar("Command", bound=Callable[..., Any])
_PAGE = 100


class _RunName(click.ParamType[str]):
    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_run_name(value):
            self.fail(f"{value[:100]!r} must be 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or a digit.")
        return str(value)


RUN_NAME = _RunName()


def run_argument(command: Command) -> Command:
    """The name of a run."""
    return click.argument("run", type=RUN_NAME)(command)


def api_options(command: Command) -> Command:
    """`--api` beside `account_options`; the command is given `api: Client` instead."""

    @click.option("--api", "url", envvar="SPOT_RELAY_API", help="The API's URL; left out, the account is asked for it.")
    @account_options
    @functools.wraps(command)
    def run(*args: Any, account: Account, url: str | None, **options: Any) -> Any:
        return command(*args, api=open_api(account, url), **options)

    return run  # type: ignore[return-value]


def open_api(account: Account, url: str | None) -> Client:
    """Raises click.UsageError for what is no URL, DeployError when nothing is deployed."""
    if url:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise click.UsageError(
                f"--api: {url!r} must be a URL, such as https://abc123.execute-api.us-east-1.amazonaws.com/api"
            )
        return Client(account.session, url.rstrip("/"))
    found = api_of(account.client, account.session, account.stage)
    if found is None:
        raise DeployError(
            f"Nothing is deployed as stage {account.stage} in {account.region}: `make deploy` does it; --stage and --region "
            "choose another."
        )
    return found


def pages(
    api: Client, *path: str, key: str, most: int | None = None, cursor: str | None = None, **query: str | None
) -> Iterator[dict[str, Any]]:
    """What a list has under `key`, over all its pages or those from a cursor on; at most `most`."""
    while True:
        limit = _PAGE if most is None else min(_PAGE, most)
        page = api.get(*path, limit=limit, cursor=cursor, **query)
        yield from page[key]
        cursor = page["cursor"]
        if most is not None:
            most -= len(page[key])
        if cursor is None or most == 0:
            return


@contextmanager
def patient(out: Console) -> Iterator[None]:
    """What the next look may find mended is told of, and raised no further."""
    try:
        yield
    except (ApiUnreachable, ApiRefused) as error:
        if isinstance(error, ApiRefused) and error.status < 500 and error.status != 429:
            raise
        out.print(Text(f"{error}; trying again", style="yellow"))
