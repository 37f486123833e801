"""Conduct a rehearsal: submit the job, let the scenario strike, wait for the end, and judge what came of it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from spotrelay import bundle
from spotrelay.client import ApiRefused, ApiUnreachable
from spotrelay.rehearsal import proof, scenarios
from spotrelay.rehearsal.job import Job, Reference
from spotrelay.rehearsal.scenarios import Scenario, Scene
from spotrelay.rehearsal.stage import Stage
from spotrelay.rehearsal.watch import Watch

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
LOOK_S = 0.2
PATIENCE_S, CLEAR_PATIENCE_S = 900.0, 60.0
MOST_RELAUNCH_CALLS = 4


@dataclass
class Outcome:
    """What came of one scenario. `problems` is empty when all is proven."""

    scenario: str
    run: dict[str, Any]
    watch: Watch
    published: list[int]
    problems: list[str] = field(default_factory=list)
    steps_lost: int = 0
    downtime_s: float = 0.0
    relaunch_calls: int | None = None

    def as_dict(self) -> dict[str, Any]:
        attempts = [
            {
                "attempt": a["attempt"],
                "instance_id": a["instance_id"],
                "pool": a["pool"],
                "from_step": a["from_step"],
                "to_step": self.watch.last(a["attempt"]) or a["step"],
                "ended_by": a["ended_by"],
            }
            for a in self.run["attempts"]
        ]
        return {
            "run": self.run["name"],
            "scenario": self.scenario,
            "status": self.run["status"],
            "attempts": attempts,
            "steps_lost": self.steps_lost,
            "downtime_s": self.downtime_s,
            "relaunch_calls": self.relaunch_calls,
            "cost_usd": self.run["cost_usd"],
            "problems": self.problems,
        }


class Show:
    """What is shown while it runs; `spotrelay.rehearsal.display` shows it to a person."""

    def say(self, text: str) -> None:
        """One line of what happened."""

    def look(self, run: Mapping[str, Any], watch: Watch, total: int | None) -> None:
        """How the run stands now."""


def conduct(stage: Stage, job: Job, scenario: Scenario, seed: int, reference: Reference | None, show: Show) -> Outcome:
    """One scenario on a stage that is up, from submission to judgement."""
    name = f"{job.spec.name[:40]}-{scenario.name}"
    spec = job.named(name)
    pools = _pools(stage, list(job.spec.resources.instance_types))
    scenarios.reset(stage.control, pools)
    scenario.prepare(stage.control)
    total = job.spec.progress.total_steps or 0
    at_step = int(total * random.Random(f"{seed} {scenario.name}").uniform(0.3, 0.55))
    watch = Watch(stage.control, name, _progress_files(job)).start()
    scene = Scene(stage.control, watch, pools, at_step, show.say, lambda hide: _hide_agent(stage, hide))
    try:
        show.say(f"scenario {scenario.name}: {scenario.summary}")
        scene.run = stage.api.post("runs", body=spec)
        show.say(f"submitted {name}")
        outcome = _follow(stage, scenario, scene, show, total or None)
        scenarios.reset(stage.control, pools)
        _clear(stage, outcome)
        _judge(stage, job, scenario, outcome, reference)
    finally:
        watch.stop()
        scenarios.reset(stage.control, pools)
    return outcome


def _follow(stage: Stage, scenario: Scenario, scene: Scene, show: Show, total: int | None) -> Outcome:
    """Until the run has ended, or patience has."""
    assert scene.run is not None
    name = str(scene.run["name"])
    until = time.monotonic() + PATIENCE_S
    said: tuple[Any, ...] = ()
    while True:
        try:
            scene.run = stage.api.get("runs", name)
            for found in sorted(c["step"] for c in stage.api.get("runs", name, "checkpoints")["checkpoints"]):
                if found not in scene.published:
                    scene.published.append(found)
        except (ApiRefused, ApiUnreachable) as error:
            show.say(f"the API: {error}")
        run = scene.run
        assert run is not None
        now = (run["status"], run["reason"], run["message"])
        if now != said:
            said = now
            show.say(f"{run['status']} ({run['reason']}) {run['message']}")
        show.look(run, scene.watch, total)
        if run["status"] in ENDED:
            return Outcome(scenario.name, dict(run), scene.watch, scene.published)
        if time.monotonic() > until:
            gave_up = f"after {PATIENCE_S:.0f} s the run is still {run['status']}: {run['message']}"
            stage.api.post("runs", name, "cancel")
            return Outcome(scenario.name, dict(run), scene.watch, scene.published, [gave_up])
        scenario.strike(scene)
        time.sleep(LOOK_S)


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


def _judge(stage: Stage, job: Job, scenario: Scenario, outcome: Outcome, reference: Reference | None) -> None:
    run, trained = outcome.run, outcome.watch.trained
    problems = outcome.problems
    if run["status"] != "SUCCEEDED":
        problems.append(f"the run ended {run['status']}: {run['message']}")
    if len(run["attempts"]) < scenario.attempts:
        problems.append(f"there were {len(run['attempts'])} attempts, and the scenario needs {scenario.attempts}")
    outcome.steps_lost = proof.steps_lost(trained, run["attempts"])
    outcome.downtime_s = proof.downtime_s(trained)
    outcome.relaunch_calls = _relaunch_calls(stage, run["name"])
    if any(t.steps for t in trained.values()):
        problems += proof.resumed(trained, run["attempts"])
    elif sum(1 for a in run["attempts"] if a["from_step"]) < 1 and scenario.attempts > 1:
        problems.append("no attempt went on from a checkpoint")
    interval = max((b - a for a, b in zip(outcome.published, outcome.published[1:], strict=False)), default=0)
    allowed = 0 if scenario.warned else interval
    if outcome.steps_lost > allowed:
        problems.append(f"{outcome.steps_lost} steps were lost; at most {allowed} may be")
    if outcome.relaunch_calls is not None and outcome.relaunch_calls > MOST_RELAUNCH_CALLS:
        problems.append(f"the relaunch took {outcome.relaunch_calls} AWS calls; {MOST_RELAUNCH_CALLS} are enough")
    problems += _bucket_problems(stage, job, run, reference)


def _bucket_problems(stage: Stage, job: Job, run: Mapping[str, Any], reference: Reference | None) -> list[str]:
    """What is wrong with the run's results and checkpoints in S3."""
    s3, bucket = stage.client("s3"), stage.deployment.resources.BucketName
    objects = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"runs/{run['name']}/"):
        for item in page.get("Contents", []):
            objects[item["Key"]] = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
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


def _relaunch_calls(stage: Stage, run: str) -> int | None:
    """AWS calls from the warning to the launch's answer, as the deployed function counted and logged them."""
    for function in ("on_warning", "", "on_state_change"):
        for message in stage.function_logs(function):
            try:
                line = json.loads(message)
            except ValueError:
                continue
            if isinstance(line, dict) and line.get("run") == run and line.get("calls_to_launch"):
                return int(line["calls_to_launch"])
    return None


def _pools(stage: Stage, types: list[str]) -> list[tuple[str, str]]:
    offered = stage.client("ec2").describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": types}]
    )
    return sorted((o["InstanceType"], o["Location"]) for o in offered["InstanceTypeOfferings"])


def _progress_files(job: Job) -> list[str]:
    name = job.spec.progress.metrics
    return [f"{job.spec.results.dir}/{name}", name] if name else []


def _hide_agent(stage: Stage, hide: bool) -> None:
    s3, bucket = stage.client("s3"), stage.deployment.resources.BucketName
    key = bundle.key(stage.deployment.agent_sha256)
    if hide:
        s3.copy_object(Bucket=bucket, Key=f"hidden/{key}", CopySource={"Bucket": bucket, "Key": key})
        s3.delete_object(Bucket=bucket, Key=key)
    else:
        s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": f"hidden/{key}"})


def ledger(stage: Stage) -> dict[str, str]:
    """The month's account, what storage holds of it apart: that stays reserved until the month ends."""
    budget = stage.api.get("budget")
    stored = budget["storage"] or {"reserved_usd": "0", "settled_usd": "0"}
    runs = {
        f"{name}_usd": Decimal(budget[f"{name}_usd"]) - Decimal(stored[f"{name}_usd"])
        for name in ("reserved", "settled")
    }
    return {
        "limit_usd": budget["limit_usd"],
        **{name: f"{usd:.6f}" for name, usd in runs.items()},
        "storage_usd": f"{Decimal(stored['reserved_usd']) + Decimal(stored['settled_usd']):.6f}",
    }
