"""The table and EC2 of a world, with somebody who looks at each change and each call that costs money."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from chalicelib.core import events as ev
from chalicelib.core.events import Note
from chalicelib.core.model import Attempt, Offer, Run
from chalicelib.glances import Glance, from_text, glance, to_text
from tests.sim.ec2 import SimEc2
from tests.sim.faults import Faults
from tests.sim.table import FakeStore

if TYPE_CHECKING:
    from tests.sim.invariants import Invariants


class WatchedStore(FakeStore):
    def __init__(self, limit_usd: Decimal, faults: Faults) -> None:
        super().__init__(limit_usd, faults)
        self.watch: Invariants
        self._live: dict[str, Glance] = {}

    def changed(self, before: Run | None, after: Run, notes: Sequence[Note]) -> None:
        if after.deadline:
            self._live[after.name] = from_text(after.name, to_text(glance(after)))
        else:
            self._live.pop(after.name, None)
        self.watch.saved(before, after, notes)

    def glances(self) -> Iterator[Glance]:
        """The same as the table's, without making each anew each minute."""
        self.faults.read("dynamodb", "Scan live")
        return iter(list(self._live.values()))

    def live_glances(self) -> list[Glance]:
        """For the world itself: no call of the controller's."""
        return list(self._live.values())


@dataclass
class WatchedEc2(SimEc2):
    told: dict[Offer, datetime] = field(default_factory=dict)  # when EC2 last named this price
    watch: Invariants = field(init=False)

    def offers(self) -> tuple[Offer, ...]:
        found = super().offers()
        self.told.update(dict.fromkeys(found, self.clock()))
        return found

    def launch(self, run: str, attempt: Attempt) -> ev.Launched | ev.LaunchRefused:
        self.watch.launching(run, attempt)
        self.watch.world.asked(run, attempt)
        answer = super().launch(run, attempt)
        if isinstance(answer, ev.LaunchRefused):
            self.watch.tell(run, f"EC2 refuses attempt {attempt.number}: {answer.message}")
        return answer

    def end(self, instance_id: str) -> None:
        self.watch.ending(instance_id)
        super().end(instance_id)
