"""Routes without HTTP: what people and agents ask for, and what they are answered. AWS is moto, EC2 a fake."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from chalicelib import agents, money, people
from chalicelib.contracts import api
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.money import Budget
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.pools import Priced
from chalicelib.prices import Quote
from chalicelib.settings import Settings
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import OFFERS
from tests.fakes import Clock, FakeEc2, FakeMeter, FakeWatchdog

ME = "arn:aws:iam::123456789012:user/me"
SPEC: dict[str, Any] = {
    "name": "cloud_prod_001",
    "source": {"repo": "https://github.com/OWNER/REPO.git", "token": "github-token"},
    "command": "python train.py --out {results}",
    "checkpoint": {"resume": "--resume {checkpoint}"},
    "results": {"require": ["loss"]},
}
SETTINGS = Settings(
    stage="test",
    table=TABLE,
    bucket="relay-test",
    launch_template="spot-relay-test",
    run_role_arn="arn:aws:iam::123456789012:role/spot-relay-test-run",
    agent_sha256="0" * 64,
    api_url="https://api.example.com/api",
    limit_usd=Decimal(20),
    topic_arn="",
    log_group="/spot-relay/test",
)
BUCKET = SETTINGS.bucket


class Deployed:
    """A controller with its table and bucket in moto."""

    def __init__(self, store: Store) -> None:
        self.clock, self.ec2 = Clock(), FakeEc2()
        session, numbers = boto3.Session(region_name="us-east-1"), itertools.count(1)
        self.c = Controller(SETTINGS, session, self.clock, lambda: f"uid{next(numbers)}")
        self.watchdog, self.meter = FakeWatchdog(), FakeMeter()
        self.c.__dict__.update(store=store, fleet=self.ec2, watchdog=self.watchdog, meter=self.meter)
        self.c.__dict__.update(quotas=SimpleNamespace(limit=lambda market: 8, vcpus=lambda types: {"c6i.xlarge": 4}))
        self.price_age = timedelta()
        self.c.priced = lambda types, market: tuple(Priced(offer, self.quote) for offer in OFFERS)  # type: ignore[method-assign]
        self.s3 = session.client("s3")
        self.s3.create_bucket(Bucket=BUCKET)

    @property
    def quote(self) -> Quote:
        return Quote(Decimal("0.068"), self.clock.now - self.price_age, "spot_history")

    def submit(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        return people.submit(self.c, {**SPEC, **changes}, ME)

    def caller(self, instance: str = "i-00000001", attempt: int = 1) -> agents.Caller:
        arn = f"arn:aws:sts::123456789012:assumed-role/spot-relay-test-instance/{instance}"
        return agents.identify(self.c, arn, SPEC["name"], attempt)

    def claim(self, ready: bool, attempt: int = 1, torn: list[dict[str, int]] | None = None) -> dict[str, Any]:
        body = ClaimRequest.model_validate({"ready": ready, "torn": torn or []})
        answer = agents.claim(self.c, self.caller(self.instance(attempt), attempt), body)
        api.ClaimAnswer.model_validate(json.loads(json.dumps(answer)))
        return answer

    def beat(self, attempt: int = 1, **told: Any) -> dict[str, Any]:
        body = HeartbeatRequest.model_validate({"phase": "train", **told})
        answer = agents.heartbeat(self.c, self.caller(self.instance(attempt), attempt), body)
        api.HeartbeatAnswer.model_validate(json.loads(json.dumps(answer)))
        return answer

    def leave(self, **told: Any) -> dict[str, Any]:
        return agents.leave(self.c, self.caller(), ExitRequest.model_validate({"message": "Over.", **told}))

    @staticmethod
    def instance(attempt: int) -> str:
        return f"i-{attempt:08x}"

    def publish(self, attempt: int, step: int) -> None:
        self.s3.put_object(
            Bucket=BUCKET, Key=f"runs/{SPEC['name']}/checkpoints/{attempt:04d}/{step:012d}/MANIFEST.json", Body=b"{}"
        )

    def training(self) -> None:
        self.submit()
        self.claim(False)
        self.claim(True)

    def warned(self) -> None:
        """Attempt 1 trains and is warned; attempt 2 boots."""
        self.training()
        self.c.shell.on_instance(ev.Warned("i-00000001", self.clock.now + timedelta(minutes=2)))

    @property
    def run(self) -> dict[str, Any]:
        return people.get(self.c, SPEC["name"])


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


def refused(status: int, code: str) -> Any:
    return pytest.raises(ApiError, match=f"^{status} {code}:")


# -- people ------------------------------------------------------------------------------------------------------------


def test_a_submitted_run_is_launched_and_the_same_again_is_the_same_run(stage: Deployed) -> None:
    status, run = stage.submit()
    assert (status, run["status"], run["created_by"]) == (201, "LAUNCHING", ME)
    api.RunView.model_validate(json.loads(json.dumps(run)))
    assert stage.submit() == (200, run)
    assert stage.ec2.calls == 1
    assert (
        json.loads(stage.s3.get_object(Bucket=BUCKET, Key="runs/cloud_prod_001/spec.json")["Body"].read())
        == run["spec"]
    )


def test_another_spec_of_the_name_is_refused(stage: Deployed) -> None:
    stage.submit()
    with refused(409, "conflict"):
        stage.submit(docker=True)


def test_five_mistakes_are_one_answer_and_nothing_is_launched(stage: Deployed) -> None:
    wrong = {
        "comand": "x",
        "docker": "maybe",
        "limits": {"duration": "30", "attempts": 0},
        "env": {"SPOT_RELAY_X": "1"},
    }
    with refused(400, "bad_spec") as error:
        stage.submit(**wrong)
    fields = [f["field"] for f in error.value.body()["error"]["fields"]]
    assert sorted(fields) == ["comand", "docker", "env.SPOT_RELAY_X", "limits.attempts", "limits.duration"]
    assert stage.ec2.calls == 0


def test_over_the_month_the_answer_has_the_numbers(stage: Deployed) -> None:
    stage.c.store.ledger._limit = Decimal("0.01")
    with refused(402, "budget") as error:
        stage.submit()
    assert error.value.extra["account"]["free_usd"] == "0.010000"
    assert stage.ec2.calls == 0


@pytest.mark.parametrize("ask", [people.submit, lambda c, body, by: people.plan(c, body)])
def test_a_name_whose_results_an_earlier_deployment_left_is_refused(stage: Deployed, ask: Any) -> None:
    """Its checkpoints would be restored as if this run had published them."""
    stage.publish(1, 4000)
    with refused(409, "name_used") as error:
        ask(stage.c, SPEC, ME)
    assert "s3://" in str(error.value)
    assert stage.c.store.load(SPEC["name"]) is None


def test_a_run_that_may_not_cost_one_lease_is_refused(stage: Deployed) -> None:
    with refused(402, "run_budget"):
        stage.submit(limits={"cost_usd": "0.01"})


def test_runs_are_listed_newest_first_page_by_page(stage: Deployed) -> None:
    for number in range(5):
        stage.clock.now += timedelta(seconds=1)
        stage.submit(name=f"run-{number}")
    first = people.list_runs(stage.c, {"limit": "3"})
    second = people.list_runs(stage.c, {"limit": "3", "cursor": first["cursor"]})
    assert [r["name"] for r in first["runs"] + second["runs"]] == [f"run-{n}" for n in (4, 3, 2, 1, 0)]
    api.RunList.model_validate(json.loads(json.dumps(first)))
    assert people.list_runs(stage.c, {"status": "FAILED"})["runs"] == []


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"status": "NEW"}, {"cursor": "???"}])
def test_a_wrong_query_names_the_field(stage: Deployed, query: dict[str, str]) -> None:
    with refused(400, "bad_request") as error:
        people.list_runs(stage.c, query)
    assert [f["field"] for f in error.value.fields] == list(query)


def test_a_run_is_suspended_resumed_and_cancelled_and_the_timeline_says_so(stage: Deployed) -> None:
    stage.training()
    assert people.ask(stage.c, SPEC["name"], "suspend", ME)["status"] == "STOPPING"
    assert stage.beat()["action"] == "drain"
    stage.leave(reason="user", drained=True)
    stage.c.shell.on_instance(ev.InstanceState("i-00000001", "terminated"))
    assert stage.run["status"] == "SUSPENDED"
    assert people.ask(stage.c, SPEC["name"], "resume", ME)["attempts"][1]["phase"] == "BOOTING"
    people.ask(stage.c, SPEC["name"], "cancel", ME)
    stage.c.shell.on_instance(ev.InstanceState("i-00000002", "terminated"))
    assert people.ask(stage.c, SPEC["name"], "cancel", ME)["status"] == "CANCELLED"
    with refused(409, "ended"):
        people.ask(stage.c, SPEC["name"], "resume", ME)
    listed = people.events(stage.c, SPEC["name"], {"limit": "2"})
    rest = people.events(stage.c, SPEC["name"], {"cursor": listed["cursor"]})
    messages = [e["message"] for e in listed["events"] + rest["events"]]
    assert "Suspended by request." in messages
    assert messages.index("Resumed.") < messages.index("Cancelled by request.")
    api.EventList.model_validate(json.loads(json.dumps(rest)))


def test_what_does_not_exist_is_404(stage: Deployed) -> None:
    for act in (
        lambda: people.get(stage.c, "nobody"),
        lambda: people.events(stage.c, "nobody", {}),
        lambda: people.checkpoints(stage.c, "nobody", {}),
        lambda: people.ask(stage.c, "nobody", "cancel", ME),
    ):
        with refused(404, "not_found"):
            act()


def test_the_budget_shows_what_a_run_holds(stage: Deployed) -> None:
    stage.submit()
    shown = money.budget(stage.c)
    Budget.model_validate(shown)
    assert Decimal(shown["reserved_usd"]) > 0
    assert Decimal(shown["free_usd"]) + Decimal(shown["reserved_usd"]) == Decimal(shown["limit_usd"])
    assert shown["runs"][0]["reserved_usd"] == shown["reserved_usd"]


# -- agents ------------------------------------------------------------------------------------------------------------


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
