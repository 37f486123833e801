"""Everything a handler needs, made when it is first used: an event's handler pays for the clients it calls and no other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any

import boto3
from botocore.config import Config

from chalicelib.bucket import Bucket
from chalicelib.core.model import Offer
from chalicelib.costs import prove_cost
from chalicelib.fleet import Fleet
from chalicelib.fleet import Settings as FleetSettings
from chalicelib.pools import offers
from chalicelib.records import Records
from chalicelib.settings import Settings
from chalicelib.shell import Shell
from chalicelib.store import Store

# A hanging call must leave time to answer: Lambda's own limit would end us without a word. Retries are botocore's own:
# every call here may be sent twice, CreateFleet because its client token makes the second the same launch.
_CONFIG = Config(connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})


class CallCounter:
    """Counts the AWS requests of a session as they are sent, retries included."""

    def __init__(self, session: boto3.Session) -> None:
        self.calls: list[str] = []
        session.events.register("before-send", self._sent)

    def _sent(self, event_name: str, **_: Any) -> None:
        self.calls.append(event_name.removeprefix("before-send."))


class Controller:
    """One per Lambda environment. `clock` and `new_id` are arguments, so that tests decide what they say."""

    def __init__(
        self,
        settings: Settings,
        session: boto3.Session,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.settings = settings
        self.session = session
        self.clock = clock
        self.new_id = new_id
        self.policy = settings.policy
        self.counter = CallCounter(session)

    @property
    def region(self) -> str:
        return str(self.session.region_name)

    def client(self, service: str, region: str | None = None) -> Any:
        return self.session.client(service, config=_CONFIG, region_name=region)  # type: ignore[call-overload]

    @cached_property
    def dynamodb(self) -> Any:
        return self.client("dynamodb")

    @cached_property
    def ec2(self) -> Any:
        return self.client("ec2")

    @cached_property
    def sts(self) -> Any:
        return self.client("sts")

    @cached_property
    def store(self) -> Store:
        return Store(self.dynamodb, self.settings.table, self.settings.limit_usd)

    @cached_property
    def records(self) -> Records:
        return Records(self.dynamodb, self.settings.table)

    @cached_property
    def bucket(self) -> Bucket:
        return Bucket(self.client("s3"), self.settings.bucket)

    @cached_property
    def fleet(self) -> Fleet:
        s = self.settings
        return Fleet(self.ec2, FleetSettings(s.stage, s.launch_template, s.api_url, s.bucket, s.agent_sha256))

    @cached_property
    def shell(self) -> Shell:
        policy = self.policy
        return Shell(
            self.store, self.fleet, policy, self.clock, lambda run, attempt, now: prove_cost(run, attempt, now, policy)
        )

    def offers(self, instance_types: list[str], market: str) -> tuple[Offer, ...]:
        """The pools a run may use now. Raises pools.PriceUnknown."""
        # The Pricing API answers in few regions, for all of them.
        pricing = self.client("pricing", region="us-east-1") if market == "on_demand" else None
        return offers(self.ec2, pricing, instance_types, market, self.region, self.clock())


@cache
def controller() -> Controller:
    """This Lambda's controller. Raises settings.NotConfigured."""
    return from_environment(os.environ)


def from_environment(env: Mapping[str, str]) -> Controller:
    return Controller(Settings.read(env), boto3.Session())
