"""What must be true of a real life, at every look and at its end. The truth is the world's: who trains, what was published, what
EC2 charges; the controller's words are compared with it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from chalicelib.core import calendar
from chalicelib.core.model import Run
from chalicelib.core.money import ZERO
from chalicelib.core.storage import Stored

if TYPE_CHECKING:
    from tests.real_life import Life

_A_SECOND = Decimal("0.0001")  # USD, of a machine: EC2 names whole seconds


class Truth:
    def __init__(self, life: Life) -> None:
        self._life = life
        self.restored: list[tuple[int, int]] = []  # attempt, and the step it was given
        self.published: dict[int, list[int]] = {}
        self.batons: list[int] = []  # who had it, look by look
        self.problems: list[str] = []
        self._version, self._run, self._month = 0, dict[str, Decimal](), dict[str, Decimal]()

    def look(self, run: Run | None) -> None:
        """Called when the controller is at rest; its calls are not counted meanwhile."""
        training = [agent.number for agent in self._life.agents.values() if agent.trains]
        self._unless(len(training) < 2, f"attempts {training} train at once")
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
        self._month = ledger.month(calendar.month(self._life.clock.now, self._life.c.policy))
        month = self._month
        held = month["settled"] + month["reserved"]
        self._unless(held <= month["limit"], f"more is held than the month's limit: {month}")
        self._unless(month["free"] == month["limit"] - held, f"the month does not add up: {month}")

    def bill(self) -> Decimal:
        """USD that EC2 charges up to now for the machines that were launched for the run."""
        return sum((m.bill(self._life.clock.now) for m in self._life.launched()), ZERO)

    def at_the_end(self, run: Run) -> list[str]:
        """What is not as it should be, in sentences; with what was seen meanwhile."""
        self._read()
        left = self._life.left()
        stored = self._life.c.storage.stored()
        attempts = [m.tag("attempt") for m in self._life.launched()]
        self._unless(run.status.value == self._life.scenario.ends, f"the run is {run.status.value}: {run.message}")
        for what, found in left.items():
            self._unless(not found, f"{what} are left: {found}")
        self._unless(len(set(attempts)) == len(attempts), f"an attempt was launched twice: {attempts}")
        self._unless(self.batons == sorted(self.batons), f"the baton went back: {self.batons}")
        self._money(stored)
        self._restores()
        self._bucket()
        for what, found in self._life.scenario.wants.items():
            self._unless(found(self._life), f"{what} did not happen")
        return self.problems

    def _money(self, stored: Stored | None) -> None:
        self._unless(self._run["reserved"] == ZERO, f"money stays reserved: {self._run}")
        of_storage = {"settled": stored.settled, "reserved": stored.reserved} if stored else {}
        for part in ("settled", "reserved"):
            whole = self._run[part] + of_storage.get(part, ZERO)
            self._unless(self._month[part] == whole, f"{self._month[part]} USD are {part}, and {whole} by its parts")

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
