"""What can happen to a run, and what the core can ask for in return. Plain frozen data."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Counted, Offer, Reason, Run, Usage


@dataclass(frozen=True)
class Submitted:
    """The run was accepted and has no attempt yet."""


@dataclass(frozen=True)
class Warned:
    """EC2 will take the instance back at `ends_at`."""

    instance_id: str
    ends_at: datetime


@dataclass(frozen=True)
class InstanceState:
    """What EC2 says about an instance: `state` is EC2's word, or None when EC2 does not know it any more."""

    instance_id: str
    state: str | None
    reason: str = ""


@dataclass(frozen=True)
class Launched:
    """A launch was answered with an instance."""

    attempt: int
    token: str
    instance_id: str
    pool: str


class Refusal(StrEnum):
    CAPACITY = "capacity"  # other pools or later
    QUOTA = "quota"  # when something of ours has ended
    BUDGET = "budget"
    RUN_BUDGET = "run_budget"
    PRICE_UNKNOWN = "price_unknown"
    FATAL = "fatal"  # a person must do something


@dataclass(frozen=True)
class LaunchRefused:
    """A launch was answered, and there is no instance: every pool in `pools` refused."""

    attempt: int
    token: str
    kind: Refusal
    message: str
    pools: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchLost:
    """A launch had no answer within the time it may be replayed, and EC2's tags know no instance of it."""

    attempt: int
    token: str


@dataclass(frozen=True)
class Claimed:
    """An agent asks for its work.

    `published` are the newest whole checkpoints in S3 by attempt, listed after the run was read: what this event is
    written onto must be that very version, or a last checkpoint published in between would be lost. None: not listed.
    """

    attempt: int
    instance_id: str
    ready: bool
    published: tuple[Counted, ...] | None = ()


@dataclass(frozen=True)
class Beat:
    """A heartbeat. `step` is that of a checkpoint just published; `final` that it was the last one."""

    attempt: int
    instance_id: str
    step: int | None = None
    final: bool = False
    notice_ends_at: datetime | None = None


@dataclass(frozen=True)
class Exited:
    """The agent's last word. `reason` DONE is success; `drained` means the trainer stopped because it was told to."""

    attempt: int
    instance_id: str
    reason: Reason
    message: str
    code: int | None = None
    step: int | None = None
    drained: bool = False


@dataclass(frozen=True)
class CancelAsked:
    """Somebody, by their ARN, wants the run to end."""

    by: str


@dataclass(frozen=True)
class SuspendAsked:
    """Somebody, or the money, wants the run to save and wait; `reason` is USER, BUDGET or RUN_BUDGET."""

    by: str
    reason: Reason = Reason.USER


@dataclass(frozen=True)
class ResumeAsked:
    """By a person; or, with reason BUDGET, because there is money again: that resumes only what money had suspended.

    `cost_usd` is a new limits.cost_usd, higher than the old one.
    """

    by: str
    reason: Reason = Reason.USER
    cost_usd: Decimal | None = None


@dataclass(frozen=True)
class Silent:
    """The attempt has not been heard of for too long, and EC2 confirms that its instance runs."""

    attempt: int


@dataclass(frozen=True)
class Settled:
    """What was used of the lease with this sequence number; the rest goes back. `credit`: EC2 charges no instance.
    `outlived`: how long the instance lived after all that was reserved for it was used up.
    """

    attempt: int
    seq: int
    usage: Usage
    credit: bool = False
    outlived: timedelta = timedelta()


@dataclass(frozen=True)
class Priced:
    """What the pools are offered for: it replaces the offers of launches to come.

    `at` is when AWS named the prices, the oldest of them: a price from a cache is as old as it is.
    """

    offers: tuple[Offer, ...]
    at: datetime


@dataclass(frozen=True)
class Renewed:
    """The lease with this sequence number is used up to now; the next slice is to be reserved in the same write.

    `priced`: with it come today's prices for launches to come.
    """

    attempt: int
    seq: int
    usage: Usage
    priced: Priced | None = None


@dataclass(frozen=True)
class WatchdogSet:
    """EventBridge Scheduler ends the attempt's instance at `at`; None: it has no entry for it any more."""

    attempt: int
    at: datetime | None


@dataclass(frozen=True)
class Tidied:
    """Of an ended run's checkpoints those that nobody needs are deleted."""


@dataclass(frozen=True)
class Tick:
    """The sweep came by; deadlines are compared with now."""


Event = (
    Submitted
    | Warned
    | InstanceState
    | Launched
    | LaunchRefused
    | LaunchLost
    | Claimed
    | Beat
    | Exited
    | CancelAsked
    | SuspendAsked
    | ResumeAsked
    | Silent
    | Settled
    | Renewed
    | WatchdogSet
    | Priced
    | Tidied
    | Tick
)


@dataclass(frozen=True)
class StartInstance:
    """Ask EC2 for the attempt's saved launch; the attempt's lease is reserved in the same write that saves it."""

    attempt: int


@dataclass(frozen=True)
class EndInstance:
    """Terminate the attempt's instance. "Not found" is success."""

    attempt: int
    instance_id: str
    why: str


@dataclass(frozen=True)
class Settle:
    """Settle the attempt's lease from what EC2 can prove about its use."""

    attempt: int


@dataclass(frozen=True)
class SetWatchdog:
    """Have EventBridge Scheduler end the attempt's instance at this time, whatever becomes of us; None: take it back.

    `moves`: an entry was set before.
    """

    attempt: int
    instance_id: str
    at: datetime | None
    moves: bool


@dataclass(frozen=True)
class Note:
    """A line for the run's timeline."""

    reason: Reason
    message: str
    attempt: int | None = None


Command = StartInstance | EndInstance | Settle | SetWatchdog | Note


@dataclass(frozen=True)
class Outcome:
    """What a decision gives: the run as it is now, and what is to be done for it."""

    run: Run
    commands: tuple[Command, ...] = ()
