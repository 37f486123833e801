"""Before a run starts: what would become of it, with every number, and the same whether it is a plan or a submission."""

from __future__ import annotations

import json
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from chalicelib import money, people
from chalicelib.contracts.money import Budget, BudgetChange, LedgerView, Plan
from chalicelib.core import events as ev
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.controlled import ME, SPEC, Deployed, refused

LOW = {"limit_usd": "0.10"}


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


def plan(stage: Deployed, **changes: Any) -> dict[str, Any]:
    answer = people.plan(stage.c, {**SPEC, **changes})
    Plan.model_validate(json.loads(json.dumps(answer)))
    return answer


def quota(stage: Deployed, vcpus: int | None) -> None:
    stage.c.__dict__["quotas"] = SimpleNamespace(limit=lambda market: vcpus, vcpus=lambda types: {"c6i.xlarge": 4})


def set_limit(stage: Deployed, usd: str) -> dict[str, Any]:
    return money.set_limit(stage.c, BudgetChange.model_validate({"limit_usd": usd}), ME)


def test_a_plan_shows_the_cost_and_does_nothing(stage: Deployed) -> None:
    before = stage.c.dynamodb.scan(TableName=TABLE)["Items"]
    answer = plan(stage)
    cost = answer["cost"]
    assert (answer["would"], answer["warnings"]) == ("launch", [])
    assert cost["hourly_usd"] == "0.078556"  # 0.068 + 50 GB gp3 + address
    assert (cost["expected_usd"], cost["expected_hours"]) == ("2.36", "30.0")
    assert cost["account"]["free_usd"] == "20.000000"
    assert answer["pools"][0]["source"] == "spot_history"
    assert stage.c.dynamodb.scan(TableName=TABLE)["Items"] == before
    assert stage.ec2.calls == 0


def test_a_plan_of_a_run_that_is_there_says_so_and_of_another_spec_is_refused(stage: Deployed) -> None:
    stage.submit()
    assert plan(stage)["would"] == "nothing"
    with refused(409, "conflict"):
        plan(stage, docker=True)


@pytest.mark.parametrize(
    ("limit", "changes", "would", "code"),
    [
        ("20", {}, "launch", None),
        ("20", {"limits": {"cost_usd": "0.05"}}, "refuse", "run_budget"),
        ("0.10", {}, "refuse", "budget"),
        ("0.10", {"limits": {"wait_for_budget": True}}, "queue", None),
    ],
)
def test_what_a_plan_says_a_submission_does(
    stage: Deployed, limit: str, changes: dict[str, Any], would: str, code: str | None
) -> None:
    set_limit(stage, limit)
    assert plan(stage, **changes)["would"] == would
    if code:
        with refused(402, code) as error:
            stage.submit(**changes)
        told = error.value.body()["error"]
        for number in ("first_lease_usd", "expected_usd", "hourly_usd", "limit_usd", "month", "account"):
            assert told[number]
        assert stage.ec2.calls == 0
    else:
        status, run = stage.submit(**changes)
        assert (status, run["status"]) == (201, "LAUNCHING" if would == "launch" else "QUEUED")


def test_a_run_that_waits_for_money_starts_when_the_limit_is_raised(stage: Deployed) -> None:
    set_limit(stage, "0.10")
    run = stage.submit(limits={"wait_for_budget": True})[1]
    assert (run["status"], run["reason"]) == ("QUEUED", "budget")
    set_limit(stage, "5")
    assert stage.run["status"] == "LAUNCHING"


@pytest.mark.parametrize(
    ("vcpus", "overlap", "said"),
    [
        (8, True, None),
        (5, False, "No overlap: quota 5 vCPU, needs 8"),
        (None, None, "AWS does not say how many vCPU"),
    ],
)
def test_the_quota_is_told(stage: Deployed, vcpus: int | None, overlap: bool | None, said: str | None) -> None:
    quota(stage, vcpus)
    answer = plan(stage)
    assert answer["quota"] == {"vcpus": vcpus, "needs": 4, "overlap": overlap}
    assert [said in w for w in answer["warnings"]] == ([True] if said else [])
    if overlap is False:
        assert "request-service-quota-increase" in answer["warnings"][0]


def test_no_instance_fits_a_quota_of_nothing(stage: Deployed) -> None:
    quota(stage, 0)
    with refused(409, "quota"):
        stage.submit()


def test_money_that_ends_before_the_run_is_told_beforehand(stage: Deployed) -> None:
    set_limit(stage, "1")
    (said,) = plan(stage)["warnings"]
    assert "then the run is suspended and goes on at 2026-12-01 00:00 UTC" in said
    set_limit(stage, "20")
    (said,) = plan(stage, limits={"cost_usd": "1"})["warnings"]
    assert "limits.cost_usd ends before limits.duration: it pays for 12.7 h" in said


def test_a_limit_below_what_is_held_is_refused_with_the_numbers(stage: Deployed) -> None:
    stage.submit()
    with refused(409, "limit_too_low") as error:
        set_limit(stage, "0.10")
    assert Decimal(error.value.extra["account"]["reserved_usd"]) > Decimal("0.10")
    assert money.budget(stage.c)["limit_usd"] == "20.000000"


def test_a_changed_limit_is_an_act_and_the_budget_shows_it(stage: Deployed) -> None:
    answer = set_limit(stage, "25")
    Budget.model_validate(json.loads(json.dumps(answer)))
    assert answer["limit_usd"] == "25.000000"
    assert "is 25.00 USD, was 20.00" in answer["acts"][0]["message"]


def test_the_ledger_shows_what_was_settled_and_from_which_price(stage: Deployed) -> None:
    stage.training()
    stage.c.shell.on_instance(ev.InstanceState("i-00000001", "terminated"))
    shown = people.ledger(stage.c, SPEC["name"], {})
    LedgerView.model_validate(json.loads(json.dumps(shown)))
    settled = [line for line in shown["lines"] if line["entry"] == "settled"]
    assert [(line["source"], line["seconds"]) for line in settled] == [("spot_history", 60.0)]
    assert settled[0]["rates_usd_hour"] == {"instance": "0.068", "disk": "0.005556", "address": "0.005"}


def test_a_resume_with_more_money_goes_on_and_with_less_is_refused(stage: Deployed) -> None:
    stage.training()
    with refused(400, "bad_request"):
        people.ask(stage.c, SPEC["name"], "resume", ME, Decimal(1))
    assert people.ask(stage.c, SPEC["name"], "resume", ME, Decimal(15))["limits"]["cost_usd"] == "15.000000"
