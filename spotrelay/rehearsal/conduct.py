"""Conduct a rehearsal: submit the job, let the scenario strike, wait for the end, and have judged what came of it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from spotrelay.client import ENDED, ApiRefused, ApiUnreachable
from spotrelay.rehearsal import git_server, scenarios
from spotrelay.rehearsal.canaries import TOKEN
from spotrelay.rehearsal.job import Job, Reference
from spotrelay.rehearsal.judge import judge
from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot, Scenario, Scene
from spotrelay.rehearsal.stage import STAGE, Stage
from spotrelay.rehearsal.watch import Watch

LOOK_S = 0.2
PATIENCE_S, CLEAR_PATIENCE_S = 900.0, 60.0


class Show:
    """What is shown while it runs; `spotrelay.rehearsal.display` shows it to a person."""

    def say(self, text: str) -> None:
        """One line of what happened."""

    def look(self, run: Mapping[str, Any], watch: Watch, total: int | None) -> None:
        """How the run stands now."""


def conduct(stage: Stage, job: Job, scenario: Scenario, seed: int, reference: Reference | None, show: Show) -> Outcome:
    """One scenario on a stage that is up, from submission to judgement."""
    began = time.monotonic()
    name = f"{job.spec.name[:36]}-{scenario.name}"
    with git_server.serving(job.repo, stage.canaries.values[TOKEN]) as repository:
        spec = stage.canaries.plant(stage.client("ssm"), STAGE, job.named(name, scenario.lasts_s), repository)
        outcome = _conduct(stage, job, spec, scenario, seed, reference, show)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _conduct(
    stage: Stage,
    job: Job,
    spec: Mapping[str, Any],
    scenario: Scenario,
    seed: int,
    reference: Reference | None,
    show: Show,
) -> Outcome:
    name = str(spec["name"])
    pools = stage.pools(list(job.spec.resources.instance_types))
    scenarios.reset(stage.control, pools)
    total = job.spec.progress.total_steps or 0
    at_step = int(total * random.Random(f"{seed} {scenario.name}").uniform(*scenario.when))
    watch = Watch(stage.control, name, _progress_files(job)).start()
    scene = Scene(stage, spec, watch, pools, at_step, show.say, seed)
    plot = scenario.plot(scene)
    try:
        show.say(f"scenario {scenario.name}: {scenario.summary}")
        plot.prepare()
        scene.run = stage.api.post("runs", body=spec)
        show.say(f"submitted {name}")
        outcome = _follow(stage, scenario, scene, plot, show, total or None)
        scene.give_controller()
        scenarios.reset(stage.control, pools)
        _clear(stage, outcome)
        judge(stage, job, scenario, plot, outcome, reference)
    finally:
        watch.stop()
        scene.give_controller()
        plot.clean()
        scenarios.reset(stage.control, pools)
    return outcome


def _follow(stage: Stage, scenario: Scenario, scene: Scene, plot: Plot, show: Show, total: int | None) -> Outcome:
    """Until the run has ended, or patience has."""
    assert scene.run is not None
    until = time.monotonic() + PATIENCE_S
    said: tuple[Any, ...] = ()
    problems: list[str] = []
    while True:
        if not scene.away:
            try:
                problems += [p for p in _look(stage, scene) if p not in problems]
            except (ApiRefused, ApiUnreachable) as error:
                show.say(f"the API: {error}")
        run = scene.run
        now = (run["status"], run["reason"], run["message"])
        if now != said:
            said = now
            show.say(f"{run['status']} ({run['reason']}) {run['message']}")
        show.look(run, scene.watch, total)
        if run["status"] in ENDED or time.monotonic() > until:
            if run["status"] not in ENDED:
                problems.append(f"after {PATIENCE_S:.0f} s the run is still {run['status']}: {run['message']}")
                scene.give_controller()
                stage.api.post("runs", scene.name, "cancel")
            return Outcome(scenario.name, dict(run), scene.watch, scene.published, stage.time_scale, problems)
        plot.strike()
        time.sleep(LOOK_S)


def _look(stage: Stage, scene: Scene) -> list[str]:
    """See how it stands; what is wrong with the money is a problem at every look (I3)."""
    scene.run = stage.api.get("runs", scene.name)
    for found in sorted(c["step"] for c in stage.api.get("runs", scene.name, "checkpoints")["checkpoints"]):
        if found not in scene.published:
            scene.published.append(found)
    scene.budget = budget = stage.api.get("budget")
    if Decimal(budget["settled_usd"]) + Decimal(budget["reserved_usd"]) > Decimal(budget["limit_usd"]):
        return [
            f"{budget['month']} has {budget['settled_usd']} USD settled and {budget['reserved_usd']} USD reserved, "
            f"above its limit of {budget['limit_usd']} USD"
        ]
    return []


def _clear(stage: Stage, outcome: Outcome) -> None:
    """Wait until every instance of the run is gone and its money settled."""
    name = outcome.run["name"]
    until = time.monotonic() + CLEAR_PATIENCE_S
    while True:
        outcome.run = stage.api.get("runs", name)
        left = instances_left(stage, name)
        if not left and float(outcome.run["reserved_usd"]) == 0:
            return
        if time.monotonic() > until:
            if left:
                outcome.problems.append(f"instances are left: {', '.join(left)}")
            if float(outcome.run["reserved_usd"]):
                outcome.problems.append(f"{outcome.run['reserved_usd']} USD are still reserved")
            return
        time.sleep(LOOK_S)


def instances_left(stage: Stage, run: str | None = None) -> list[str]:
    return [
        i["id"]
        for i in stage.control.instances()
        if i["state"] != "terminated" and run in (None, i["tags"].get("spot-relay:run"))
    ]


def _progress_files(job: Job) -> list[str]:
    name = job.spec.progress.metrics
    return [f"{job.spec.results.dir}/{name}", name] if name else []


def ledger(stage: Stage) -> dict[str, str]:
    """The month's account: what runs hold and have cost, and what else it has, which is storage until the month ends.

    `stored_usd` is what storage says of itself.
    """
    budget = stage.api.get("budget")
    stored = budget["storage"] or {"reserved_usd": "0", "settled_usd": "0"}
    runs = {
        f"{name}_usd": sum((Decimal(run[f"{name}_usd"]) for run in budget["runs"]), Decimal(0))
        for name in ("reserved", "settled")
    }
    rest = Decimal(budget["reserved_usd"]) + Decimal(budget["settled_usd"]) - sum(runs.values())
    return {
        "month": budget["month"],
        "limit_usd": budget["limit_usd"],
        **{name: f"{usd:.6f}" for name, usd in runs.items()},
        "storage_usd": f"{rest:.6f}",
        "stored_usd": f"{sum(Decimal(stored[name]) for name in ('reserved_usd', 'settled_usd')):.6f}",
    }
