"""What the emulator decided about roles, read while it goes on deciding (`rehearsal.ministack_decisions` writes it)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spotrelay.privileges.statements import Attachment, Part


@dataclass(frozen=True)
class Decision:
    role: str
    action: str
    resource: str
    sid: str
    allowed: bool


class Reader:
    """Gives each decision once, in order."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> list[Decision]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as lines:
            lines.seek(self._at)
            whole = lines.read().rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        return [Decision(**json.loads(line)) for line in whole.splitlines()]


def refusal(part: Part, made: Iterable[Decision]) -> Decision | None:
    """The first call that was refused for want of this part; None when none was."""
    for each in made:
        if not each.allowed and each.role in part.roles and each.action in part.actions:
            return each
    return None


def used(part: Part, made: Iterable[Decision]) -> set[str]:
    """The actions that this part allowed."""
    sid = None if isinstance(part, Attachment) else part.sid
    return {
        each.action
        for each in made
        if each.allowed and each.role in part.roles and each.action in part.actions and sid in (None, each.sid)
    }
