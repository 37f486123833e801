"""Placeholders in a run's command and folders: `{run}`, `{attempt}`, `{results}`, `{checkpoint}` and, relative to the
repository's root, `{results.rel}` and `{checkpoint.rel}`.

A placeholder is lower-case letters and dots between braces. `{{` and `}}` stand for braces; any other brace is left as it
is, so that JSON in a command needs no care. Values are data: they are put in after a command was split into words, and
never split again. Only the standard library is used here: this module ships inside the agent, too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

_TOKEN = re.compile(r"\{\{|\}\}|\{([a-z][a-z.]*)\}")
# What only a shell understands. The command is started without one.
_OPERATOR = re.compile(r"&&|\|\||[|;<>&`]|\$[\w({]")


class UnknownPlaceholder(ValueError):
    """The text names a placeholder that has no value here."""

    def __init__(self, name: str, known: Mapping[str, str] | frozenset[str]) -> None:
        super().__init__(f"{{{name}}} is no placeholder here; there are {', '.join(f'{{{k}}}' for k in sorted(known))}")
        self.name = name


def names(text: str) -> set[str]:
    """The placeholders in a text."""
    return {found[1] for found in _TOKEN.finditer(text) if found[1]}


def render(text: str, values: Mapping[str, str]) -> str:
    """The text with every placeholder replaced. Raises UnknownPlaceholder."""

    def put(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        if name not in values:
            raise UnknownPlaceholder(name, values)
        return values[name]

    return _TOKEN.sub(put, text)


def words(command: str) -> list[str]:
    """The command's words, split as a shell would quote them. Raises ValueError for what can't be split or started.

    A shell's operators and variables mean nothing here, which would surprise; so they are refused, and the message
    says how to ask for a shell.
    """
    try:
        split = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"can't be split into words: {error}") from error
    if not split:
        raise ValueError("is empty")
    operator = _OPERATOR.search(_unquoted(command))
    if operator:
        raise ValueError(f"has {operator[0]!r}, which only a shell understands: write bash -c '…' to use one")
    return split


def render_argv(command: str, resume: str | None, values: Mapping[str, str]) -> list[str]:
    """The command's words with their placeholders replaced, and after them those of `resume`. Raises ValueError."""
    argv = [render(word, values) for word in words(command)]
    return argv + ([render(word, values) for word in words(resume)] if resume else [])


def _unquoted(command: str) -> str:
    """The command without its quoted parts."""
    return re.sub(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"", "_", command, flags=re.DOTALL)
