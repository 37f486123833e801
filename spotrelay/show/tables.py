"""Tables without lines. A cell that is text is shown as it is: what came over the network may have rich's markup in it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def table(heads: Iterable[str], rows: Iterable[Iterable[RenderableType]]) -> Table:
    """With a head above each column."""
    made = Table(*heads, box=None, pad_edge=False, header_style="dim")
    return _filled(made, rows)


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """A name and what it is, line by line."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    return _filled(made, rows)


def beside(*cells: RenderableType) -> Table:
    """On one line."""
    return _filled(Table.grid(padding=(0, 2)), [cells])


def _filled(made: Table, rows: Iterable[Iterable[RenderableType]]) -> Table:
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made
