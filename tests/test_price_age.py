"""I9: a price is as old as when AWS named it, however late it left the cache; after three hours it launches nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib import pools
from chalicelib.core import events as ev
from chalicelib.core.model import Reason, Run
from chalicelib.prices import Quote
from chalicelib.store import Store
from tests.controlled import SPEC, Deployed
from tests.core_world import OFFERS, POLICY, START
from tests.test_prices import KIND, ZONE, Market, history, market

__all__ = ["market"]  # the fixture

MINUTE, HOUR, SECOND = timedelta(minutes=1), timedelta(hours=1), timedelta(seconds=1)


def pool(age: timedelta, kind: str = "spot") -> pools.Priced:
    return pools.Priced(replace(OFFERS[0], market=kind), Quote(Decimal("0.068"), START - age, "spot_history"))


@pytest.mark.parametrize(
    ("found", "named_at"),
    [
        ([pool(0 * MINUTE), pool(59 * MINUTE), pool(3 * MINUTE)], START - 59 * MINUTE),
        ([pool(23 * HOUR, "on_demand")], START),
        ([], START),
    ],
    ids=["the oldest Spot price", "a list price is good for days", "none"],
)
def test_offers_are_as_old_as_their_oldest_price(found: list[pools.Priced], named_at: datetime) -> None:
    assert pools.named_at(found, START) == named_at


def test_a_price_from_the_cache_keeps_its_own_time(market: Market) -> None:
    market.spot(history((KIND, ZONE, "0.068")), "RequestLimitExceeded")
    for age in (0 * MINUTE, 4 * MINUTE, 59 * MINUTE):
        found = pools.priced(market.ec2, market.make(), [KIND], "spot", "us-east-1", START + age)
        assert pools.named_at(found, START + age) == START


@pytest.fixture
def stage(store: Store) -> Deployed:
    stage = Deployed(store)
    stage.price_age = 50 * MINUTE
    return stage


def saved(stage: Deployed) -> Run:
    run = stage.c.store.load(str(SPEC["name"]))
    assert run
    return run


def test_a_run_knows_how_old_its_prices_were_when_it_was_submitted_and_when_they_were_asked_again(
    stage: Deployed,
) -> None:
    stage.submit()
    assert saved(stage).offered_at == START - 50 * MINUTE
    stage.clock.now += 9 * MINUTE
    assert stage.c.offers_if_old(saved(stage)) is None
    stage.clock.now += MINUTE
    fresh = stage.c.offers_if_old(saved(stage))
    assert fresh
    stage.c.shell.tell(str(SPEC["name"]), fresh)
    assert saved(stage).offered_at == START - 40 * MINUTE


@pytest.mark.parametrize(("over", "launches"), [(timedelta(), True), (SECOND, False)])
def test_three_hours_after_aws_named_a_price_nothing_is_launched_on_it(
    stage: Deployed, over: timedelta, launches: bool
) -> None:
    def unknown(*_: Any) -> Any:
        raise pools.PriceUnknown("EC2 names none.")

    stage.submit()
    stage.c.priced = unknown  # type: ignore[method-assign]
    stage.clock.now = START - 50 * MINUTE + POLICY.price_stale + over
    assert stage.c.offers_if_old(saved(stage)) is None
    stage.c.shell.on_instance(ev.InstanceState("i-00000001", "terminated"))
    run = saved(stage)
    assert (len(run.attempts) == 2) is launches
    assert (run.reason is Reason.PRICE_UNKNOWN) is not launches
