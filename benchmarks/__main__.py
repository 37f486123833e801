"""`python -m benchmarks`: a table of numbers reached beside numbers wanted, and the same as JSON. Ends with 1 when one is missed.

Nothing is asked of AWS: moto stands for it in this process, and imports are timed in processes of their own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import passes, shipped
from benchmarks.figure import Figure


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the runs and of the repetitions.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there, too.")
def main(quick: bool, path: Path | None) -> None:
    figures: list[Figure] = [
        *shipped.figures(7 if quick else 15),
        *passes.figures(1000 if quick else 10_000),
    ]
    table = Table("what", "reached", "wanted", "", title="Spot Relay, measured")
    for each in figures:
        table.add_row(each.what, f"{each.reached:,.3g}", f"≤ {each.wanted:,.3g}", "ok" if each.ok else "missed")
    Console(width=110).print(table)
    if path is not None:
        path.write_text(json.dumps([each.as_dict() for each in figures], indent=1) + "\n", "utf-8")
    sys.exit(0 if all(each.ok for each in figures) else 1)


if __name__ == "__main__":
    main()
