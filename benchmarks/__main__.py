"""`python -m benchmarks`: numbers reached beside numbers wanted, as a table and as JSON. A report: what is missed is no error.

Nothing is asked of AWS: moto or the rehearsal's emulator stand for it on loopback. What is timed is compared with something
that is timed in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import costs, months, passes, publishing, rehearsed, shipped
from benchmarks.figure import Figure

PARTS: dict[str, Callable[[bool], list[Figure]]] = {
    "shipped": lambda quick: shipped.figures(7 if quick else 15),
    "costs": lambda quick: costs.figures(),
    "passes": lambda quick: passes.figures(1000 if quick else 10_000),
    "months": months.figures,
    "publishing": publishing.figures,
    "rehearsed": rehearsed.figures,
}


@click.command()
@click.option("--quick", is_flag=True, help="Less of everything: three minutes instead of ten.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Measure this part; can be given again.")
@click.option(
    "--json", "path", type=click.Path(path_type=Path), help="Write the figures there, too, with their samples."
)
def main(quick: bool, only: tuple[str, ...], path: Path | None) -> None:
    """Measure the numbers that the design wants."""
    figures: list[Figure] = []
    for name in only or PARTS:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        figures += PARTS[name](quick)
    table = Table("what", "reached", "wanted", "", title="Spot Relay, measured")
    for each in figures:
        wanted = f"{'≥' if each.least else '≤'} {each.wanted:,.3g}"
        table.add_row(each.what, f"{each.reached:,.3g}", wanted, "ok" if each.ok else "[bold red]missed[/]")
    Console(width=120).print(table)
    if path is not None:
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
        document = {"quick": quick, "machine": machine, "figures": [each.as_dict() for each in figures]}
        path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
