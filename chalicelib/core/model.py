"""What a run is: its status, its attempts, its baton. Plain frozen data, no behaviour that acts.

Money is Decimal USD, rates are USD per hour, times are timezone-aware UTC datetimes, spans are timedeltas.
"""

from __future__ import annotations

from dataclasses import field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from chalicelib.core.frozen import dataclass


class Status(StrEnum):
    QUEUED = "QUEUED"
    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    RECOVERING = "RECOVERING"
    STOPPING = "STOPPING"
    SUSPENDED = "SUSPENDED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Reason(StrEnum):
    SUBMITTED = "submitted"
    STARTED = "started"
    SPOT_INTERRUPTION = "spot_interruption"
    NO_CAPACITY = "no_capacity"
    QUOTA = "quota"
    BUDGET = "budget"
    RUN_BUDGET = "run_budget"
    PRICE_UNKNOWN = "price_unknown"
    MAX_DURATION = "max_duration"
    MAX_ATTEMPTS = "max_attempts"
    NO_PROGRESS = "no_progress"
    BOOT_FAILED = "boot_failed"
    LOST_CONTACT = "lost_contact"
    INSTANCE_ENDED = "instance_ended"
    LAUNCH_REFUSED = "launch_refused"
    EXIT_CODE = "exit_code"
    METRICS_MISSING = "metrics_missing"
    SOURCE = "source"
    COMMAND = "command"
    CHECKPOINT_DIR = "checkpoint_dir"
    LEASE_END = "lease_end"
    SUPERSEDED = "superseded"
    HANDOFF = "handoff"
    USER = "user"
    DONE = "done"


class Phase(StrEnum):
    """Where an attempt is. The order is the order of a life; ENDED is reached from each."""

    LAUNCHING = "LAUNCHING"  # asked of EC2, no answer yet
    BOOTING = "BOOTING"  # an instance exists
    PREPARING = "PREPARING"  # its agent has claimed once
    READY = "READY"  # could restore, waits for the baton
    TRAINING = "TRAINING"  # holds or held the baton
    LEAVING = "LEAVING"  # its agent has reported its exit; the instance is about to go
    ENDED = "ENDED"  # no instance (any more)


class Wanted(StrEnum):
    """What the person (or the money) wants of the run."""

    RUN = "run"
    SUSPEND = "suspend"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Offer:
    """A pool the run may use, with the price cap that was reserved for it (USD per hour, instance only)."""

    instance_type: str
    zone: str
    subnet: str
    max_price: Decimal
    market: str = "spot"

    @property
    def pool(self) -> str:
        return f"{self.instance_type}/{self.zone}/{self.market}"


@dataclass(frozen=True)
class Launch:
    """The whole launch request, saved before the call, so that only this very request is ever replayed."""

    token: str
    offers: tuple[Offer, ...]
    asked_at: datetime


@dataclass(frozen=True)
class Rates:
    """What an hour costs, in USD: the instance, its gp3 volume, its public IPv4 address."""

    instance: Decimal
    disk: Decimal
    address: Decimal

    @property
    def total(self) -> Decimal:
        return self.instance + self.disk + self.address


class PriceSource(StrEnum):
    """Where the instance's price in a line of the ledger comes from."""

    SPOT_HISTORY = "spot_history"  # DescribeSpotPriceHistory, the highest in force during the slice
    PRICING_API = "pricing_api"
    CAP = "cap"  # EC2 named none: the price cap, which it can't have been above
    UNPROVED = "unproved"  # nobody can say when the instance ended: all that was reserved
    NO_INSTANCE = "no_instance"


@dataclass(frozen=True)
class Usage:
    """What was used of a lease, from `start` to `end` as EC2 bills it, and what an hour of it cost."""

    start: datetime
    end: datetime
    rates: Rates
    source: PriceSource


@dataclass(frozen=True)
class Lease:
    """A paid time slice of an attempt. `seq` guards every change.

    The ledger holds `reserved` USD for it: what the instance can cost at most from `start` to `until`, which is the lease's
    `end`, the grace and the moment that ending it takes. `usage` is set when it is settled, and nothing is reserved any more.
    """

    seq: int
    start: datetime
    end: datetime
    until: datetime
    rate: Decimal  # USD per hour at the price cap, volume and address included
    reserved: Decimal
    usage: Usage | None = None

    @property
    def settled(self) -> bool:
        return self.usage is not None


@dataclass(frozen=True)
class Spent:
    """What an attempt has cost in a month, in USD; `instance_usd` of it for the instance alone."""

    month: str
    usd: Decimal
    instance_usd: Decimal


@dataclass(frozen=True)
class Attempt:
    """One instance's part of a run. `number`, from 1, is the fencing token; times are UTC."""

    number: int
    phase: Phase
    phase_since: datetime
    tries: int = 1
    launch: Launch | None = None
    lease: Lease | None = None
    previous: Lease | None = None  # the slice before this lease, as it was settled when the lease was renewed
    spent: tuple[Spent, ...] = ()
    credited: Decimal | None = None  # USD that came back because EC2 interrupted its first hour
    watchdog_at: datetime | None = None  # when the entry in EventBridge Scheduler ends the instance
    watchdog_again_at: datetime | None = None  # when it is set once more: a slow older call may have moved it
    instance_id: str | None = None
    pool: str | None = None
    started_at: datetime | None = None  # when EC2 answered with the instance
    notice_ends_at: datetime | None = None  # when EC2 said it will take the instance back
    terminate_asked_at: datetime | None = None
    drain: Reason | None = None  # told to drain, and why
    superseded: bool = False
    handed_over: bool = False  # published its final checkpoint
    from_step: int | None = None
    step: int | None = None  # of the newest checkpoint it published
    exit_code: int | None = None
    ended_at: datetime | None = None
    ended_by: Reason | None = None
    end_proved: bool = True  # False: EC2 does not know the instance any more, and nobody saw it end
    outlived: timedelta = timedelta()  # how long the instance lived unpaid, should every switch have failed
    terminated: bool = False  # EC2 said so: it has given back its quota, too

    @property
    def live(self) -> bool:
        return self.phase is not Phase.ENDED

    @property
    def cost(self) -> Decimal:
        """USD settled so far."""
        return sum((s.usd for s in self.spent), Decimal(0))

    @property
    def reserved(self) -> Decimal:
        """USD that the ledger holds for it."""
        return self.lease.reserved if self.lease and not self.lease.settled else Decimal(0)


@dataclass(frozen=True)
class Counted:
    """The last step that counts for an earlier attempt, fixed when the baton moved on; -1 when none does."""

    attempt: int
    step: int


@dataclass(frozen=True)
class Cooling:
    """A pool that EC2 took an instance back from, or refused one in, and until when it is asked last."""

    pool: str
    until: datetime


@dataclass(frozen=True)
class Limits:
    """What the spec allows the run."""

    cost_usd: Decimal
    duration: timedelta
    attempts: int
    attempts_without_progress: int
    disk_gb: int = 50
    wait_for_budget: bool = False


@dataclass(frozen=True)
class Run:
    """A training job from submission to result."""

    name: str
    uid: str  # distinguishes this run from an earlier one of the same name in client tokens
    status: Status
    reason: Reason
    message: str
    created_at: datetime
    created_by: str
    limits: Limits
    deadline: datetime | None  # when the sweep acts if nothing else happened; None only at an end
    offers: tuple[Offer, ...] = ()
    offered_at: datetime | None = None  # when AWS named their prices, the oldest of them
    wanted: Wanted = Wanted.RUN
    wanted_reason: Reason = Reason.USER
    attempts: tuple[Attempt, ...] = ()
    baton: int | None = None
    counted: tuple[Counted, ...] = ()
    cooling: tuple[Cooling, ...] = ()
    refusals: int = 0  # launches refused in a row
    retry_at: datetime | None = None
    refused_at: datetime | None = None  # when the month's money last refused it
    ran: timedelta = field(default=timedelta())  # running time of ended attempts
    tidied: bool = False  # after its end the checkpoints that nobody needs were deleted
    version: int = 0

    @property
    def live(self) -> tuple[Attempt, ...]:
        return tuple(a for a in self.attempts if a.live)

    @property
    def untidy(self) -> bool:
        """It has ended and told of checkpoints, of which some may be needless since it was last looked at."""
        over = self.status.ended and not self.live and not self.tidied
        return over and any(a.step is not None for a in self.attempts)

    @property
    def newest(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def holder(self) -> Attempt | None:
        """The attempt that has the baton, whether its instance still lives or not."""
        return self.attempt(self.baton) if self.baton else None

    def attempt(self, number: int) -> Attempt | None:
        return self.attempts[number - 1] if 0 < number <= len(self.attempts) else None

    def on(self, instance_id: str) -> Attempt | None:
        return next((a for a in reversed(self.attempts) if a.instance_id == instance_id), None)

    def put(self, attempt: Attempt) -> Run:
        """The run with this attempt in place of the one with its number, or added as the next."""
        if attempt.number == len(self.attempts) + 1:
            return replace(self, attempts=(*self.attempts, attempt))
        return replace(self, attempts=tuple(attempt if a.number == attempt.number else a for a in self.attempts))


@dataclass(frozen=True)
class Policy:
    """The numbers decisions are made with (DESIGN: money and handoff); a rehearsal scales them."""

    lease: timedelta = timedelta(minutes=50)
    renew_below: timedelta = timedelta(minutes=25)
    grace: timedelta = timedelta(minutes=5)
    end_margin: timedelta = timedelta(minutes=2)
    heartbeat: timedelta = timedelta(seconds=30)
    heartbeat_urgent: timedelta = timedelta(seconds=5)
    silence: timedelta = timedelta(minutes=3)
    young: timedelta = timedelta(minutes=1)  # an instance of a run that is not known is no stray yet
    claim_within: timedelta = timedelta(minutes=10)
    answer_within: timedelta = timedelta(seconds=10)  # CreateFleet answers in seconds; until then nobody else asks
    replay_for: timedelta = timedelta(minutes=5)
    lands_within: timedelta = timedelta(minutes=5)  # a call without an answer has been carried out by then, or never is
    described: timedelta = timedelta(minutes=50)  # EC2 describes an instance for about an hour after it ended
    notice: timedelta = timedelta(minutes=2)
    after_notice: timedelta = timedelta(seconds=30)
    leave_within: timedelta = timedelta(minutes=3)
    cool_down: timedelta = timedelta(minutes=30)
    retry_first: timedelta = timedelta(seconds=30)
    retry_most: timedelta = timedelta(minutes=10)
    price_age: timedelta = timedelta(hours=1)
    price_stale: timedelta = timedelta(hours=3)
    month_shift: timedelta = timedelta()  # a rehearsal lets the month turn when it needs to
    disk_usd_gb_month: Decimal = Decimal("0.08")  # gp3, us-east-1, 2026
    address_usd_hour: Decimal = Decimal("0.005")  # public IPv4
    storage_usd_gb_month: Decimal = Decimal("0.023")  # S3 Standard

    def scaled(self, scale: float) -> Policy:
        """The same policy with every span multiplied by `scale` (a rehearsal's time scale)."""
        spans: dict[str, Any] = {
            k: v * scale for k, v in vars(self).items() if isinstance(v, timedelta) and k != "month_shift"
        }
        return replace(self, **spans)
