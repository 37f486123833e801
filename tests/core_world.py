"""A run and the smallest world around it: EC2 that starts and ends instances, and a clock the test moves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from chalicelib.core import events as ev
from chalicelib.core import leases
from chalicelib.core.decide import decide
from chalicelib.core.leases import Evidence
from chalicelib.core.model import Limits, Offer, Policy, Reason, Run, Status

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
POLICY = Policy()
OFFERS = tuple(
    Offer(kind, zone, f"subnet-{zone[-1]}", Decimal("0.17"))
    for kind in ("c6i.xlarge", "c5.xlarge")
    for zone in ("us-east-1a", "us-east-1b")
)


def new_run(**changes: object) -> Run:
    limits = Limits(Decimal(11), timedelta(hours=30), attempts=50, attempts_without_progress=3)
    facts: dict[str, object] = {
        "name": "cloud_prod_001",
        "uid": "u1",
        "status": Status.QUEUED,
        "reason": Reason.SUBMITTED,
        "message": "Accepted.",
        "created_at": START,
        "created_by": "arn:aws:iam::123456789012:user/me",
        "limits": limits,
        "deadline": START,
        "offers": OFFERS,
        "offered_at": START,
        **changes,
    }
    return Run(**facts)  # type: ignore[arg-type]


class World:
    """Feeds events to `decide` and performs its commands at once against instances it keeps in a dict."""

    def __init__(self, run: Run | None = None) -> None:
        self.run = run or new_run()
        self.now = START
        self.instances: dict[str, str] = {}  # id -> EC2's word for its state
        self.attempt_of: dict[str, int] = {}
        self.tokens: dict[str, str] = {}  # client token -> instance id
        self.refuse: ev.LaunchRefused | None = None
        self.launches = 0
        self.unanswered: list[ev.Command] = []
        self.answer_launches = True
        self.settle_at_once = True
        self.prices_known = True

    def tell(self, event: ev.Event) -> ev.Outcome:
        if self.prices_known:
            self.run = replace(self.run, offered_at=self.now)  # the sweep asks each hour
        outcome = decide(self.run, event, self.now, POLICY)
        self.run = outcome.run
        for command in outcome.commands:
            self.perform(command)
        return outcome

    def perform(self, command: ev.Command) -> None:
        match command:
            case ev.StartInstance():
                self.start(command)
            case ev.EndInstance():
                self.instances[command.instance_id] = "terminated"
                self.tell(ev.InstanceState(command.instance_id, "terminated"))
            case ev.Settle() if self.settle_at_once:
                attempt = self.run.attempts[command.attempt - 1]
                assert attempt.lease
                used = leases.usage(self.run, attempt, self.now, Evidence(), POLICY)
                self.tell(ev.Settled(command.attempt, attempt.lease.seq, used))
            case ev.SetWatchdog():
                self.tell(ev.WatchdogSet(command.attempt, command.at))
            case _:
                pass

    def start(self, command: ev.StartInstance) -> None:
        attempt = self.run.attempts[command.attempt - 1]
        assert attempt.launch
        if not self.answer_launches:
            self.unanswered.append(command)
            return
        token = attempt.launch.token
        if self.refuse:
            pools = tuple(o.pool for o in attempt.launch.offers)
            refusal = self.refuse
            self.tell(ev.LaunchRefused(command.attempt, token, refusal.kind, refusal.message, pools))
            return
        if token not in self.tokens:
            self.launches += 1
            self.tokens[token] = f"i-{self.launches:017x}"
            self.instances[self.tokens[token]] = "running"
            self.attempt_of[self.tokens[token]] = command.attempt
        self.tell(ev.Launched(command.attempt, token, self.tokens[token], attempt.launch.offers[0].pool))

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def instance(self, number: int) -> str:
        found = self.run.attempts[number - 1].instance_id
        assert found
        return found

    def claim(self, number: int, ready: bool = True, published: tuple[tuple[int, int], ...] = ()) -> None:
        from chalicelib.core.model import Counted

        listed = tuple(Counted(a, s) for a, s in published)
        self.tell(ev.Claimed(number, self.instance(number), ready, listed))

    def train(self, number: int = 1) -> None:
        self.claim(number, ready=False)
        self.claim(number)

    def warn(self, number: int) -> None:
        self.tell(ev.Warned(self.instance(number), self.now + POLICY.notice))

    def lose(self, number: int) -> None:
        instance = self.instance(number)
        self.instances[instance] = "terminated"
        self.tell(ev.InstanceState(instance, "terminated"))

    def exit(self, number: int, reason: Reason, drained: bool = False, step: int | None = None) -> None:
        self.tell(ev.Exited(number, self.instance(number), reason, "The trainer ended.", 0, step, drained))
