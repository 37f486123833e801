"""Faults at AWS calls: every call of the simulated world is made through here.

A call that times out takes as long as a real one may, and the world goes on meanwhile: other invocations act while it hangs.
A throttle lasts: what the same service is asked until it is over fails as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

Answer = TypeVar("Answer")

HANGS = timedelta(seconds=20)  # botocore's read timeout, as the controller sets it
THROTTLE = timedelta(seconds=45)  # longer than the retries of one call


class Kind(StrEnum):
    FAILS = "fails"  # 500, and nothing was done
    THROTTLED = "throttled"
    TIMES_OUT = "times out"  # no answer, and nothing was done
    ANSWER_LOST = "answer lost"  # no answer, and it was done
    TWICE = "happens twice"  # as after botocore's own retry; the second answer is the one that is seen
    DIES_BEFORE = "dies before"  # the process ends before the call
    DIES_AFTER = "dies after"  # the process ends right after it


class CallFailed(Exception):
    """AWS answered with an error that says nothing of the request: 500, or a throttle."""


class NoAnswer(CallFailed):
    """Whether it was done is not known."""


class Died(BaseException):
    """The process is gone: no handler of ours may catch this."""


@dataclass
class Faults:
    """`arm(n, kind)` lets the n-th call from now meet a fault; `calls` counts all, `hit` which faults were met where.

    `wait(span)` lets the world go on for so long while a call hangs.
    """

    clock: Callable[[], datetime]
    wait: Callable[[timedelta], None]
    calls: int = 0
    hit: set[tuple[str, Kind]] = field(default_factory=set)
    seen: Callable[[str], None] = lambda call: None  # told of each call before it is made
    _at: dict[int, Kind] = field(default_factory=dict)
    _throttled: dict[str, datetime] = field(default_factory=dict)  # by service, until when

    def arm(self, n: int, kind: Kind) -> None:
        self._at[self.calls + n] = kind

    def disarm(self) -> None:
        self._at.clear()
        self._throttled.clear()

    def call(self, service: str, name: str, act: Callable[[], Answer], once: bool = False) -> Answer:
        """Make a call, or have it fail. `once`: AWS knows a repeat of the same request by a token, and answers it the same.

        Raises CallFailed, NoAnswer, Died, and what the call itself does.
        """
        self.calls += 1
        self.seen(name)
        kind = self._at.pop(self.calls, None)
        if kind is not None:
            self.hit.add((name, kind))
        if kind is Kind.THROTTLED:
            self._throttled[service] = self.clock() + THROTTLE
        if kind is Kind.FAILS or (service in self._throttled and self.clock() < self._throttled[service]):
            raise CallFailed(name)
        if kind is Kind.TIMES_OUT:
            self.wait(HANGS)
            raise NoAnswer(name)
        if kind is Kind.DIES_BEFORE:
            raise Died(name)
        answer = act()
        match kind:
            case Kind.TWICE if not once:
                return act()
            case Kind.ANSWER_LOST:
                self.wait(HANGS)
                raise NoAnswer(name)
            case Kind.DIES_AFTER:
                raise Died(name)
        return answer

    def read(self, service: str, name: str) -> None:
        """A call that changes nothing and whose answer is looked up afterwards."""
        self.call(service, name, lambda: None)


def no_faults() -> Faults:
    """For a store that stands alone."""
    return Faults(lambda: datetime.now(UTC), lambda span: None)
