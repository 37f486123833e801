"""How a patch makes sure that it fits: the pinned ministack, with the functions it replaces as they were.

A patch on another version could silently do nothing, and a rehearsal would then prove something else than it says.
"""

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

PINNED = "1.5.33"


class PatchMismatch(RuntimeError):
    """The installed ministack isn't the one that a patch was written for."""

    def __init__(self, expected: str) -> None:
        super().__init__(
            f"ministack {installed_version()} is not what the rehearsal's patches fit: expected {expected}"
        )


def installed_version() -> str:
    """The version of the installed ministack, or `(none)`."""
    try:
        return importlib.metadata.version("ministack")
    except importlib.metadata.PackageNotFoundError:
        return "(none)"


def require_pinned_version() -> None:
    """Refuse any other version than the pinned one."""
    if installed_version() != PINNED:
        raise PatchMismatch(f"version {PINNED}")


def load(module: str) -> Any:
    """A module of ministack, untyped because a patch writes into it."""
    try:
        return importlib.import_module(f"ministack.{module}")
    except ImportError as error:
        raise PatchMismatch(f"a module ministack.{module}") from error


def require_function(module: Any, name: str, parameters: str) -> Any:
    """The function `name` of `module`, whose parameters must be named as in `parameters`, separated by blanks."""
    function = getattr(module, name, None)
    if not callable(function) or list(inspect.signature(function).parameters) != parameters.split():
        raise PatchMismatch(f"{module.__name__}.{name}({', '.join(parameters.split())})")
    return function


def require_text(module: Any, name: str, *snippets: str) -> None:
    """Check that the source of a function still has the calls that lead into a patch."""
    source = inspect.getsource(getattr(module, name)) if hasattr(module, name) else ""
    for snippet in snippets:
        if snippet not in source:
            raise PatchMismatch(f"`{snippet}` in {module.__name__}.{name}")


class Asked(NamedTuple):
    """Whether a caller may do something, as ministack's evaluator is asked."""

    access_key_id: str
    iam_action: str
    service: str
    region: str
    resource_arn: str = "*"
    service_context: dict[str, Any] | None = None


def authorize_each(
    parts: Callable[[Asked], Iterable[Asked]], refused: Callable[[Asked, Asked], None] = lambda asked, part: None
) -> None:
    """Let a call through only when each part of what it asks for is allowed; `refused` is told of the first that is not."""
    evaluator = load("core.iam_evaluator")
    enforce = require_function(evaluator, "enforce", " ".join(Asked._fields))

    @functools.wraps(enforce)
    def patched(*args: Any, **named: Any) -> Any:
        asked = Asked(*args, **named)
        for part in parts(asked):
            denied = enforce(*part)
            if denied is not None:
                refused(asked, part)
                return denied
        return None

    evaluator.enforce = patched
