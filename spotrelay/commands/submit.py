"""`spotrelay submit`: a spec from a file to the API, or only what it would do and cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from chalicelib.contracts import spec as specs
from spotrelay import specfile
from spotrelay.client import Client
from spotrelay.commands.api import RUN_NAME, api_options
from spotrelay.commands.shared import answers, console, json_option, print_json
from spotrelay.commands.watch import follow
from spotrelay.show import money


@click.command()
@click.argument("spec", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--plan", is_flag=True, help="Say what it would do and cost; nothing is submitted.")
@click.option("--name", type=RUN_NAME, help="Another name than the file's.")
@click.option("--watch", is_flag=True, help="Follow it to its end, as `spotrelay watch` does.")
@api_options
@json_option
def submit(api: Client, spec: Path, plan: bool, name: str | None, watch: bool, as_json: bool) -> None:
    """Submit the run that SPEC (YAML, or - for standard input) describes.

    The same spec again changes nothing; another one under the same name is refused.
    """
    document = read(spec, name)
    if plan:
        planned = api.post("runs", body=document, plan="true")
        print_json(planned) if as_json else answers().print(money.plan(planned))
        sys.exit(1 if planned["would"] == "refuse" else 0)
    is_new, run = api.create("runs", body=document)
    if watch:
        follow(api, run["name"], as_json)
    elif as_json:
        print_json(run)
    else:
        told = "Submitted" if is_new else f"There already ({run['status']}), with the same spec: nothing is changed"
        console().print(f"{told}. {run['message']}", markup=False)
        console().print(f"Next: spotrelay watch {run['name']}")


def read(path: Path, name: str | None = None) -> dict[str, Any]:
    """The spec in a file, in JSON types, under another name if one is given. Raises click.ClickException that names every
    wrong field.
    """
    try:
        given = path == Path("-")
        document = specfile.load(sys.stdin.buffer.read(), "standard input") if given else specfile.read(path)
        document |= {"name": name} if name else {}
        # Whether a path of this machine may be a repository is for the API to say: in a rehearsal it may.
        return specs.dump(specs.parse(document, allow_local=True))
    except specfile.SpecFileError as error:
        raise click.ClickException(str(error)) from error
    except specs.SpecError as error:
        lines = "\n".join(f"  {field}" for field in error.fields)
        raise click.ClickException(f"{path} is no spec of a run:\n{lines}") from error
