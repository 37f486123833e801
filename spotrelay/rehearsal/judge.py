"""The judgement of a run that has ended: resumed, nothing lost, whole in the bucket, and paid for what it used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from spotrelay.rehearsal import bill, canaries, proof
from spotrelay.rehearsal.job import Job, Reference
from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot, Scenario
from spotrelay.rehearsal.stage import Stage

MOST_RELAUNCH_CALLS = 4


def judge(
    stage: Stage, job: Job, scenario: Scenario, plot: Plot, outcome: Outcome, reference: Reference | None
) -> None:
    """Write into the outcome what is proven and what is not."""
    outcome.problems += _training(stage, scenario, plot, outcome)
    outcome.problems += _bucket(stage, outcome.run, reference)
    outcome.problems += _money(stage, job, plot, outcome)
    outcome.problems += _secrets(stage, job, outcome.run)
    outcome.problems += plot.problems(outcome)


def _secrets(stage: Stage, job: Job, run: Mapping[str, Any]) -> list[str]:
    """Where a planted secret was met, and whether it could have been (I8)."""
    found, bucket = stage.canaries, stage.deployment.resources.BucketName
    canaries.search(found, stage.client, bucket, stage.folder, job_is_ours=job.ours)
    problems = found.problems()
    folders = [Path(i["folder"]) for i in stage.control.instances() if i["tags"].get("spot-relay:run") == run["name"]]
    problems += [problem for folder in folders for problem in canaries.boot_order(folder)]
    s3, logs = stage.client("s3"), []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"runs/{run['name']}/logs/"):
        logs += [s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in page.get("Contents", [])]
    if canaries.PRINTED in (run["spec"] or {}).get("secrets", {}):
        problems += canaries.unproven(found, folders, logs)
    return problems + sorted(stage.sampler.problems)


def _training(stage: Stage, scenario: Scenario, plot: Plot, outcome: Outcome) -> list[str]:
    run, trained = outcome.run, outcome.watch.trained
    problems = []
    if run["status"] != "SUCCEEDED":
        problems.append(f"the run ended {run['status']}: {run['message']}")
    if len(run["attempts"]) < scenario.attempts:
        problems.append(f"there were {len(run['attempts'])} attempts, and the scenario needs {scenario.attempts}")
    outcome.steps_lost = proof.steps_lost(trained, run["attempts"])
    outcome.downtime_s = proof.downtime_s(trained)
    outcome.relaunch_calls = None if scenario.crowded else _relaunch_calls(stage, run["name"])
    if any(t.steps for t in trained.values()):
        problems += proof.resumed(trained, run["attempts"])
    elif sum(1 for a in run["attempts"] if a["from_step"]) < 1 and scenario.attempts > 1:
        problems.append("no attempt went on from a checkpoint")
    interval = max((b - a for a, b in zip(outcome.published, outcome.published[1:], strict=False)), default=0)
    losses = plot.unwarned_losses()
    allowed = interval * (losses if losses is not None else 0 if scenario.warned else 1)
    if outcome.steps_lost > allowed:
        problems.append(f"{outcome.steps_lost} steps were lost; at most {allowed} may be")
    if outcome.relaunch_calls is not None and outcome.relaunch_calls > MOST_RELAUNCH_CALLS:
        problems.append(f"the relaunch took {outcome.relaunch_calls} AWS calls; {MOST_RELAUNCH_CALLS} are enough")
    return problems


def _bucket(stage: Stage, run: Mapping[str, Any], reference: Reference | None) -> list[str]:
    """What is wrong with the run's results and checkpoints in S3."""
    objects = read_all(stage.client("s3"), stage.deployment.resources.BucketName, f"runs/{run['name']}/")
    manifests = {
        k.removesuffix("MANIFEST.json"): json.loads(v) for k, v in objects.items() if k.endswith("/MANIFEST.json")
    }
    problems = proof.checkpoints_whole(objects, manifests)
    prefix = run["results"] or "(none)"
    results = {key.removeprefix(prefix): body for key, body in objects.items() if key.startswith(prefix)}
    if not results:
        return [*problems, "there are no results in the bucket"]
    if reference is not None:
        problems += proof.same_end(reference, results)
    return problems


def read_all(s3: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    """Every object there. The sweep may be pruning: what goes in between has all of it read anew, since the manifest that was
    just read may be of the checkpoint that goes.
    """
    while True:
        objects = {}
        try:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    objects[item["Key"]] = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        except s3.exceptions.NoSuchKey:
            continue
        return objects


def _money(stage: Stage, job: Job, plot: Plot, outcome: Outcome) -> list[str]:
    """The ledger beside a bill of our own."""
    name = outcome.run["name"]
    outcome.ledger = stage.api.get("runs", name, "ledger")
    budget = stage.api.get("budget")
    now = next((r["settled_usd"] for r in budget["runs"] if r["run"] == name), "0.000000")
    outcome.months = {**plot.months(), budget["month"]: now}
    lives = bill.lives(stage.control.instances(), stage.control.events())
    problems = bill.lines_wrong(outcome.ledger)
    if sum(map(Decimal, outcome.months.values())) != Decimal(outcome.run["cost_usd"]):
        problems.append(f"the run cost {outcome.run['cost_usd']} USD, and its months have {outcome.months}")
    bills = []
    for attempt in outcome.run["attempts"]:
        life = lives.get(attempt["instance_id"])
        if life is None:
            continue
        known = bill.prices({(life.kind, life.zone): stage.control.prices(life.kind, life.zone)})
        lines = [line for line in outcome.ledger["lines"] if line["attempt"] == attempt["attempt"]]
        problems += bill.slices_wrong(lines, life, known) + bill.seconds_wrong(lines, life)
        cuts = [datetime.fromisoformat(line["start"]) for line in lines if line["seq"] > 1]
        shift = timedelta(seconds=stage.calendar_shift_s)
        bills.append(bill.billed(life, cuts, known, job.spec.resources.disk_gb, shift))
    whole = bill.total(bills)
    outcome.billed_usd = f"{sum(whole.values(), Decimal(0)):.6f}"
    return problems + bill.compared(whole, outcome.months)


def _relaunch_calls(stage: Stage, run: str) -> int | None:
    """AWS calls from the warning to the launch's answer, as the deployed function counted and logged them."""
    for function in ("on_warning", "", "on_state_change"):
        for message in stage.function_logs(function, "calls_to_launch"):
            try:
                line = json.loads(message)
            except ValueError:
                continue
            if isinstance(line, dict) and line.get("run") == run and line.get("calls_to_launch"):
                return int(line["calls_to_launch"])
    return None
