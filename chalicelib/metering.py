"""What AWS can prove about an instance's use: when it ran, why it ended, what its pool cost meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from botocore.exceptions import ClientError

from chalicelib.core.leases import Evidence
from chalicelib.core.model import Attempt, PriceSource, Run
from chalicelib.prices import Prices

# "User initiated (2026-11-25 10:00:00 GMT)", "Server.SpotInstanceTermination (…)": EC2's StateTransitionReason. A zone of another
# name is no evidence: read as UTC it would be hours wrong.
_TRANSITION = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
_GONE = ("shutting-down", "terminated", "stopping", "stopped")


class Meter(Protocol):
    """What the shell asks before it settles a lease; `Ec2Meter` is the real one."""

    def evidence(self, run: Run, attempt: Attempt, now: datetime) -> Evidence: ...


class Ec2Meter:
    def __init__(self, ec2: Callable[[], Any], prices: Callable[[], Prices]) -> None:
        self._ec2, self._prices = ec2, prices

    def evidence(self, run: Run, attempt: Attempt, now: datetime) -> Evidence:
        """About the attempt's open lease, up to now or to its end. EC2 is asked once for each end it matters for."""
        if attempt.instance_id is None or attempt.lease is None:
            return Evidence()
        found: dict[str, Any] = {}
        if not attempt.live or not attempt.spent:
            found = self._described(attempt.instance_id)
        ended = found.get("State", {}).get("Name") in _GONE
        ended_at = transition(str(found.get("StateTransitionReason") or "")) if ended else None
        end = ended_at or attempt.ended_at or now
        price, source = self._price(attempt, attempt.lease.start, end, now)
        return Evidence(
            launched_at=found.get("LaunchTime"),
            ended_at=ended_at,
            reason=str(found.get("StateReason", {}).get("Code") or "") if ended else "",
            usd_hour=price,
            source=source,
        )

    def _described(self, instance_id: str) -> dict[str, Any]:
        try:
            answer = self._ec2().describe_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidInstanceID.NotFound":
                raise
            return {}
        found = [instance for each in answer["Reservations"] for instance in each["Instances"]]
        return dict(found[0]) if found else {}

    def _price(self, attempt: Attempt, start: datetime, end: datetime, now: datetime) -> tuple[Any, PriceSource]:
        kind, _, rest = (attempt.pool or "").partition("/")
        zone, _, market = rest.partition("/")
        if market == "spot":
            return self._prices().spot_highest(kind, zone, start, max(start, end)), PriceSource.SPOT_HISTORY
        quote = self._prices().on_demand(kind, now) if market else None
        return (quote.usd_hour if quote else None), PriceSource.PRICING_API


def transition(reason: str) -> datetime | None:
    """When EC2 says that the state changed, at the latest: it names whole seconds, and the one it names is charged."""
    found = _TRANSITION.search(reason)
    if not found:
        return None
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) + timedelta(seconds=1)
