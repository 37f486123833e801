"""The command line: `spotrelay COMMAND`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from spotrelay.client import ApiRefused
from spotrelay.commands.ask import cancel, resume, suspend
from spotrelay.commands.budget import budget
from spotrelay.commands.deploy import deploy, destroy
from spotrelay.commands.doctor import doctor
from spotrelay.commands.left import logs, results
from spotrelay.commands.look import checkpoints, ledger, runs, show
from spotrelay.commands.secret import secret
from spotrelay.commands.submit import submit
from spotrelay.commands.watch import events, watch
from spotrelay.specfile import SpecFileError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spot-relay")
def main() -> None:
    """Long training jobs on EC2 Spot, within a small monthly budget."""


for each in (submit, runs, show, watch, logs, results, events, checkpoints, ledger, cancel, suspend, resume, budget):
    main.add_command(each)
for each in (deploy, destroy, doctor, secret):
    main.add_command(each)


@main.command()
@click.option("--scenario", "names", multiple=True, help="What goes wrong; may be given several times, or `all`.")
@click.option("--seed", default=1, show_default=True, help="When it goes wrong.")
@click.option("--run", "run", type=click.Path(path_type=Path), help="Your own spec (YAML) instead of the example.")
@click.option(
    "--repo", type=click.Path(path_type=Path), help="The checkout that spec belongs to; its folder if left out."
)
@click.option("--keep", is_flag=True, help="Leave everything up afterwards, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios.")
def rehearse(
    names: tuple[str, ...],
    seed: int,
    run: Path | None,
    repo: Path | None,
    keep: bool,
    as_json: bool,
    listing: bool,
) -> None:
    """Train, lose the instance, go on, and prove it: on this machine, without an AWS account."""
    from chalicelib.contracts.spec import SpecError
    from spotrelay.rehearsal.display import Display, summary
    from spotrelay.rehearsal.job import JobError
    from spotrelay.rehearsal.rehearse import Options
    from spotrelay.rehearsal.rehearse import rehearse as act
    from spotrelay.rehearsal.scenarios import SCENARIOS

    if listing:
        for scenario in SCENARIOS.values():
            click.echo(f"{scenario.name:18} {scenario.summary}")
        return
    chosen = tuple(SCENARIOS) if "all" in names else names or ("warned",)
    for name in chosen:
        if name not in SCENARIOS:
            raise click.UsageError(f"There is no scenario {name!r}; there are {', '.join(SCENARIOS)} and all.")
    signal.signal(signal.SIGTERM, _interrupted)
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=140)  # a log has no width to keep to
    try:
        with Display(console, quiet=as_json) as display:
            report = act(Options(chosen, seed, run, repo), display, _wait_for_ctrl_c(console) if keep else None)
    except (JobError, SpecFileError, SpecError, ApiRefused) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("stopped; every process that was started has been ended")
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        console.print(summary(report))
    sys.exit(0 if report["ok"] else 1)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a rehearsal as Ctrl-C does: in order."""
    raise KeyboardInterrupt


def _wait_for_ctrl_c(console: Console):  # type: ignore[no-untyped-def]
    def wait(stage) -> None:  # type: ignore[no-untyped-def]
        aws = stage.emulator
        console.print("\nEverything is left up; Ctrl-C ends it. To look around:")
        for name, value in (
            ("AWS_ENDPOINT_URL", aws.endpoint),
            ("AWS_ACCESS_KEY_ID", aws.access_key_id),
            ("AWS_SECRET_ACCESS_KEY", aws.secret_access_key),
            ("AWS_DEFAULT_REGION", aws.region),
            ("SPOT_RELAY_API", stage.api.url),
        ):
            console.print(f"  export {name}={value}", soft_wrap=True, highlight=False)
        console.print("then: .venv/bin/spotrelay runs")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.print("ending it")

    return wait


if __name__ == "__main__":
    main()
