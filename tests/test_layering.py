"""The core stays pure: what it imports is looked at, not promised."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).parent.parent / "chalicelib" / "core"
ALLOWED = {"__future__", "chalicelib", "collections", "dataclasses", "datetime", "decimal", "enum", "typing"}


@pytest.mark.parametrize("module", sorted(CORE.glob("*.py")), ids=lambda p: p.name)
def test_the_core_imports_no_clock_no_environment_and_no_client(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in ALLOWED
            assert name.split(".")[0] != "chalicelib" or name.startswith("chalicelib.core")


def test_the_core_never_asks_what_time_it_is() -> None:
    for module in CORE.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"))
