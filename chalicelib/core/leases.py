"""The life of a lease: made for a launch, shrunk to the pool that EC2 chose, renewed slice by slice, settled by what was used.

A lease reserves before anything is spent: at the highest price cap, until its end, the grace and the moment that ending an
instance takes are over. What is settled later is a shorter span at a lower rate, so it fits into the reservation in every
calendar month it touches (I3).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from chalicelib.core.calendar import pieces
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Lease, Policy, PriceSource, Reason, Run, Spent, Usage
from chalicelib.core.money import MINIMUM, ZERO, by_month, down, rates, rates_in, up

_FREE_FIRST = timedelta(hours=1)  # what EC2 interrupts within its first hour is not charged (EC2 Spot billing)
_BY_EC2 = "Server.SpotInstance"


@dataclass(frozen=True)
class Evidence:
    """What AWS says about an instance's use: when it ran, why it ended, and the highest price in force meanwhile.

    None is "AWS does not say". `ended_at` and `reason` (EC2's StateReason code) only of an instance that has ended.
    """

    launched_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str = ""
    usd_hour: Decimal | None = None
    source: PriceSource = PriceSource.CAP


def first(now: datetime, seq: int, highest_cap: Decimal, disk_gb: int, policy: Policy) -> Lease:
    """The lease of a launch, reserved at the highest cap among the pools that are offered."""
    return _lease(seq, now, now, rates(highest_cap, disk_gb, policy).total, policy)


def shrunk(lease: Lease, cap: Decimal, disk_gb: int, policy: Policy) -> Lease:
    """The same lease at the cap of the pool that EC2 chose."""
    rate = min(lease.rate, rates(cap, disk_gb, policy).total)
    return replace(lease, rate=rate, reserved=_reserved(rate, lease.start, lease.until, policy))


def renewed(attempt: Attempt, usage: Usage, now: datetime, policy: Policy) -> Attempt:
    """The slice so far settled, and the next reserved from now: both, or neither. The attempt has an open lease."""
    lease = attempt.lease
    assert lease is not None
    assert not lease.settled
    closed = replace(lease, usage=usage)
    # From where the slice ends, not from now: what passes while its price is asked is paid, too.
    following = _lease(lease.seq + 1, usage.end, now, lease.rate, policy)
    return replace(attempt, previous=closed, lease=following, spent=_with(attempt.spent, usage, policy))


def settled(attempt: Attempt, usage: Usage, credit: bool, policy: Policy) -> Attempt:
    """The attempt with its last slice settled, and with `credit` what its instance has cost given back."""
    lease = attempt.lease
    assert lease is not None
    spent = _with(attempt.spent, usage, policy)
    back = None
    if credit:
        back = sum((s.instance_usd for s in spent), ZERO)
        spent = tuple(replace(s, usd=s.usd - s.instance_usd, instance_usd=ZERO) for s in spent)
    return replace(attempt, lease=replace(lease, usage=usage), spent=spent, credited=back)


def usage(run: Run, attempt: Attempt, now: datetime, found: Evidence, policy: Policy) -> Usage:
    """What the attempt used of its open lease until now, or until its end. Where AWS does not say, the dearer is taken."""
    lease = attempt.lease
    assert lease is not None
    disk_gb = run.limits.disk_gb
    beside = rates(ZERO, disk_gb, policy)
    cap = lease.rate - beside.total
    if not attempt.live and not _proved(attempt, policy):
        return Usage(lease.start, lease.until, replace(beside, instance=cap), PriceSource.UNPROVED)
    if attempt.instance_id is None:
        return Usage(lease.start, lease.start, beside, PriceSource.NO_INSTANCE)
    start = lease.start
    if not attempt.spent and found.launched_at is not None:
        start = max(start, found.launched_at)
    end = now if attempt.live else (attempt.ended_at or now)
    if not attempt.live and found.ended_at is not None:
        end = min(end, found.ended_at)
    least = start + MINIMUM if not attempt.spent else start
    end = min(max(end, start, least), lease.until)
    price, source = found.usd_hour, found.source
    if price is None or price > cap:
        price, source = cap, PriceSource.CAP
    return Usage(start, end, rates_in(price, disk_gb, start, end, policy), source)


def _proved(attempt: Attempt, policy: Policy) -> bool:
    """Whether it is known how the attempt ended: of a launch without an answer, EC2 has been asked while it remembers."""
    if attempt.instance_id is None and attempt.ended_by is Reason.LOST_CONTACT and attempt.launch and attempt.ended_at:
        return attempt.ended_at - attempt.launch.asked_at < policy.described
    return attempt.end_proved


def credited(attempt: Attempt, found: Evidence) -> bool:
    """Whether EC2 charges nothing for the instance: it took it back within its first hour, and says so itself."""
    if not found.reason.startswith(_BY_EC2) or found.launched_at is None or found.ended_at is None:
        return False
    return not attempt.live and found.ended_at - found.launched_at < _FREE_FIRST


def outlived(attempt: Attempt, found: Evidence) -> timedelta:
    """How long the instance lived after `lease.until`. Nothing was reserved for that, so the ledger can't hold it."""
    if attempt.lease is None or found.ended_at is None:
        return timedelta()
    return max(timedelta(), found.ended_at - attempt.lease.until)


def costs(used: Usage, policy: Policy) -> dict[str, Decimal]:
    """USD of a usage by calendar month."""
    return by_month(used.rates.total, used.start, used.end, policy)


def _lease(seq: int, start: datetime, now: datetime, rate: Decimal, policy: Policy) -> Lease:
    end = now + policy.lease
    until = end + policy.grace + policy.end_margin
    return Lease(seq, start, end, until, rate, _reserved(rate, start, until, policy))


def _reserved(rate: Decimal, start: datetime, until: datetime, policy: Policy) -> Decimal:
    return sum(by_month(rate, start, until, policy).values(), ZERO)


def _with(spent: tuple[Spent, ...], used: Usage, policy: Policy) -> tuple[Spent, ...]:
    sums = {s.month: s for s in spent}
    for month, span in pieces(used.start, used.end, policy):
        held = sums.get(month, Spent(month, ZERO, ZERO))
        # What a credit gives back is rounded down: the ledger never says less than AWS does.
        instance = down(used.rates.instance * span / 3600)
        sums[month] = Spent(month, held.usd + up(used.rates.total * span / 3600), held.instance_usd + instance)
    return tuple(sums.values())
