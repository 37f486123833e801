"""Which entries of a checkpoint directory are checkpoints, and of which step. Pure: names in, entries out.

Known without configuration: SB3 (`rl_model_10000_steps.zip`), Hugging Face (`checkpoint-500/`), Lightning
(`epoch=0-step=10.ckpt`, `last.ckpt`), torchrun (`snapshot.pt`), and `step_N`, `ckpt_N`, `model_N` as file or folder. A regular
expression of the user's own with `(?P<step>\\d+)` replaces them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in the checkpoint directory. `step` is None where the name doesn't tell it (`snapshot.pt`, `last.ckpt`)."""

    name: str
    step: int | None


_DIGITS = 12
_END = r"(?:\.[A-Za-z][\w.]*)?$"
_NUMBERED = (
    re.compile(r"^.*?_(?P<step>\d+)_steps" + _END),  # SB3
    re.compile(r"^(?:.*[-_.])?checkpoint[-_](?P<step>\d+)" + _END),  # Hugging Face
    re.compile(r"^.*\bstep[=_-](?P<step>\d+)(?:-v\d+)?" + _END),  # Lightning; -v1 is its second file of the same step
    re.compile(r"^(?:.*[-_.])?(?:global_)?step[-_]?(?P<step>\d+)" + _END),
    re.compile(r"^(?:.*[-_.])?(?:ckpt|model|iter|snapshot|epoch)[-_](?P<step>\d+)" + _END),
)
_UNNUMBERED = re.compile(
    r"^(?:snapshot|last|latest|checkpoint|ckpt|model)\.(?:pt|pth|ckpt|tar|zip|safetensors|pkl|npz)$"
)
# SB3 saves these beside the model, under a step of their own: part of no checkpoint by themselves.
_BESIDE = re.compile(r"(?:_replay_buffer_|_vecnormalize_)")
_TEMPORARY = re.compile(r"^[.~]|(?:\.tmp|\.temp|\.part|\.partial|\.lock|~)$|^tmp[-_.]|\.tmp[-_.]")


class PatternError(ValueError):
    """The user's pattern is no regular expression with a group `step`."""


def compile_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """The user's regular expression, checked. Raises PatternError."""
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise PatternError(f"checkpoint.pattern is no regular expression: {error}.") from error
    if "step" not in compiled.groupindex:
        raise PatternError(r"checkpoint.pattern needs a group named step, for example (?P<step>\d+).")
    return compiled


class Pattern(Protocol):
    """The user's own pattern, whoever matches it (`matching.BoundedPattern`, when names come from a job)."""

    def step(self, name: str) -> str | None: ...
    def learn(self, names: Iterable[str]) -> None: ...


def match(name: str, pattern: Pattern | None = None) -> Entry | None:
    """The entry that `name` is, or None when it is no checkpoint (temporary names never are)."""
    if _TEMPORARY.search(name):
        return None
    if pattern is not None:
        return _entry(name, pattern.step(name) or "")
    if _BESIDE.search(name):
        return None
    for known in _NUMBERED:
        found = known.search(name)
        if found:
            return _entry(name, found["step"])
    return Entry(name, None) if _UNNUMBERED.search(name) else None


def _entry(name: str, step: str) -> Entry | None:
    """A number with more digits than a step has names no checkpoint: the controller would refuse every word of it."""
    return Entry(name, int(step)) if step.isdecimal() and len(step.lstrip("0")) <= _DIGITS else None


def companions(name: str, names: Iterable[str]) -> list[str]:
    """What SB3 saved beside `name` for the same step: replay buffer and normalization, without which a resume differs."""
    found = re.match(r"^(?P<head>.*)_(?P<step>\d+)_steps\.zip$", name)
    if not found:
        return []
    head, step = re.escape(found["head"]), found["step"]
    beside = re.compile(rf"^{head}_(?:replay_buffer|vecnormalize)_{step}_steps\.\w+$")
    return sorted(other for other in names if beside.match(other))


def checkpoints(names: Iterable[str], pattern: Pattern | None = None) -> list[Entry]:
    """The checkpoints among `names`, oldest first, compared as numbers.

    Names without a step count only where no name has one: beside numbered files, `last.ckpt` is a copy of one of them.
    """
    names = list(names)
    if pattern is not None:
        pattern.learn(name for name in names if not _TEMPORARY.search(name))
    found = [entry for name in names if (entry := match(name, pattern))]
    numbered = [entry for entry in found if entry.step is not None]
    if numbered:
        return sorted(numbered, key=lambda entry: (entry.step or 0, entry.name))
    return sorted(found, key=lambda entry: entry.name)
