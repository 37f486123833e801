"""I9: a price is asked of AWS, kept with its age, and refused when it is unknown or stale; the table launches nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from chalicelib import pools
from chalicelib.prices import Prices
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import POLICY, START
from tests.hooks import Answer, answers, aws

KIND, ZONE = "c6i.xlarge", "us-east-1a"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def history(*entries: tuple[str, str, str], more: str = "") -> dict[str, Any]:
    """DescribeSpotPriceHistory's answer, of (type, zone, price)."""
    found = [{"InstanceType": k, "AvailabilityZone": z, "SpotPrice": p, "Timestamp": START} for k, z, p in entries]
    return {"SpotPriceHistory": found, "NextToken": more}


def product(*usd: str) -> str:
    """One entry of GetProducts' PriceList: JSON text, as the Pricing API has it."""
    dimensions = {
        f"SKU.JRTCKXETXF.{n}": {
            "unit": "Hrs",
            "endRange": "Inf",
            "description": f"${price} per On Demand Linux {KIND} Instance Hour",
            "appliesTo": [],
            "rateCode": f"SKU.JRTCKXETXF.{n}",
            "beginRange": "0",
            "pricePerUnit": {"USD": price},
        }
        for n, price in enumerate(usd)
    }
    term = {"priceDimensions": dimensions, "sku": "SKU", "effectiveDate": "2026-11-01T00:00:00Z", "termAttributes": {}}
    attributes = {"instanceType": KIND, "regionCode": "us-east-1", "operatingSystem": "Linux"}
    return json.dumps(
        {
            "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": "SKU"},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {"SKU.JRTCKXETXF": term}, "Reserved": {}},
        }
    )


@dataclass
class Market:
    ec2: Any
    pricing: Any
    make: Callable[[], Prices]

    def spot(self, *given: Answer, always: bool = True) -> list[dict[str, Any]]:
        return answers(self.ec2, "DescribeSpotPriceHistory", *given, always=always)

    def on_demand(self, *given: Answer, always: bool = True) -> list[dict[str, Any]]:
        return answers(self.pricing, "GetProducts", *given, always=always)


@pytest.fixture
def market(store: Store) -> Market:
    ec2 = aws("ec2")
    pricing = aws("pricing")
    make = lambda: Prices(lambda: ec2, lambda: pricing, store._client, TABLE, "us-east-1", POLICY)  # noqa: E731
    return Market(ec2, pricing, make)


# -- Spot ------------------------------------------------------------------------------------------------------------


def test_spot_prices_are_asked_for_all_types_at_once_page_by_page(market: Market) -> None:
    pages = [
        history((KIND, ZONE, "0.0680"), ("c5.xlarge", ZONE, "0.07"), more="next"),
        history((KIND, "us-east-1b", "0.061")),
    ]
    seen = market.spot(*pages, always=False)
    found = market.make().spot([KIND, "c5.xlarge"], START)
    assert {pool: str(quote.usd_hour) for pool, quote in found.items()} == {
        (KIND, ZONE): "0.0680",
        (KIND, "us-east-1b"): "0.061",
        ("c5.xlarge", ZONE): "0.07",
    }
    assert {(q.at, q.source) for q in found.values()} == {(START, "spot_history")}
    assert len(seen) == 2


def test_of_two_prices_the_higher_is_taken_and_none_at_all_is_not_free(market: Market) -> None:
    market.spot(history((KIND, ZONE, "0.06"), (KIND, ZONE, "0.07"), (KIND, ZONE, "0.05"), (KIND, "us-east-1b", "0")))
    found = market.make().spot([KIND], START)
    assert {pool: quote.usd_hour for pool, quote in found.items()} == {(KIND, ZONE): Decimal("0.07")}


AGES = [
    # age of what is kept, what AWS says now (None: nothing), the price used and its age
    (4 * MINUTE, "0.09", ("0.068", 4 * MINUTE)),
    (5 * MINUTE, "0.09", ("0.09", 0 * MINUTE)),
    (5 * MINUTE, None, ("0.068", 5 * MINUTE)),
    (60 * MINUTE, None, ("0.068", 60 * MINUTE)),
    (61 * MINUTE, None, None),
    (61 * MINUTE, "0.09", ("0.09", 0 * MINUTE)),
]


@pytest.mark.parametrize("failure", ["RequestLimitExceeded", "UnauthorizedOperation", history()], ids=str)
@pytest.mark.parametrize(("age", "says", "expected"), AGES)
def test_a_kept_spot_price_serves_while_young_and_then_only_until_it_is_stale(
    market: Market,
    age: timedelta,
    says: str | None,
    expected: tuple[str, timedelta] | None,
    failure: Answer,
) -> None:
    market.spot(history((KIND, ZONE, "0.068")), history((KIND, ZONE, says)) if says else failure)
    market.make().spot([KIND], START)
    now = START + age
    found = market.make().spot([KIND], now).get((KIND, ZONE))
    assert (found and (str(found.usd_hour), now - found.at)) == expected


def test_a_young_price_is_not_asked_for_again(market: Market) -> None:
    seen = market.spot(history((KIND, ZONE, "0.068")))
    for minutes in (0, 2, 4):
        market.make().spot([KIND], START + minutes * MINUTE)
    assert len(seen) == 1
    market.make().spot([KIND, "c5.xlarge"], START + 4 * MINUTE)
    assert len(seen) == 2


TYPES = [f"c{n}.xlarge" for n in range(1, 21)]  # as many as a spec may name


def refusing(market: Market, *unknown: str, code: str = "InvalidParameterValue") -> list[list[str]]:
    """EC2 as it refuses a whole question for a type that it does not know; gives the types it was asked about."""
    seen: list[list[str]] = []

    def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        kinds = [str(v) for k, v in params["body"].items() if k.startswith("InstanceType.")]
        seen.append(kinds)
        if set(kinds) & set(unknown):
            return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": "Invalid value."}}
        return SimpleNamespace(status_code=200), history(*((kind, ZONE, "0.07") for kind in kinds))

    market.ec2.meta.events.register_first("before-call.ec2.DescribeSpotPriceHistory", answer)
    return seen


@pytest.mark.parametrize("code", ["InvalidParameterValue", "InvalidInstanceType"])
@pytest.mark.parametrize("unknown", [TYPES[:1], TYPES[7:8], TYPES[-1:], TYPES[3:12:4], TYPES])
def test_a_type_that_ec2_does_not_know_loses_its_own_price_and_no_other(
    market: Market, unknown: list[str], code: str
) -> None:
    seen = refusing(market, *unknown, code=code)
    found = market.make().spot(TYPES, START)
    assert {kind for kind, _ in found} == set(TYPES) - set(unknown)
    assert len(seen) < 2 * len(TYPES)
    asked = len(seen)
    assert set(market.make().spot(TYPES, START + MINUTE)) == set(found)
    assert len(seen) - asked <= 2 * len(unknown) - 1, "what is young is not asked for again"


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation", "InternalError"])
def test_what_ec2_refuses_for_another_reason_is_asked_once(market: Market, code: str) -> None:
    seen = refusing(market, *TYPES, code=code)
    assert market.make().spot(TYPES, START) == {}
    assert seen == [TYPES]


def test_what_was_answered_before_a_throttle_serves(market: Market) -> None:
    market.spot("InvalidParameterValue", history((KIND, ZONE, "0.07")), "RequestLimitExceeded")
    assert list(market.make().spot([KIND, "x99.xlarge"], START)) == [(KIND, ZONE)]


def test_the_highest_price_of_a_span_is_what_counts(market: Market) -> None:
    pages = [history((KIND, ZONE, "0.068"), (KIND, ZONE, "0.081"), more="next"), history((KIND, ZONE, "0.0700"))]
    market.spot(*pages, always=False)
    assert market.make().spot_highest(KIND, ZONE, START, START + HOUR) == Decimal("0.081")


@pytest.mark.parametrize(
    "answer", [history(), history((KIND, ZONE, "0.000000")), "RequestLimitExceeded", "InvalidParameterValue"], ids=str
)
def test_a_span_that_aws_does_not_price_has_none(market: Market, answer: Answer) -> None:
    market.spot(answer)
    assert market.make().spot_highest(KIND, ZONE, START, START + HOUR) is None


# -- on demand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "usd"),
    [
        ([product("0.1700000000")], "0.1700000000"),
        ([product("0.0000000000", "0.1700000000")], "0.1700000000"),
        ([product("0.17"), product("0.19")], "0.19"),
        ([product("0.0000000000")], None),
        ([], None),
        ([json.dumps({"product": {}, "terms": {"Reserved": {}}})], None),
    ],
)
def test_the_on_demand_price_is_read_from_the_price_list(market: Market, listed: list[str], usd: str | None) -> None:
    market.on_demand({"FormatVersion": "aws_v1", "PriceList": listed})
    found = market.make().on_demand(KIND, START)
    assert (str(found.usd_hour) if found else None) == usd


@pytest.mark.parametrize(
    ("age", "fails", "usd"),
    [
        (23 * HOUR, False, "0.17"),
        (24 * HOUR, False, "0.20"),
        (24 * HOUR, True, "0.17"),
        (7 * DAY, True, "0.17"),
        (7 * DAY + MINUTE, True, None),
    ],
)
def test_a_kept_on_demand_price_serves_a_day_and_while_aws_is_silent_a_week(
    market: Market, age: timedelta, fails: bool, usd: str | None
) -> None:
    market.on_demand(
        {"PriceList": [product("0.17")]}, "ThrottlingException" if fails else {"PriceList": [product("0.20")]}
    )
    market.make().on_demand(KIND, START)
    found = market.make().on_demand(KIND, START + age)
    assert (str(found.usd_hour) if found else None) == usd


# -- the table of last resort ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "named", "usd", "source"),
    [
        (KIND, None, "0.170", "table"),
        (KIND, "0.10", "0.170", "table"),
        (KIND, "0.25", "0.25", "pricing_api"),
        ("z9.xlarge", "0.25", "0.25", "pricing_api"),
        ("z9.xlarge", None, None, None),
    ],
)
def test_the_table_only_raises_an_estimate(
    market: Market, kind: str, named: str | None, usd: str | None, source: str | None
) -> None:
    market.on_demand({"PriceList": [product(named)] if named else []})
    found = market.make().estimate(kind, START)
    assert (found and str(found.usd_hour), found and found.source) == (usd, source)


@pytest.mark.parametrize("which", ["spot", "on_demand"])
def test_nothing_is_launched_at_a_price_of_the_table(market: Market, which: str) -> None:
    market.spot("RequestLimitExceeded")
    market.on_demand("ThrottlingException")
    with pytest.raises(pools.PriceUnknown, match=f"names no {which} price"):
        pools.priced(market.ec2, market.make(), [KIND], which, "us-east-1", START)


def test_the_cap_of_a_pool_is_twice_its_spot_price_and_just_the_price_on_demand(market: Market) -> None:
    market.spot(history((KIND, ZONE, "0.06805"), (KIND, "us-east-1b", "0.05")))
    market.on_demand({"PriceList": [product("0.17001")]})
    spot = pools.priced(market.ec2, market.make(), [KIND], "spot", "us-east-1", START)
    assert [(p.offer.zone, str(p.offer.max_price)) for p in spot] == [("us-east-1b", "0.1000"), (ZONE, "0.1361")]
    on_demand = pools.priced(market.ec2, market.make(), [KIND], "on_demand", "us-east-1", START)
    assert {str(p.offer.max_price) for p in on_demand} == {"0.1701"}
