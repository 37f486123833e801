"""What must be true of a real life, at every look and at its end. The truth is the world's: who trains, what was published, what
EC2 charges; the controller's words are compared with it.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from chalicelib.core import calendar
from chalicelib.core.model import Run
from chalicelib.core.money import ZERO
from chalicelib.core.storage import Stored

if TYPE_CHECKING:
    from tests.real_life import Life
    from tests.small_ec2 import Machine

_TWO_SWEEPS = timedelta(minutes=2)
_A_SECOND = Decimal("0.0001")  # USD, of a machine: EC2 names whole seconds


class Truth:
    def __init__(self, life: Life) -> None:
        self._life = life
        self.restored: list[tuple[int, int]] = []  # attempt, and the step it was given
        self.published: dict[int, list[int]] = {}
        self.batons: list[int] = []  # who had it, look by look
        self.problems: list[str] = []
        self._version, self._run = 0, dict[str, Decimal]()
        self._months: dict[str, dict[str, Decimal]] = {}  # that the life was in
        self._stored: dict[str, Stored] = {}  # what storage held of each when it was last seen

    def look(self, run: Run | None) -> None:
        """Called when the controller is at rest; its calls are not counted meanwhile."""
        training = [agent.number for agent in self._life.agents.values() if agent.trains]
        self._unless(len(training) < 2, f"attempts {training} train at once")
        self._look_at_storage()
        if run is None:
            return
        if run.baton:
            self.batons.append(run.baton)
        if run.version != self._version:
            self._version = run.version
            self._read()
        bill, held = self.bill(), self._run["settled"] + self._run["reserved"]
        self._unless(bill <= held, f"EC2 charges {bill} USD, and the ledger holds {self._run}")

    def _read(self) -> None:
        ledger = self._life.c.store.ledger
        self._run = ledger.run(self._life.name)
        for at in (self._life.scenario.begins, self._life.clock.now):
            name = calendar.month(at, self._life.c.policy)
            self._months[name] = month = ledger.month(name)
            held = month["settled"] + month["reserved"]
            self._unless(held <= month["limit"], f"more is held than the month's limit: {month}")
            self._unless(month["free"] == month["limit"] - held, f"{name} does not add up: {month}")

    def _look_at_storage(self) -> None:
        if stored := self._life.c.storage.stored():
            self._stored[stored.month] = stored

    def fired(self, machine: Machine) -> None:
        """Called when Scheduler is about to end it: the entry of one that has ended long before should be gone."""
        late = machine.ended_at and self._life.clock.now - machine.ended_at > _TWO_SWEEPS
        self._unless(
            not late, f"schedules are left: one fired for {machine.instance_id}, which ended at {machine.ended_at}"
        )

    def bill(self) -> Decimal:
        """USD that EC2 charges up to now for the machines that were launched for the run."""
        return sum((m.bill(self._life.clock.now) for m in self._life.launched()), ZERO)

    def at_the_end(self, run: Run) -> list[str]:
        """What is not as it should be, in sentences; with what was seen meanwhile."""
        self._read()
        self._look_at_storage()
        left = self._life.left()
        attempts = [m.tag("attempt") for m in self._life.launched()]
        self._unless(run.status.value == self._life.scenario.ends, f"the run is {run.status.value}: {run.message}")
        for what, found in left.items():
            self._unless(not found, f"{what} are left: {found}")
        self._unless(len(set(attempts)) == len(attempts), f"an attempt was launched twice: {attempts}")
        self._unless(self.batons == sorted(self.batons), f"the baton went back: {self.batons}")
        self._money()
        self._restores()
        self._bucket()
        for what, found in self._life.scenario.wants.items():
            self._unless(found(self._life), f"{what} did not happen")
        return self.problems

    def _money(self) -> None:
        self._unless(self._run["reserved"] == ZERO, f"money stays reserved: {self._run}")
        of_the_run = ZERO
        for name, month in self._months.items():
            parts, stored = self._life.c.store.ledger.runs(name), self._stored.get(name)
            settled, reserved = (sum((part[what] for part in parts), ZERO) for what in ("settled", "reserved"))
            of_the_run += settled
            spent, held = (stored.settled, stored.reserved) if stored else (ZERO, ZERO)
            if name == max(self._months):
                right = month["settled"] == settled + spent and month["reserved"] == reserved + held
            else:  # its last days were settled as it turned
                right = spent <= month["settled"] - settled <= spent + held and month["reserved"] == ZERO
            self._unless(
                right, f"{name} is {month}, by its parts {settled} are settled and {reserved} reserved, {stored}"
            )
        self._unless(of_the_run == self._run["settled"], f"months have settled {of_the_run} USD of {self._run}")

    def exact(self) -> bool:
        """Whether the ledger has what EC2 charges, to the second; where nothing goes wrong."""
        bill = self.bill()
        return bill <= self._run["settled"] <= bill + _A_SECOND * len(self._life.launched())

    def _restores(self) -> None:
        for number, step in self.restored:
            best = max((s for n, steps in self.published.items() if n < number for s in steps), default=0)
            if step < best and step < max(self.published.get(number - 1, [0]), default=0):
                self.problems.append(f"attempt {number} began at step {step}, where {self.published} was published")

    def _bucket(self) -> None:
        """The last checkpoint comes with the end, when nothing is pruned any more."""
        self._unless(bool(self._life.stored("spec.json")), "the spec is not in the bucket")
        kept = sorted({key.split("/")[3:5][-1] for key in self._life.stored("checkpoints/")})
        keep = self._life.spec["checkpoint"].get("keep", 3)
        self._unless(len(kept) <= keep + 1, f"checkpoints are left that newer ones have made needless: {kept}")

    def _unless(self, right: bool, problem: str) -> None:
        if not right and problem not in self.problems:
            self.problems.append(problem)
