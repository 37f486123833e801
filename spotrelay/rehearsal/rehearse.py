"""A whole rehearsal, from nothing to the report: stage, job, scenarios one after another, judgement."""

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


def rehearse(options: Options, show: Show, keep: Any = None) -> dict[str, Any]:
    """Rehearse, write `report.json` and give it. `keep(stage)` is called before the stage is taken down.

    Raises JobError, SpecFileError or SpecError before anything is started when the job can't be rehearsed.
    """
    began = time.monotonic()
    options.home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=options.home))
    try:
        report = _on_a_stage(options, show, keep, folder, began)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (options.home / "report.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if report["ok"]:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        show.say(f"what was written is kept in {folder}")
    return report


def _on_a_stage(options: Options, show: Show, keep: Any, folder: Path, began: float) -> dict[str, Any]:
    prepared = job.prepare(folder, options.run, options.repo, options.overrides)
    say = show.say
    outcomes: list[conduct.Outcome] = []
    with ThreadPoolExecutor(1) as pool:
        uninterrupted = pool.submit(job.reference, prepared, folder / "uninterrupted") if prepared.ours else None
        with Stage(folder, options.home / "cache", options.time_scale, say) as stage:
            say(f"everything is up after {time.monotonic() - began:.1f} s")
            reference = uninterrupted.result() if uninterrupted else None
            for name in options.scenarios:
                outcome = conduct.conduct(stage, prepared, SCENARIOS[name], options.seed, reference, show)
                outcomes.append(outcome)
                say(f"scenario {name}: " + ("ok" if not outcome.problems else "; ".join(outcome.problems)))
            report = _report(options, stage, outcomes, began)
            if keep is not None:
                keep(stage)
            return report


def _report(options: Options, stage: Stage, outcomes: Sequence[conduct.Outcome], began: float) -> dict[str, Any]:
    left = conduct.instances_left(stage)
    money = conduct.ledger(stage)
    runs = [outcome.as_dict() for outcome in outcomes]
    problems = [f"{run['run']}: {problem}" for run in runs for problem in run["problems"]]
    problems += [f"the sweep failed: {error}" for error in stage.sweep_errors]
    if left:
        problems.append(f"instances are left: {', '.join(left)}")
    costs = sum((Decimal(run["cost_usd"]) for run in runs), Decimal(0))
    if Decimal(money["settled_usd"]) != costs or Decimal(money["reserved_usd"]) != 0:
        problems.append(f"the ledger does not add up: {money}, and the runs cost {costs} USD")
    return {
        "ok": not problems,
        "time_scale": options.time_scale,
        "seconds": round(time.monotonic() - began, 1),
        "problems": problems,
        "runs": runs,
        "instances_left": left,
        "sweeps": stage.sweeps,
        "ledger": money,
    }
