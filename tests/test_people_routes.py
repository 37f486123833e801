"""What people ask of the routes, without HTTP, and what they are answered. AWS is moto, EC2 a fake."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest

from chalicelib import money, people
from chalicelib.contracts import api
from chalicelib.contracts.money import Budget, BudgetChange
from chalicelib.core import events as ev
from chalicelib.store import Store
from tests.controlled import BUCKET, ME, SPEC, Deployed, refused


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


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


def test_a_spec_that_did_not_reach_the_bucket_does_when_the_run_is_asked_for_again(
    stage: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage.c.bucket, "put_spec", Mock(side_effect=ConnectionError))
        with pytest.raises(ConnectionError):
            stage.submit()
    status, run = stage.submit()
    kept = stage.s3.get_object(Bucket=BUCKET, Key="runs/cloud_prod_001/spec.json")["Body"].read()
    assert (status, json.loads(kept)) == (200, run["spec"])


def test_a_run_that_was_written_twice_is_whole(stage: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer was lost, and botocore has asked again."""
    create = stage.c.store.create

    def twice(*given: Any) -> None:
        create(*given)
        create(*given)

    monkeypatch.setattr(stage.c.store, "create", twice)
    status, run = stage.submit()
    kept = stage.s3.get_object(Bucket=BUCKET, Key="runs/cloud_prod_001/spec.json")["Body"].read()
    assert (status, json.loads(kept)) == (200, run["spec"])


def test_that_the_limit_has_changed_is_written_with_the_limit(stage: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money, "_live", Mock(side_effect=ConnectionError))
    monkeypatch.setattr(stage.c.acts, "record", Mock(side_effect=ConnectionError))
    with pytest.raises(ConnectionError):
        money.set_limit(stage.c, BudgetChange.model_validate({"limit_usd": 25}), ME)
    (act,) = stage.c.acts.recent()
    (mail,) = stage.c.store.ledger.query("OUTBOX")
    assert act["message"] == mail["message"] == f"The monthly limit is 25.00 USD, was 20.00; set by {ME}."


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
