"""Whether a run may start: every verdict with its numbers and warnings, and a plan that does nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from chalicelib import admission, people
from chalicelib.admission import Facts, Judgement
from chalicelib.contracts import spec as specs
from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.money import Plan
from chalicelib.core import calendar, leases
from chalicelib.pools import Priced, PriceUnknown
from chalicelib.prices import Quote
from chalicelib.quota import CODES, Quotas
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.controlled import SPEC, Deployed
from tests.core_world import OFFERS, POLICY, START
from tests.hooks import answers, aws

QUOTE = Quote(Decimal("0.068"), START, "spot_history")
HOURLY = Decimal("0.078556")  # 0.068 + 50 GB gp3 + IPv4
LEASE = leases.first(START, 1, OFFERS[0].max_price, 50, POLICY).reserved


def spec(**limits: Any) -> specs.RunSpec:
    return specs.parse({**SPEC, "limits": limits})


def facts(free: str = "20", quota: int | None = 8, vcpus: dict[str, int] | None = None) -> Facts:
    account = {"limit": Decimal(20), "free": Decimal(free), "reserved": Decimal(0), "settled": 20 - Decimal(free)}
    pools = tuple(Priced(offer, QUOTE) for offer in OFFERS)
    kinds = {"c6i.xlarge": 4, "c5.2xlarge": 8} if vcpus is None else vcpus
    return Facts(pools, "2026-11", account, calendar.turn(START, POLICY), quota, kinds)


def judged(found: Facts | None = None, **limits: Any) -> Judgement:
    return admission.judge(spec(**limits), found or facts(), START, POLICY)


JUST, LESS = str(LEASE), str(LEASE - Decimal("0.000001"))


@pytest.mark.parametrize(
    ("found", "limits", "would", "status", "code"),
    [
        (facts(), {}, "launch", 201, ""),
        (facts(free=JUST), {}, "launch", 201, ""),
        (facts(free=LESS), {}, "refuse", 402, "budget"),
        (facts(free="0"), {"wait_for_budget": True}, "queue", 201, ""),
        (facts(), {"cost_usd": "0.17"}, "refuse", 402, "run_budget"),
        (facts(free="0"), {"cost_usd": "0.17", "wait_for_budget": True}, "refuse", 402, "run_budget"),
        (facts(quota=3), {}, "refuse", 409, "quota"),
        (facts(quota=0, free="0"), {"wait_for_budget": True}, "refuse", 409, "quota"),
        (facts(quota=4), {}, "launch", 201, ""),
        (facts(quota=None), {}, "launch", 201, ""),
        (facts(quota=3, vcpus={}), {}, "launch", 201, ""),
    ],
)
def test_a_run_is(found: Facts, limits: dict[str, Any], would: str, status: int, code: str) -> None:
    verdict = judged(found, **limits)
    assert (verdict.would, verdict.status, verdict.code) == (would, status, code)
    if would == "refuse":
        with pytest.raises(ApiError, match=rf"^{status} {code}:"):
            verdict.refuse()
    else:
        verdict.refuse()


def test_the_numbers_are_all_there_and_agree_with_the_lease_that_is_reserved() -> None:
    numbers = judged(duration="30h", cost_usd="11").numbers
    assert numbers == {
        "first_lease_usd": str(LEASE),
        "hourly_usd": str(HOURLY),
        "hourly_at_cap_usd": "0.180953",
        "expected_usd": "2.36",
        "expected_hours": "30.0",
        "limit_usd": "11",
        "month": "2026-11",
        "account": {
            "limit_usd": "20.000000",
            "free_usd": "20.000000",
            "reserved_usd": "0.000000",
            "settled_usd": "0.000000",
        },
        "month_covers_hours": "254.6",
    }


NO_OVERLAP, UNKNOWN, MONTH, COST = "No overlap", "does not say", "2026-11 has", "limits.cost_usd ends before"


@pytest.mark.parametrize(
    ("found", "limits", "expected"),
    [
        (facts(), {"duration": "30h"}, []),
        (facts(quota=7), {"duration": "30h"}, [NO_OVERLAP]),
        (facts(quota=None), {"duration": "30h"}, [UNKNOWN]),
        (facts(free="1"), {"duration": "30h"}, [MONTH]),
        (facts(free="2.36"), {"duration": "30h"}, []),
        (facts(), {"duration": "30h", "cost_usd": "1"}, [COST]),
        (facts(quota=5, free="0.5"), {"duration": "30h", "cost_usd": "1"}, [NO_OVERLAP, MONTH, COST]),
        *((facts(), {"duration": span}, []) for span in ("80m", "100m", "93m", "1h", "61m", "7h3m")),
    ],
)
def test_what_will_go_otherwise_than_hoped_is_said_before(
    found: Facts, limits: dict[str, Any], expected: list[str]
) -> None:
    warnings = judged(found, **limits).warnings
    assert len(warnings) == len(expected)
    assert all(part in warning for part, warning in zip(expected, warnings, strict=True))


def test_a_quota_too_small_names_the_command_that_asks_for_more() -> None:
    assert "--quota-code L-34B43A08 --desired-value 8" in judged(facts(quota=3)).message
    assert "for 12.7 h of it" in judged(facts(free="1"), duration="30h").warnings[0]


@pytest.mark.parametrize("market", ["spot", "on_demand"])
def test_the_quota_is_asked_of_aws_and_unknown_when_aws_does_not_say(store: Store, market: str) -> None:
    client = aws("service-quotas")
    seen = answers(
        client, "GetServiceQuota", {"Quota": {"Value": 5.0}}, "NoSuchResourceException", "AccessDeniedException"
    )
    quotas = Quotas(lambda: aws("ec2"), lambda: client)
    assert [quotas.limit(market) for _ in range(3)] == [5, None, None]
    assert all(CODES[market] in str(request["body"]) for request in seen)


def test_vcpus_are_asked_once_a_type_and_are_none_when_aws_does_not_say(store: Store) -> None:
    ec2 = aws("ec2")
    seen = answers(ec2, "DescribeInstanceTypes", "RequestLimitExceeded")
    quotas = Quotas(lambda: ec2, lambda: None)
    assert quotas.vcpus(["c6i.xlarge"]) == {}
    for _ in range(2):
        assert quotas.vcpus(["c6i.xlarge", "c5.2xlarge"]) == {"c6i.xlarge": 4, "c5.2xlarge": 8}
    assert len(seen) == 2


def test_a_type_that_ec2_does_not_know_keeps_no_other_from_being_counted(store: Store) -> None:
    quotas = Quotas(lambda: aws("ec2"), lambda: None)
    assert quotas.vcpus(["c6i.xlarge", "x99.xlarge", "c5.2xlarge"]) == {"c6i.xlarge": 4, "c5.2xlarge": 8}


# -- the routes ------------------------------------------------------------------------------------------------------


class Asked(Deployed):
    def scan(self) -> list[dict[str, Any]]:
        return sorted(self.c.dynamodb.scan(TableName=TABLE)["Items"], key=lambda i: (i["pk"]["S"], i["sk"]["S"]))

    def poor(self, usd: str) -> None:
        self.c.store.ledger._limit = Decimal(usd)

    def plan(self, **changes: Any) -> dict[str, Any]:
        answer = people.plan(self.c, {**SPEC, **changes})
        Plan.model_validate(json.loads(json.dumps(answer)))
        return answer


@pytest.fixture
def stage(store: Store) -> Asked:
    return Asked(store)


@pytest.mark.parametrize(
    ("usd", "limits", "would"), [("20", {}, "launch"), ("0", {}, "refuse"), ("0", {"wait_for_budget": True}, "queue")]
)
def test_a_plan_changes_nothing_and_says_what_a_submission_would_do(
    stage: Asked, usd: str, limits: dict[str, Any], would: str
) -> None:
    stage.poor(usd)
    before = stage.scan()
    plan = stage.plan(limits=limits)
    assert plan["would"] == would
    assert (stage.scan(), stage.ec2.calls) == (before, 0)
    assert stage.s3.list_objects_v2(Bucket="relay-test")["KeyCount"] == 0
    if would == "refuse":
        with pytest.raises(ApiError, match=r"^402 budget:"):
            stage.submit(limits=limits)
        assert stage.scan() == before
    else:
        _, run = stage.submit(limits=limits)
        assert run["status"] == ("LAUNCHING" if would == "launch" else "QUEUED")


def test_a_plan_shows_each_pool_with_price_cap_and_source_and_the_quota(stage: Asked) -> None:
    plan = stage.plan()
    assert plan["pools"][0] == {
        "pool": "c6i.xlarge/us-east-1a/spot",
        "usd_hour": "0.068",
        "cap_usd_hour": "0.17",
        "source": "spot_history",
        "at": START.isoformat(),
    }
    assert plan["quota"] == {"vcpus": 8, "needs": 4, "overlap": True}
    stage.c.__dict__["quotas"] = SimpleNamespace(limit=lambda market: None, vcpus=lambda types: {})
    assert stage.plan()["quota"] == {"vcpus": None, "needs": None, "overlap": None}


def test_without_a_price_neither_plan_nor_submission_goes_on(stage: Asked) -> None:
    def unknown(types: list[str], market: str) -> tuple[Priced, ...]:
        raise PriceUnknown("EC2 names no spot price for c6i.xlarge in us-east-1; nothing is launched without one.")

    stage.c.priced = unknown  # type: ignore[method-assign]
    before = stage.scan()
    for act in (stage.plan, stage.submit):
        with pytest.raises(ApiError, match=r"^503 price_unknown:"):
            act()
    assert (stage.scan(), stage.ec2.calls) == (before, 0)


def test_a_submission_over_the_quota_is_answered_with_the_numbers(stage: Asked) -> None:
    stage.c.__dict__["quotas"] = SimpleNamespace(limit=lambda market: 2, vcpus=lambda types: {"c6i.xlarge": 4})
    with pytest.raises(ApiError, match=r"^409 quota:") as error:
        stage.submit()
    assert error.value.extra["first_lease_usd"] == str(LEASE)


def test_what_a_plan_expects_is_what_the_first_lease_reserves(stage: Asked) -> None:
    expected = Decimal(stage.plan()["cost"]["first_lease_usd"])
    stage.submit()
    line = stage.c.store.ledger.lines(SPEC["name"])[0]
    assert line["usd"] == expected
