"""A whole rehearsal, from nothing to the report: stages, job, scenarios one after another, judgement."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from spotrelay.rehearsal import conduct, job
from spotrelay.rehearsal.conduct import Show
from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scenarios import SCENARIOS
from spotrelay.rehearsal.stage import Stage

HOME = Path(__file__).resolve().parents[2] / ".rehearsal"
TIME_SCALE = 0.1


@dataclass(frozen=True)
class Options:
    """What to rehearse. `run` and `repo` are the user's own job; without them it is the quickstart."""

    scenarios: Sequence[str] = ("warned",)
    seed: int = 1
    run: Path | None = None
    repo: Path | None = None
    home: Path = HOME
    time_scale: float = TIME_SCALE
    overrides: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Setting:
    """What the scenarios of a stage share: how much shorter waits are, and how much dearer Spot is."""

    time_scale: float
    dearer: float


@dataclass(frozen=True)
class Played:
    """What is left to report of a stage that has been taken down."""

    outcomes: list[Outcome]
    left: list[str]
    ledger: dict[str, str]
    sweeps: int
    problems: list[str]


def rehearse(options: Options, show: Show, keep: Any = None) -> dict[str, Any]:
    """Rehearse, write `report.json` and give it. `keep(stage)` is called before the stage is taken down.

    Raises JobError, SpecFileError or SpecError before anything is started when the job can't be rehearsed.
    """
    began = time.monotonic()
    options.home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=options.home))
    try:
        report = _on_stages(options, show, keep, folder, began)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (options.home / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if report["ok"]:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        show.say(f"what was written is kept in {folder}")
    return report


def _on_stages(options: Options, show: Show, keep: Any, folder: Path, began: float) -> dict[str, Any]:
    """The scenarios on as many stages as they need: one for each pace of time, one after another."""
    prepared = job.prepare(folder, options.run, options.repo, options.overrides)
    stages: list[Played] = []
    groups = grouped(options)
    with ThreadPoolExecutor(1) as pool:
        uninterrupted = pool.submit(job.reference, prepared, folder / "uninterrupted") if prepared.ours else None
        for number, (setting, chosen) in enumerate(groups.items(), 1):
            home = folder if len(groups) == 1 else folder / f"stage-{number}"
            with Stage(home, options.home / "cache", setting.time_scale, show.say) as stage:
                if setting.dearer != 1:
                    stage.raise_prices(list(prepared.spec.resources.instance_types), setting.dearer)
                show.say(f"everything is up after {time.monotonic() - began:.1f} s, time_scale {setting.time_scale:g}")
                reference = uninterrupted.result() if uninterrupted else None
                outcomes = [_play(stage, prepared, name, options.seed, reference, show) for name in chosen]
                stages.append(_played(stage, outcomes))
                if keep is not None and number == len(groups):
                    keep(stage)
    return _report(options, stages, began)


def grouped(options: Options) -> dict[Setting, list[str]]:
    """Which scenarios share a stage, in the order asked for."""
    groups: dict[Setting, list[str]] = {}
    for name in options.scenarios:
        scenario = SCENARIOS[name]
        setting = Setting(scenario.time_scale or options.time_scale, scenario.dearer)
        groups.setdefault(setting, []).append(name)
    return groups


def _play(
    stage: Stage, prepared: job.Job, name: str, seed: int, reference: job.Reference | None, show: Show
) -> Outcome:
    outcome = conduct.conduct(stage, prepared, SCENARIOS[name], seed, reference, show)
    show.say(f"scenario {name}: " + ("ok" if not outcome.problems else "; ".join(outcome.problems)))
    return outcome


def _played(stage: Stage, outcomes: list[Outcome]) -> Played:
    left, money = conduct.instances_left(stage), conduct.ledger(stage)
    problems = [f"the sweep failed: {error}" for error in stage.sweep_errors]
    if left:
        problems.append(f"instances are left: {', '.join(left)}")
    costs = sum((Decimal(o.months.get(money["month"], "0")) for o in outcomes), Decimal(0))
    if Decimal(money["settled_usd"]) != costs or Decimal(money["reserved_usd"]) != 0:
        problems.append(f"the ledger does not add up: {money}, and the runs cost {costs} USD in {money['month']}")
    # A calendar that was turned back opens a month's account of storage a second time.
    if money["storage_usd"] != money["stored_usd"] and not stage.calendar_turned:
        problems.append(f"the month's account has {money['storage_usd']} USD beside the runs: {money}")
    return Played(outcomes, left, money, stage.sweeps, problems)


def _report(options: Options, stages: Sequence[Played], began: float) -> dict[str, Any]:
    order = {name: n for n, name in enumerate(options.scenarios)}
    outcomes = sorted((o for stage in stages for o in stage.outcomes), key=lambda o: order[o.scenario])
    runs = [outcome.as_dict() for outcome in outcomes]
    problems = [f"{run['run']}: {problem}" for run in runs for problem in run["problems"]]
    problems += [problem for stage in stages for problem in stage.problems]
    sums = {
        name: f"{sum((Decimal(stage.ledger[name]) for stage in stages), Decimal(0)):.6f}"
        for name in ("reserved_usd", "settled_usd", "storage_usd")
    }
    return {
        "ok": not problems,
        "time_scale": options.time_scale,
        "seconds": round(time.monotonic() - began, 1),
        "problems": problems,
        "runs": runs,
        "instances_left": [instance for stage in stages for instance in stage.left],
        "sweeps": sum(stage.sweeps for stage in stages),
        "ledger": {"month": stages[0].ledger["month"], "limit_usd": stages[0].ledger["limit_usd"], **sums},
    }
