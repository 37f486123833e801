"""What agents ask of the routes, without HTTP, and what they are answered. AWS is moto, EC2 a fake."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from chalicelib import agents
from chalicelib.core import events as ev
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.controlled import BUCKET, ME, SPEC, Deployed, refused


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


@pytest.mark.parametrize(
    "arn",
    [
        ME,
        "arn:aws:sts::123456789012:assumed-role/Admin/i-00000001",
        "arn:aws:sts::123456789012:assumed-role/spot-relay-test-instance/me",
        "arn:aws:sts::123456789012:assumed-role/spot-relay-other-instance/i-00000001",
    ],
)
def test_who_is_no_instance_of_ours_is_refused(stage: Deployed, arn: str) -> None:
    stage.submit()
    with refused(403, "not_an_instance"):
        agents.identify(stage.c, arn, SPEC["name"], 1)


def test_another_runs_instance_is_refused(stage: Deployed) -> None:
    stage.submit()
    with refused(403, "not_your_attempt"):
        stage.caller("i-0000beef")


def test_an_unrecorded_instance_is_adopted_when_its_tags_name_the_attempt(stage: Deployed) -> None:
    stage.ec2.silent = True
    stage.submit()
    stage.ec2.silent = False
    with refused(409, "retry"):
        stage.caller("i-0000beef")
    assert stage.caller().attempt.instance_id == "i-00000001"


def test_a_first_claim_gives_the_work_and_names_of_secrets_only(stage: Deployed) -> None:
    stage.submit(secrets={"WANDB": "wandb-key"})
    answer = stage.claim(False)
    assert answer["action"] == "prepare"
    assert answer["secrets"] == {
        "token": "/spot-relay/test/secrets/github-token",
        "env": {"WANDB": "/spot-relay/test/secrets/wandb-key"},
    }
    assert answer["source"] is None
    assert answer["credentials"]["session_token"]


def test_the_baton_waits_for_the_holders_last_checkpoint_and_the_newest_whole_one_is_restored(stage: Deployed) -> None:
    stage.warned()
    stage.publish(1, 100)
    stage.claim(False, 2)
    assert stage.claim(True, 2)["action"] == "wait"
    assert stage.beat(1)["action"] == "drain"
    stage.publish(1, 120)
    stage.beat(1, checkpoint={"step": 120, "bytes": 1, "final": True})
    answer = stage.claim(True, 2)
    assert (answer["action"], answer["checkpoint"]["step"]) == ("restore", 120)
    assert [o["step"] for o in answer["older"]] == [100]
    assert stage.claim(True, 2) == answer
    stage.publish(1, 140)  # a superseded attempt writes on: it counts for nothing
    assert stage.claim(True, 2, [{"attempt": 1, "step": 120}])["checkpoint"]["step"] == 100
    assert stage.beat(1)["action"] == "superseded"


def test_a_checkpoint_published_while_the_successor_claims_is_not_lost(stage: Deployed) -> None:
    """The holder's last word comes between the successor's look into the bucket and its write."""
    stage.warned()
    stage.publish(1, 100)
    stage.claim(False, 2)
    stage.claim(True, 2)
    stage.clock.now += timedelta(minutes=3)  # the notice is long over: the successor need not wait any more
    listed = stage.c.bucket.published
    raced: list[int] = []

    def published(run: Any, before: int) -> Any:
        found = listed(run, before)
        if not raced:
            raced.append(1)
            stage.publish(1, 120)
            stage.beat(1, checkpoint={"step": 120, "bytes": 1, "final": True})
        return found

    stage.c.bucket.published = published  # type: ignore[method-assign]
    assert stage.claim(True, 2)["checkpoint"]["step"] == 120


def test_credentials_come_when_the_agent_does_not_know_the_lease(stage: Deployed) -> None:
    stage.training()
    first = stage.beat()
    assert first["credentials"]
    assert stage.beat(lease_end=first["lease_end"])["credentials"] is None
    stage.clock.now += timedelta(minutes=26)
    renewed = stage.beat(lease_end=first["lease_end"])
    assert renewed["lease_end"] > first["lease_end"]
    assert renewed["credentials"]


def test_a_lease_that_the_month_does_not_cover_is_not_renewed(stage: Deployed) -> None:
    stage.training()
    held = stage.c.store.ledger.month("2026-11")
    stage.c.dynamodb.update_item(
        TableName=TABLE,
        Key={"pk": {"S": "LEDGER#2026-11"}, "sk": {"S": "MONTH"}},
        UpdateExpression="SET #f = :none",
        ExpressionAttributeNames={"#f": "free"},
        ExpressionAttributeValues={":none": {"N": "0"}},
    )
    before = stage.beat()["lease_end"]
    stage.clock.now += timedelta(minutes=26)
    answer = stage.beat()
    assert (answer["action"], answer["reason"], answer["lease_end"]) == ("drain", "budget", before)
    assert stage.c.store.ledger.month("2026-11")["reserved"] == held["reserved"]


def test_a_success_is_believed_when_the_bucket_has_its_metrics(stage: Deployed) -> None:
    stage.training()
    stage.s3.put_object(Bucket=BUCKET, Key="runs/cloud_prod_001/results/0001/metrics.json", Body=b'{"loss": 0.1}')
    results = {"prefix": "runs/cloud_prod_001/results/0001/", "metrics": {"loss": 0.1}, "found": ["loss"]}
    assert stage.leave(reason="done", code=0, results=results) == {"linger_s": 0.0}
    run = stage.run
    assert (run["status"], run["metrics"]) == ("SUCCEEDED", {"loss": 0.1})


def test_while_two_leases_of_a_handoff_stand_a_refused_renewal_suspends_nothing(stage: Deployed) -> None:
    """The predecessor's lease comes back in a moment, and the renewal is asked for again."""
    stage.warned()
    stage.claim(False, attempt=2)
    stage.c.store.ledger.open(["2026-12"])
    held = stage.c.store.ledger.month("2026-11")
    stage.c.store.ledger.set_limit(held["reserved"] + held["settled"], ["2026-11", "2026-12"], stage.clock.now)
    stage.clock.now += timedelta(minutes=26)
    told = stage.beat(1)
    assert (told["action"], stage.run["status"]) == ("continue", "RECOVERING")
    stage.c.shell.on_instance(ev.InstanceState("i-00000001", "terminated"))
    assert stage.beat(2)["lease_end"] > told["lease_end"]


def test_a_success_without_its_metrics_in_the_bucket_is_none(stage: Deployed) -> None:
    stage.training()
    stage.leave(reason="done", code=0)
    assert (stage.run["status"], stage.run["reason"]) == ("FAILED", "metrics_missing")


def test_a_command_gets_credentials_of_its_own_only_when_the_spec_asks_and_no_secret_is_in_their_reach(
    stage: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    assume = stage.c.sts.assume_role
    monkeypatch.setattr(stage.c.sts, "assume_role", lambda **given: (asked.append(given), assume(**given))[1])
    stage.submit()
    assert stage.claim(False)["command_credentials"] is None
    assert len(asked) == 1
    stage.submit(name="lent", aws_credentials=True)
    run = stage.c.store.load("lent")
    assert run is not None
    given = agents._all_credentials(stage.c, run, 1, agents._spec(stage.c, "lent"))
    assert given["credentials"]
    assert given["command_credentials"]
    narrow, wide = (json.loads(each["Policy"]) for each in asked[1:])
    assert {s["Action"] for s in narrow["Statement"]} == {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
    (write,) = [s["Resource"] for s in narrow["Statement"] if s["Action"] == "s3:PutObject"]
    assert write == "arn:aws:s3:::relay-test/runs/lent/results/0001/*"
    assert any(s["Action"] == "ssm:GetParameter" for s in wide["Statement"])
