"""docs/deploy.md is true: its commands and options exist, and its sums are right."""

from __future__ import annotations

import re
from decimal import Decimal

import click
import pytest

from spotrelay.cli import main
from spotrelay.deploying import ROOT

PAGES = (ROOT / "docs/deploy.md", ROOT / "README.md")
TEXT = PAGES[0].read_text()
# A command in prose may be broken over two lines.
COMMANDS = sorted(
    {
        " ".join(found.split())
        for page in PAGES
        for found in re.findall(r"\bspotrelay ((?:[a-z]+\s)+(?:[^`\n|]*))", page.read_text())
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_docs_exists_with_its_options(line: str) -> None:
    command: click.Command = main
    words = line.split()
    while isinstance(command, click.Group):
        assert words, f"{line!r} is only half a command"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_a_variable_of_the_docs_is_one_of_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target, given in re.findall(r"make (deploy|destroy|doctor)((?: [A-Z]+=\S*)+)", TEXT):
        recipe = makefile[makefile.index(f"\n{target}: ") :].partition("\n\n")[0] + makefile
        for name in re.findall(r"([A-Z]+)=", given):
            assert f"$(if $({name})" in recipe, name


def rows() -> list[tuple[Decimal, Decimal, Decimal]]:
    found = re.findall(r"^\| [^|*]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", TEXT, re.MULTILINE)
    return [(Decimal(count), Decimal(price), Decimal(cost)) for count, price, cost in found]


def test_the_cost_of_the_empty_system_is_count_times_price() -> None:
    table = rows()
    assert len(table) == 6
    for count, price, cost in table:
        assert abs(count * price - cost) < Decimal("0.00005")
    (together,) = re.findall(r"\*\*together\*\* \| \| \| \*\*([\d.]+)\*\*", TEXT)
    exact = sum(count * price for count, price, _ in table[:-1])
    assert abs(exact - Decimal(together)) < Decimal("0.00005")
    assert exact <= Decimal("0.10"), "idle costs at most ten cents a month, alarms apart"
