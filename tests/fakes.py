"""What stands for EC2 in tests of the shell: instances by client token, the watchdog's entries, and what was used."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from chalicelib.core import events as ev
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, PriceSource, Run
from chalicelib.fleet import Unanswered
from tests.core_world import START


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class FakeEc2:
    """Instances by client token. `silent` makes it launch and lose the answer; `refusal` makes it refuse."""

    def __init__(self) -> None:
        self.by_token: dict[str, str] = {}
        self.ended: list[str] = []
        self.calls = 0
        self.silent = False
        self.refusal: tuple[ev.Refusal, str] | None = None

    def launch(self, run: str, attempt: Attempt) -> ev.Launched | ev.LaunchRefused:
        assert attempt.launch
        self.calls += 1
        if self.refusal:
            kind, said = self.refusal
            return ev.LaunchRefused(attempt.number, attempt.launch.token, kind, said)
        self.by_token.setdefault(attempt.launch.token, self.instance_id(len(self.by_token) + 1))
        if self.silent:
            raise Unanswered("InternalError")
        found = self.find(run, attempt)
        assert found
        return found

    @staticmethod
    def instance_id(number: int) -> str:
        return f"i-{number:08x}"

    def find(self, run: str, attempt: Attempt) -> ev.Launched | None:
        assert attempt.launch
        instance = self.by_token.get(attempt.launch.token)
        if instance is None or instance in self.ended:
            return None
        return ev.Launched(attempt.number, attempt.launch.token, instance, attempt.launch.offers[0].pool)

    def end(self, instance_id: str) -> None:
        self.ended.append(instance_id)


class FakeMeter:
    """Evidence that a test may choose; at first AWS says nothing but the price."""

    def __init__(self, usd_hour: str = "0.068") -> None:
        self.found = Evidence(usd_hour=Decimal(usd_hour), source=PriceSource.SPOT_HISTORY)

    def evidence(self, run: Run, attempt: Attempt, now: datetime) -> Evidence:
        return self.found


class FakeWatchdog:
    """The entries that stand, and an error to meet."""

    def __init__(self) -> None:
        self.entries: dict[str, datetime] = {}
        self.error: Exception | None = None

    def set(self, instance_id: str, at: datetime, moves: bool) -> None:
        if self.error:
            raise self.error
        assert moves == (instance_id in self.entries)
        self.entries[instance_id] = at

    def clear(self, instance_id: str) -> None:
        if self.error:
            raise self.error
        self.entries.pop(instance_id, None)
