"""The month's money ends in mid-training: the run drains and waits, and the sweep resumes it when the month turns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from time import monotonic, sleep

from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot, Scene

# From the preparation to the month's turn, scaled: the first lease and all of a renewed one lie before it, graces included.
TURN_S = 6600
# What storage may hold of the next month: a GB for each run that lives (core/storage), rounded up.
SPARE_USD, CENT = Decimal("0.025"), Decimal("0.01")
# Above the price, below the cap: the slice in which it held for a moment is settled at it.
PEAK, PEAK_S = Decimal("1.9"), 2.0
MAIL_PATIENCE_S, SWEEP_PATIENCE_S = 5.0, 20.0


class BudgetEnd(Plot):
    """A limit that covers a first lease and a bit, and a calendar that is about to turn."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._limit = ""
        self._peak: tuple[str, str, Decimal, float] | None = None  # type, zone, price before, when it rose
        self._suspended: dict[str, str] = {}
        self._left: list[str] = []
        self._reason = ""

    def prepare(self) -> None:
        scene, api = self.scene, self.scene.stage.api
        budget = api.get("budget")
        self._limit = budget["limit_usd"]
        turn = datetime.now(UTC) + timedelta(seconds=TURN_S * scene.stage.time_scale)
        scene.stage.shift_calendar((datetime.fromisoformat(budget["turns_at"]) - turn).total_seconds())
        self._wait_for_sweeps(2)  # what is stored is measured for that day before there is a run
        budget = api.get("budget")
        first = Decimal(api.post("runs", body=dict(scene.spec), plan="true")["cost"]["first_lease_usd"])
        held = Decimal(budget["settled_usd"]) + Decimal(budget["reserved_usd"])
        limit = (held + first + SPARE_USD).quantize(CENT, ROUND_CEILING)
        api.put("budget", body={"limit_usd": str(limit)})
        scene.say(f"the limit is {limit} USD, a first lease {first}; {budget['month']} ends at {turn:%H:%M:%S} UTC")

    def strike(self) -> None:
        scene, run = self.scene, self.scene.run
        assert run is not None
        # At once: the first renewal settles the first minute, and what comes after that is not in its price.
        if scene.instance(1) and scene.once("peak"):
            self._raise_price()
        if self._peak and monotonic() > self._peak[3] + PEAK_S and scene.once("peak over"):
            kind, zone, price, _ = self._peak
            scene.control.pool(kind, zone, price=float(price))
        if run["status"] == "SUSPENDED" and scene.budget and not self._suspended:
            mine = [r for r in scene.budget["runs"] if r["run"] == scene.name]
            if mine and not Decimal(mine[0]["reserved_usd"]):
                self._suspended = {scene.budget["month"]: mine[0]["settled_usd"]}
                self._left = [i["id"] for i in scene.control.instances() if i["state"] in ("pending", "running")]
                self._reason = run["reason"]
                scene.say(f"no lease is left, {mine[0]['settled_usd']} USD are settled; waiting for the month to turn")

    def months(self) -> dict[str, str]:
        return self._suspended

    def problems(self, outcome: Outcome) -> list[str]:
        if not self._suspended:
            return ["the run was never suspended with all its money settled"]
        problems = [f"while it was suspended there were instances: {', '.join(self._left)}"] if self._left else []
        if self._reason != "budget":
            problems.append(f"it was suspended for {self._reason}, not for budget")
        first, second = outcome.run["attempts"][0], outcome.run["attempts"][-1]
        if first["step"] != outcome.watch.last(1) or second["from_step"] != first["step"]:
            problems.append(f"attempt 1 trained to {outcome.watch.last(1)} and published {first['step']}")
        if len(outcome.months) != 2:
            problems.append(f"the run was to be paid in two months, and was in {outcome.months}")
        problems += self._peak_wrong(outcome)
        return problems + self._mail_wrong()

    def clean(self) -> None:
        if not self._limit:
            return
        self.scene.stage.shift_calendar(0)
        self.scene.stage.api.put("budget", body={"limit_usd": self._limit})

    def _raise_price(self) -> None:
        attempt = self.scene.attempt(1)
        assert attempt is not None
        kind, zone, _ = attempt["pool"].split("/")
        price = Decimal(str(self.scene.control.prices(kind, zone)[-1]["usd_hour"]))
        self.scene.control.pool(kind, zone, price=float(price * PEAK))
        self._peak = (kind, zone, price, monotonic())
        self.scene.say(f"the price of {kind} in {zone} rises from {price} to {price * PEAK} USD/h for {PEAK_S:.0f} s")

    def _peak_wrong(self, outcome: Outcome) -> list[str]:
        if self._peak is None:
            return ["the price never rose"]
        peak = float(self._peak[2] * PEAK)
        rates = [float(line["rates_usd_hour"]["instance"]) for line in outcome.ledger["lines"] if line["attempt"] == 1]
        return [] if peak in rates else [f"no slice of attempt 1 was settled at {peak} USD/h, but at {rates}"]

    def _mail_wrong(self) -> list[str]:
        name = self.scene.name
        wanted = {"suspended", "resumed"}
        mails = self.scene.stage.mailbox.wait(
            lambda found: wanted <= {m.kind for m in found if m.run == name}, MAIL_PATIENCE_S
        )
        problems = [
            f"{sum(m.kind == kind and m.run == name for m in mails)} mails say that the run was {kind}, not 1"
            for kind in sorted(wanted)
            if sum(m.kind == kind and m.run == name for m in mails) != 1
        ]
        month = next(iter(self._suspended))
        if sum(m.subject == f"Spot Relay: 100 % of {month} is used" for m in mails) != 1:
            problems.append(f"no mail, or more than one, says that {month} is used up")
        return problems

    def _wait_for_sweeps(self, number: int) -> None:
        stage = self.scene.stage
        enough, until = stage.sweeps + number, monotonic() + SWEEP_PATIENCE_S
        while stage.sweeps < enough and monotonic() < until:
            sleep(0.1)
