"""What is charged, asked of moto's EC2: real instances, real prices of a pool, and what is left when EC2 has forgotten."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib.core import leases
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, Phase, PriceSource, Run, Usage
from chalicelib.metering import Ec2Meter
from chalicelib.prices import Prices
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import POLICY, new_run
from tests.hooks import answers, aws
from tests.test_prices import history

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
KIND, ZONE = "c6i.xlarge", "us-east-1a"
CAP = Decimal("0.136")
IMAGE = "ami-12c6146b"  # one that moto knows


@dataclass
class Account:
    ec2: Any
    meter: Ec2Meter
    run: Run
    attempt: Attempt
    launched: datetime

    def described(self) -> dict[str, Any]:
        found = self.ec2.describe_instances(InstanceIds=[self.attempt.instance_id])
        return dict(found["Reservations"][0]["Instances"][0])

    def prices(self, *each: str, zone: str = ZONE) -> list[dict[str, Any]]:
        return answers(self.ec2, "DescribeSpotPriceHistory", history(*((KIND, zone, usd) for usd in each)), always=True)

    def evidence(self, attempt: Attempt | None = None) -> Evidence:
        return self.meter.evidence(self.run, attempt or self.attempt, self.launched + 40 * MINUTE)

    def usage(self, attempt: Attempt) -> Usage:
        return leases.usage(self.run, attempt, self.launched + 40 * MINUTE, self.evidence(attempt), POLICY)

    def ended(self, after: timedelta, **changes: Any) -> Attempt:
        changes = {"phase": Phase.ENDED, "ended_at": self.launched + after, **changes}
        return replace(self.attempt, **changes)


@pytest.fixture
def account(store: Store) -> Account:
    ec2 = aws("ec2")
    made = ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, InstanceType=KIND)["Instances"][0]
    launched: datetime = made["LaunchTime"]
    lease = leases.first(launched - 20 * SECOND, 1, CAP, 50, POLICY)
    attempt = Attempt(1, Phase.TRAINING, launched, lease=lease, instance_id=made["InstanceId"])
    attempt = replace(attempt, pool=f"{KIND}/{ZONE}/spot", started_at=launched)
    prices = Prices(lambda: ec2, lambda: None, store._client, TABLE, "us-east-1", POLICY)
    return Account(ec2, Ec2Meter(lambda: ec2, lambda: prices), new_run(), attempt, launched)


def test_a_running_instance_is_charged_from_its_launch_and_has_no_end(account: Account) -> None:
    account.prices("0.068")
    found = account.evidence()
    assert found == Evidence(account.launched, None, "", Decimal("0.068"), PriceSource.SPOT_HISTORY)
    used = account.usage(account.attempt)
    assert (used.start, used.end) == (account.launched, account.launched + 40 * MINUTE)


@pytest.mark.parametrize("act", ["terminate_instances", "stop_instances"])
def test_an_instance_that_has_ended_has_the_end_that_ec2_names_and_why(account: Account, act: str) -> None:
    account.prices("0.068")
    before = datetime.now(UTC)
    getattr(account.ec2, act)(InstanceIds=[account.attempt.instance_id])
    after = datetime.now(UTC)
    found = account.evidence(account.ended(35 * MINUTE))
    assert found.ended_at
    assert before <= found.ended_at <= after + SECOND, "the second that EC2 names is charged to its end"
    assert (found.launched_at, found.reason) == (account.launched, "Client.UserInitiatedShutdown")
    assert not leases.credited(account.ended(35 * MINUTE), found), "ended by us: no free first hour"
    used = account.usage(account.ended(35 * MINUTE))
    assert used.end == max(found.ended_at, account.launched + MINUTE), "sooner than we saw it, and a minute at least"


def test_an_instance_that_ec2_has_forgotten_is_charged_until_we_saw_it_end(account: Account) -> None:
    account.prices("0.068", "0.071")
    unknown = account.ended(35 * MINUTE, instance_id="i-0123456789abcdef0")
    assert account.evidence(unknown) == Evidence(usd_hour=Decimal("0.071"), source=PriceSource.SPOT_HISTORY)
    used = account.usage(unknown)
    assert (used.start, used.end) == (account.launched - 20 * SECOND, account.launched + 35 * MINUTE)


def test_an_instance_that_nobody_saw_end_is_charged_to_the_end_of_what_was_reserved(account: Account) -> None:
    account.prices("0.068")
    used = account.usage(account.ended(35 * MINUTE, instance_id="i-0123456789abcdef0", end_proved=False))
    assert account.attempt.lease
    assert (used.end, used.source, used.rates.instance) == (account.attempt.lease.until, PriceSource.UNPROVED, CAP)


def test_the_price_is_asked_for_the_slice_alone_and_the_highest_of_it_is_charged(account: Account) -> None:
    seen = account.prices("0.0680", "0.0912", "0.0701")
    assert account.usage(account.ended(10 * MINUTE)).rates.instance == Decimal("0.0912")
    asked = seen[0]["body"]
    assert (asked["InstanceType.1"], asked["AvailabilityZone"], asked["ProductDescription.1"]) == (
        KIND,
        ZONE,
        "Linux/UNIX",
    )
    assert datetime.fromisoformat(asked["StartTime"]) == account.launched - 20 * SECOND
    assert datetime.fromisoformat(asked["EndTime"]) == account.launched + 10 * MINUTE


def test_a_renewed_slice_has_the_price_of_its_own_time_only(account: Account) -> None:
    seen = account.prices("0.068")
    now = account.launched + 26 * MINUTE
    first = leases.usage(account.run, account.attempt, now, account.evidence(), POLICY)
    second = leases.renewed(account.attempt, first, now, POLICY)
    account.evidence(second)
    asked = seen[-1]["body"]
    assert datetime.fromisoformat(asked["StartTime"]) == first.end == now
    assert datetime.fromisoformat(asked["EndTime"]) == account.launched + 40 * MINUTE


def test_an_end_before_the_slice_began_asks_for_no_span_that_runs_backwards(account: Account) -> None:
    """A launch that was given up and ended at once: EC2 refuses an end before the start."""
    seen = account.prices("0.068")
    account.evidence(account.ended(-1 * MINUTE))
    asked = seen[0]["body"]
    assert asked["StartTime"] == asked["EndTime"]


@pytest.mark.parametrize("each", [(), ("0.0000",)])
def test_without_a_price_of_its_time_a_slice_is_charged_at_its_cap(account: Account, each: tuple[str, ...]) -> None:
    account.prices(*each)
    used = account.usage(account.ended(10 * MINUTE))
    assert (used.rates.instance, used.source) == (CAP, PriceSource.CAP)


def test_a_price_above_the_cap_is_charged_at_the_cap_that_ec2_kept_to(account: Account) -> None:
    account.prices("0.2")
    assert account.usage(account.ended(10 * MINUTE)).rates.instance == CAP
