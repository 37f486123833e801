"""Faults at AWS calls: every call of the simulated world passes here before it is made and after it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    FAILS = "fails"  # an error, and nothing was done
    ANSWER_LOST = "answer lost"  # done, and an error all the same
    DIES_BEFORE = "dies before"  # the process ends before the call
    DIES_AFTER = "dies after"  # the process ends right after it


class CallFailed(Exception):
    """AWS gave no good answer."""


class Died(BaseException):
    """The process is gone: no handler of ours may catch this."""


@dataclass
class Faults:
    """`arm(n, kind)` lets the n-th call from now meet a fault; `calls` counts all, `hit` which faults were met where."""

    calls: int = 0
    hit: set[tuple[str, Kind]] = field(default_factory=set)
    _at: dict[int, Kind] = field(default_factory=dict)

    def arm(self, n: int, kind: Kind) -> None:
        self._at[self.calls + n] = kind

    def disarm(self) -> None:
        self._at.clear()

    def before(self, call: str) -> Kind | None:
        """Called before a call is made. Gives the fault to be met after it, for `after`."""
        self.calls += 1
        kind = self._at.pop(self.calls, None)
        if kind is None:
            return None
        self.hit.add((call, kind))
        if kind is Kind.FAILS:
            raise CallFailed(call)
        if kind is Kind.DIES_BEFORE:
            raise Died(call)
        return kind

    def after(self, kind: Kind | None) -> None:
        if kind is Kind.ANSWER_LOST:
            raise CallFailed("the answer was lost")
        if kind is Kind.DIES_AFTER:
            raise Died
