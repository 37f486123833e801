"""Bytecode that ships with the functions: in a Lambda nobody can write it, and each cold start would compile the sources anew.

In: the project's folder. Out: `chalicelib/**/__pycache__`, which Chalice packs with the sources. Each file carries its source's
hash, which Python compares: what is stale is compiled in memory, so that `chalice deploy` alone never ships an old decision.
"""

from __future__ import annotations

import py_compile
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path

from spotrelay.deploying.errors import DeployError

_CHECKED = py_compile.PycInvalidationMode.CHECKED_HASH
_TASK = "/var/task"  # where Lambda unpacks the functions: tracebacks name the files there


def compile_library(project: Path) -> None:
    """Compile `chalicelib` for the Python that runs this, whose version is also the functions' runtime (Chalice).

    Raises DeployError for a source that is no Python.
    """
    library = project / "chalicelib"
    sources = {Path(cache_from_source(str(source))): source for source in library.rglob("*.py")}
    for found in library.rglob("*.pyc"):
        if found not in sources:
            found.unlink()  # of a module that is no more, or of another Python
    for compiled, source in sources.items():
        # What is fresh stays: the same source does not always give the same bytes, and other bytes are another package.
        if not _fresh(compiled, source):
            shown = f"{_TASK}/{source.relative_to(project)}"
            try:
                py_compile.compile(str(source), str(compiled), shown, True, invalidation_mode=_CHECKED)
            except py_compile.PyCompileError as error:
                raise DeployError(f"{source} is no Python: {error.msg}") from error


def _fresh(compiled: Path, source: Path) -> bool:
    """Whether it was compiled from these very bytes, with their hash in its head (PEP 552)."""
    head = MAGIC_NUMBER + (0b11).to_bytes(4, "little") + source_hash(source.read_bytes())
    return compiled.is_file() and compiled.read_bytes().startswith(head)
