"""What EC2 says about an instance's use: its launch, its end, why, and the price meanwhile; else nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.core import leases
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, Phase, PriceSource
from chalicelib.metering import Ec2Meter, transition
from chalicelib.prices import Quote
from chalicelib.store import Store
from tests.core_world import POLICY, START, new_run
from tests.hooks import answers, aws

SPOT, ON_DEMAND = Decimal("0.068"), Decimal("0.17")
NOW = START + timedelta(minutes=40)
ENDED = "2026-11-20 10:30:05"


class FakePrices:
    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []
        self.known = True

    def spot_highest(self, kind: str, zone: str, start: datetime, end: datetime) -> Decimal | None:
        assert (kind, zone) == ("c6i.xlarge", "us-east-1a")
        self.asked.append((start, end))
        return SPOT if self.known else None

    def on_demand(self, kind: str, now: datetime) -> Quote | None:
        return Quote(ON_DEMAND, now, "pricing_api") if self.known else None


class Metered:
    def __init__(self) -> None:
        self.ec2, self.prices = aws("ec2"), FakePrices()
        self.meter = Ec2Meter(lambda: self.ec2, lambda: self.prices)  # type: ignore[arg-type,return-value]

    def described(self, *instances: dict[str, Any]) -> list[dict[str, Any]]:
        return answers(self.ec2, "DescribeInstances", {"Reservations": [{"Instances": list(instances)}]}, always=True)

    def evidence(self, held: Attempt) -> Evidence:
        return self.meter.evidence(new_run(), held, NOW)


@pytest.fixture
def metered(store: Store) -> Metered:
    return Metered()


def attempt(**changes: Any) -> Attempt:
    lease = leases.first(START, 1, ON_DEMAND, 50, POLICY)
    held = Attempt(1, Phase.TRAINING, START, lease=lease, instance_id="i-1", pool="c6i.xlarge/us-east-1a/spot")
    return replace(held, **changes)


def gone(**changes: Any) -> Attempt:
    return attempt(phase=Phase.ENDED, ended_at=START + timedelta(minutes=31), **changes)


def instance(
    state: str = "terminated", reason: str = f"User initiated ({ENDED} GMT)", code: str = ""
) -> dict[str, Any]:
    return {
        "InstanceId": "i-1",
        "LaunchTime": START + timedelta(seconds=9),
        "State": {"Name": state},
        "StateTransitionReason": reason,
        **({"StateReason": {"Code": code, "Message": ""}} if code else {}),
    }


@pytest.mark.parametrize(
    ("reason", "at"),
    [
        (f"User initiated ({ENDED} GMT)", True),
        (f"Server.SpotInstanceTermination ({ENDED} GMT)", True),
        (f"Service initiated ({ENDED} GMT)", True),
        (f"User initiated ({ENDED} UTC)", True),
        (f"User initiated ({ENDED} EST)", False),
        (f"User initiated ({ENDED})", False),
        ("Server.SpotInstanceTermination: Spot instance termination", False),
        ("User initiated (shutdown)", False),
        ("", False),
    ],
)
def test_the_end_is_read_from_ec2s_words_to_the_end_of_the_second_it_names(reason: str, at: bool) -> None:
    """EC2 names whole seconds: the instance ran into the one it names."""
    assert transition(reason) == (datetime(2026, 11, 20, 10, 30, 6, tzinfo=UTC) if at else None)


def test_an_ended_instance_has_launch_end_reason_and_the_highest_price_until_then(metered: Metered) -> None:
    metered.described(instance(code="Server.SpotInstanceTermination"))
    ended_at = datetime(2026, 11, 20, 10, 30, 6, tzinfo=UTC)
    launched_at, code = START + timedelta(seconds=9), "Server.SpotInstanceTermination"
    assert metered.evidence(gone()) == Evidence(launched_at, ended_at, code, SPOT, PriceSource.SPOT_HISTORY)
    assert metered.prices.asked == [(START, ended_at)]


@pytest.mark.parametrize("state", ["pending", "running"])
def test_an_instance_that_runs_has_no_end_whatever_is_left_of_an_older_reason(metered: Metered, state: str) -> None:
    metered.described(instance(state, code="Server.SpotInstanceTermination"))
    found = metered.evidence(gone())
    assert (found.ended_at, found.reason) == (None, "")
    assert metered.prices.asked == [(START, START + timedelta(minutes=31))]


@pytest.mark.parametrize("state", ["shutting-down", "terminated", "stopping", "stopped"])
def test_every_state_that_is_not_billed_is_an_end(metered: Metered, state: str) -> None:
    metered.described(instance(state))
    assert metered.evidence(gone()).ended_at


@pytest.mark.parametrize("answer", ["InvalidInstanceID.NotFound", {"Reservations": []}], ids=str)
def test_of_an_instance_that_ec2_does_not_know_only_the_price_is_known(metered: Metered, answer: Any) -> None:
    answers(metered.ec2, "DescribeInstances", answer)
    assert metered.evidence(gone()) == Evidence(usd_hour=SPOT, source=PriceSource.SPOT_HISTORY)


def test_a_throttle_is_no_evidence_and_rises(metered: Metered) -> None:
    answers(metered.ec2, "DescribeInstances", "RequestLimitExceeded")
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        metered.evidence(gone())


def test_ec2_is_asked_for_the_first_slice_and_for_the_end_only(metered: Metered) -> None:
    seen = metered.described(instance("running"))
    assert metered.evidence(attempt()).launched_at == START + timedelta(seconds=9)
    later = attempt(spent=leases._with((), leases.usage(new_run(), attempt(), NOW, Evidence(), POLICY), POLICY))
    assert metered.evidence(later).launched_at is None
    assert (len(seen), metered.prices.asked[-1]) == (1, (START, NOW))


@pytest.mark.parametrize(
    ("pool", "known", "usd", "source"),
    [
        ("c6i.xlarge/us-east-1a/on_demand", True, ON_DEMAND, PriceSource.PRICING_API),
        ("c6i.xlarge/us-east-1a/on_demand", False, None, PriceSource.PRICING_API),
        ("c6i.xlarge/us-east-1a/spot", False, None, PriceSource.SPOT_HISTORY),
        (None, True, None, PriceSource.PRICING_API),
    ],
)
def test_the_price_is_that_of_the_attempts_own_pool(
    metered: Metered, pool: str | None, known: bool, usd: Decimal | None, source: PriceSource
) -> None:
    metered.described(instance("running"))
    metered.prices.known = known
    found = metered.evidence(attempt(pool=pool))
    assert (found.usd_hour, found.source) == (usd, source)


def test_without_an_instance_nothing_is_asked(metered: Metered) -> None:
    seen = metered.described()
    assert metered.evidence(gone(instance_id=None)) == Evidence()
    assert seen == []
