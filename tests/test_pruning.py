"""Checkpoints in the bucket: listed with whether they count, pruned when they don't."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import patch

import pytest

from chalicelib import people
from chalicelib.contracts import api
from chalicelib.core import events as ev
from chalicelib.core.model import Status
from chalicelib.store import Store
from chalicelib.sweep import SweepFailed, sweep
from chalicelib.upkeep import Upkeep
from tests.controlled import BUCKET, SPEC, Deployed


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


def test_checkpoints_are_listed_with_whether_they_count(stage: Deployed) -> None:
    stage.training()
    for step in (10, 20):
        stage.publish(1, step)
    stage.s3.put_object(Bucket=BUCKET, Key="runs/cloud_prod_001/checkpoints/0001/000000000030/model", Body=b"half")
    shown = people.checkpoints(stage.c, SPEC["name"], {})
    api.CheckpointList.model_validate(shown)
    assert [(c["step"], c["counts"]) for c in shown["checkpoints"]] == [(20, True), (10, True)]


def test_pruning_keeps_the_newest_that_count(stage: Deployed) -> None:
    stage.training()
    for step in range(10, 60, 10):
        stage.publish(1, step)
    run = stage.c.store.load(SPEC["name"])
    assert run
    gone = stage.c.bucket.prune(run, 2)
    assert [g.step for g in gone] == [30, 20, 10]
    assert [c["step"] for c in people.checkpoints(stage.c, SPEC["name"], {})["checkpoints"]] == [50, 40]


def test_a_heartbeat_after_the_one_that_told_of_a_checkpoint_does_not_keep_it_from_being_pruned(
    stage: Deployed,
) -> None:
    stage.training()
    for step in (10, 20, 30, 40):
        stage.publish(1, step)
        stage.beat(step=step, checkpoint={"step": step, "bytes": 1, "final": False})
    stage.clock.now += timedelta(seconds=30)
    stage.beat(step=45, checkpoint={"step": 40, "bytes": 1, "final": False}, metrics={"loss": 0.5})
    run = stage.c.store.load(SPEC["name"])
    assert run
    Upkeep(stage.c, stage.clock.now, stage.clock.now).prune(run)
    assert [c["step"] for c in people.checkpoints(stage.c, SPEC["name"], {})["checkpoints"]] == [40, 30, 20]
    (beat,) = stage.c.records.beats(SPEC["name"]).values()
    assert (beat.step, beat.metrics, beat.checkpoint_at) == (45, {"loss": 0.5}, stage.clock.now - timedelta(seconds=30))
    stage.beat(step=46)
    (beat,) = stage.c.records.beats(SPEC["name"]).values()
    assert (beat.checkpoint, beat.metrics) == (None, {})


def test_pruning_waits_for_ten_minutes_and_not_at_the_end(stage: Deployed) -> None:
    stage.training()

    def pruned_to(step: int) -> list[int]:
        stage.publish(1, step)
        stage.beat(step=step, checkpoint={"step": step, "bytes": 1, "final": False})
        run = stage.c.store.load(SPEC["name"])
        assert run
        Upkeep(stage.c, stage.clock.now, stage.clock.now).prune(run)
        return [c["step"] for c in people.checkpoints(stage.c, SPEC["name"], {})["checkpoints"]]

    for step in (10, 20, 30):
        stage.publish(1, step)
    assert pruned_to(40) == [40, 30, 20]
    stage.clock.now += timedelta(minutes=5)
    assert pruned_to(50) == [50, 40, 30, 20]
    assert pruned_to(60) == [60, 50, 40, 30, 20]
    stage.clock.now += timedelta(minutes=5)
    assert pruned_to(70) == [70, 60, 50]
    stage.clock.now += timedelta(minutes=1)
    stage.publish(1, 80)
    stage.beat(step=80, checkpoint={"step": 80, "bytes": 1, "final": True})
    stage.leave(reason="done", step=80)
    run = stage.c.store.load(SPEC["name"])
    assert run
    Upkeep(stage.c, stage.clock.now, stage.clock.now).prune(run)
    assert [c["step"] for c in people.checkpoints(stage.c, SPEC["name"], {})["checkpoints"]] == [80, 70, 60]


def test_what_came_after_the_last_pruning_is_pruned_once_the_run_has_ended(stage: Deployed) -> None:
    """Exit and end of the instance may both come between two passes, so that none sees an agent leave."""
    stage.training()
    for step in (10, 20, 30, 40, 50):
        stage.publish(1, step)
    stage.beat(step=50, checkpoint={"step": 50, "bytes": 1, "final": True})
    stage.leave(reason="exit_code", code=1)
    run = stage.c.shell.on_instance(ev.InstanceState(stage.instance(1), "terminated"))
    assert run
    assert (run.status, run.live, list(stage.c.store.live())) == (Status.FAILED, (), [run.name])

    def swept() -> list[int]:
        around = Upkeep(stage.c, stage.clock.now, stage.clock.now)
        sweep(stage.c.shell, stage.c.store.glances(), [], around, stage.clock.now).check()
        return [c["step"] for c in people.checkpoints(stage.c, SPEC["name"], {})["checkpoints"]]

    with patch.object(stage.c.bucket, "prune", side_effect=ConnectionError), pytest.raises(SweepFailed):
        swept()
    assert swept() == [50, 40, 30]
    assert list(stage.c.store.live()) == []


def test_what_is_pruned_costs_nothing_more(stage: Deployed) -> None:
    """In a versioned bucket a plain delete hides an object, and AWS goes on charging it."""
    stage.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    stage.training()
    for step in (10, 20, 30):
        stage.publish(1, step)
    run = stage.c.store.load(SPEC["name"])
    assert run
    assert [g.step for g in stage.c.bucket.prune(run, 2)] == [10]
    left = stage.s3.list_object_versions(Bucket=BUCKET, Prefix=f"runs/{SPEC['name']}/checkpoints/")
    assert [v["Key"].split("/")[-2] for v in left["Versions"]] == ["000000000020", "000000000030"]
    assert "DeleteMarkers" not in left
