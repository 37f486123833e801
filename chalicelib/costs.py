"""What an attempt's lease has cost, from what is known about its instance. Never less than the truth (I3)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from chalicelib.core.model import Attempt, Policy, Run
from chalicelib.core.money import cost, rate


def prove_cost(run: Run, attempt: Attempt, now: datetime, policy: Policy) -> Decimal:
    """USD to settle for an attempt that has ended: its seconds at the chosen pool's price cap, disk and address included.

    An instance that never was costs nothing. What the lease had reserved is never exceeded: the instance cannot outlive
    it by more than the grace that was reserved with it.
    """
    lease = attempt.lease
    assert lease is not None
    if attempt.instance_id is None or attempt.started_at is None:
        return Decimal(0)
    offers = attempt.launch.offers if attempt.launch else run.offers
    caps = [o.max_price for o in offers if o.pool == attempt.pool]
    hourly = rate(max(caps), run.limits.disk_gb, policy) if caps else lease.rate
    return min(lease.reserved, cost(hourly, (attempt.ended_at or now) - attempt.started_at))
