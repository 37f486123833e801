"""Whether a regular expression of a user's own can be trusted to end: it is matched against every name of a folder."""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_FEW = 8


def check_pattern(pattern: str) -> str:
    """The pattern, when it names a step and can't explode. Raises ValueError.

    A repeat inside a repeat can take exponential time, and so can a choice or a backward reference inside one: such
    patterns are refused, though some are harmless.
    """
    try:
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if "step" not in tree.state.groupdict:
        raise ValueError(r"needs a group named step, like model_(?P<step>\d+)\.pt")
    _walk(tree, repeated=False)
    if sum(1 for _ in _open_repeats(tree)) > _FEW:
        raise ValueError(f"has more than {_FEW} repeats without a bound, which can take very long; make it simpler")
    return pattern


def _walk(tree: Any, *, repeated: bool) -> None:
    for code, argument in tree:
        if repeated and code in (*_REPEATS, codes.BRANCH, codes.GROUPREF):
            raise ValueError(
                "repeats something that itself repeats or branches, which can take for ever; make it simpler"
            )
        for inner, again in _inside(code, argument):
            _walk(inner, repeated=repeated or again)


def _open_repeats(tree: Any) -> Any:
    for code, argument in tree:
        if code in _REPEATS and argument[1] == codes.MAXREPEAT:
            yield code
        for inner, _ in _inside(code, argument):
            yield from _open_repeats(inner)


def _inside(code: Any, argument: Any) -> list[tuple[Any, bool]]:
    """The parts of a node, and whether the node repeats them."""
    if code in _REPEATS or code is codes.POSSESSIVE_REPEAT:
        return [(argument[2], argument[1] > 1)]
    if code is codes.SUBPATTERN:
        return [(argument[3], False)]
    if code is codes.BRANCH:
        return [(each, False) for each in argument[1]]
    if code in (codes.ASSERT, codes.ASSERT_NOT):
        return [(argument[1], False)]
    if code is codes.ATOMIC_GROUP:
        return [(argument, False)]
    if code is codes.GROUPREF_EXISTS:
        return [(each, False) for each in argument[1:] if each]
    return []
