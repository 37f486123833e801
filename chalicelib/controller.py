"""Everything a handler needs, made when it is first used: an event's handler pays for the clients it calls and no other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.codec import Unreadable
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.fleet import Fleet
from chalicelib.fleet import Settings as FleetSettings
from chalicelib.metering import Ec2Meter
from chalicelib.poison import Poison
from chalicelib.pools import Priced, PriceUnknown, named_at, priced
from chalicelib.prices import Prices
from chalicelib.settings import Settings
from chalicelib.shell import Shell
from chalicelib.store import Store
from chalicelib.telemetry import Telemetry
from chalicelib.watchdog import Watchdog

# A handler of an event starts without these.
if TYPE_CHECKING:
    from chalicelib.acts import Acts
    from chalicelib.bucket import Bucket
    from chalicelib.outbox import Outbox
    from chalicelib.quota import Quotas
    from chalicelib.records import Records
    from chalicelib.storage import Storage
    from chalicelib.unmanaged import Unmanaged

# A hanging call must leave time to answer: Lambda's own limit would end us without a word. Retries are botocore's own:
# every call here may be sent twice, CreateFleet because its client token makes the second the same launch.
_CONFIG = Config(connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})


_QUOTED_FOR = timedelta(minutes=1)


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
        self.telemetry = Telemetry(settings.stage, self.policy)
        self.poison = Poison(lambda: self.acts, self.telemetry, clock)
        self.told: set[str] = set()  # thresholds that this process knows to be told
        self.pruned: dict[
            str, tuple[datetime, datetime]
        ] = {}  # by run: the newest checkpoint told of at its last pruning, and when
        self._quoted: dict[tuple[tuple[str, ...], str], tuple[datetime, tuple[Priced, ...] | str]] = {}
        # Of the sweep's whole passes: the last one; since when none is missing before it; the last, when nothing was going on.
        self.passed_at: datetime | None = None
        self.listening_since: datetime | None = None
        self.idle_since: datetime | None = None

    @property
    def region(self) -> str:
        return str(self.session.region_name)

    def saw(self, error: Unreadable) -> None:
        """Something can't be read: it is told once, and the others go on."""
        self.poison.saw(error)

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
        return Store(self.dynamodb, self.settings.table, self.settings.limit_usd, skip=self.saw)

    @cached_property
    def records(self) -> Records:
        from chalicelib.records import Records

        return Records(self.dynamodb, self.settings.table, self.saw)

    @cached_property
    def bucket(self) -> Bucket:
        from chalicelib.bucket import Bucket

        return Bucket(self.s3, self.settings.bucket)

    @cached_property
    def s3(self) -> Any:
        # Left to itself botocore signs URLs in the old way, which a bucket encrypted by KMS refuses.
        return self.session.client("s3", config=_CONFIG.merge(Config(signature_version="s3v4")))

    @cached_property
    def sns(self) -> Any:
        return self.client("sns")

    @cached_property
    def service_quotas(self) -> Any:
        return self.client("service-quotas")

    @cached_property
    def scheduler(self) -> Any:
        return self.client("scheduler")

    @cached_property
    def functions(self) -> Any:
        return self.client("lambda")

    @cached_property
    def pricing(self) -> Any:
        return self.client("pricing", region="us-east-1")  # it answers in few regions, for all of them

    @cached_property
    def prices(self) -> Prices:
        table = self.settings.table
        return Prices(lambda: self.ec2, lambda: self.pricing, self.dynamodb, table, self.region, self.policy, self.saw)

    @cached_property
    def quotas(self) -> Quotas:
        from chalicelib.quota import Quotas

        return Quotas(lambda: self.ec2, lambda: self.service_quotas)

    @cached_property
    def acts(self) -> Acts:
        from chalicelib.acts import Acts

        return Acts(self.dynamodb, self.settings.table, self.store.ledger, self.saw)

    @cached_property
    def outbox(self) -> Outbox:
        from chalicelib.outbox import Outbox

        s = self.settings
        return Outbox(self.dynamodb, s.table, lambda: self.sns, s.topic_arn, self.saw)

    @cached_property
    def storage(self) -> Storage:
        from chalicelib.storage import Storage

        s = self.settings
        return Storage(self.store.ledger, self.dynamodb, s.table, lambda: self.s3, s.bucket, self.saw)

    @cached_property
    def unmanaged(self) -> Unmanaged:
        from chalicelib.unmanaged import Unmanaged

        def price(kind: str) -> Decimal | None:
            quote = self.prices.estimate(kind, self.clock())
            return quote.usd_hour if quote else None

        return Unmanaged(self.store.ledger, self.dynamodb, self.settings.table, price, self.saw)

    @cached_property
    def watchdog(self) -> Watchdog:
        s = self.settings
        return Watchdog(lambda: self.scheduler, s.schedule_group, s.scheduler_role_arn)

    @cached_property
    def meter(self) -> Ec2Meter:
        return Ec2Meter(lambda: self.ec2, lambda: self.prices)

    @cached_property
    def fleet(self) -> Fleet:
        s = self.settings
        return Fleet(self.ec2, FleetSettings(s.stage, s.launch_template, s.api_url, s.bucket, s.agent_sha256))

    @cached_property
    def shell(self) -> Shell:
        return Shell(self.store, self.fleet, self.policy, self.clock, self.meter, self.watchdog, self.telemetry)

    def priced(self, instance_types: list[str], market: str) -> tuple[Priced, ...]:
        """The pools a run may use now, and their prices, asked once in a while for all runs. Raises pools.PriceUnknown."""
        key, now = (tuple(instance_types), market), self.clock()
        asked = self._quoted.get(key)
        if asked is None or now - asked[0] >= min(_QUOTED_FOR, self.policy.price_age):
            try:
                asked = now, priced(self.ec2, self.prices, instance_types, market, self.region, now)
            except PriceUnknown as error:
                asked = now, str(error)
            self._quoted[key] = asked
        found = asked[1]
        if isinstance(found, str):
            raise PriceUnknown(found)
        return found

    def offers_if_old(self, run: Run) -> ev.Priced | None:
        """Today's offers when the run's have grown old; None while they are young, and when EC2 names no price."""
        if run.offered_at and self.clock() - run.offered_at < self.policy.price_age:
            return None
        return self.fresh_offers(run)

    def offers_for_later(self, run: Run) -> ev.Priced | None:
        """Today's offers when the run's have grown old; None, too, when nobody answers now, which stops nothing."""
        try:
            return self.offers_if_old(run)
        except (ClientError, BotoCoreError):
            return None

    def fresh_offers(self, run: Run) -> ev.Priced | None:
        """Today's offers of a run's pools; None when EC2 names no price."""
        types = list(dict.fromkeys(offer.instance_type for offer in run.offers))
        try:
            pools = self.priced(types, run.offers[0].market) if types else ()
        except PriceUnknown:
            return None
        return ev.Priced(tuple(p.offer for p in pools), named_at(pools, self.clock())) if pools else None


@cache
def controller() -> Controller:
    """This Lambda's controller. Raises settings.NotConfigured."""
    return from_environment(os.environ)


def from_environment(env: Mapping[str, str]) -> Controller:
    return Controller(Settings.read(env), boto3.Session())
