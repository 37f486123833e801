"""The simulated world: a queue of what happens next, the controller as Lambda runs it, and what must be true all the time.

`run_for(span)` lets time pass. The controller's code is the real one: shell, core, routes of agents and people, sweep and
the resuming of runs; around it are EC2 (`ec2`), the table (`table`) and agents (`agent`) in virtual time.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from chalicelib import agents, housekeeping
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.core import calendar
from chalicelib.core import events as ev
from chalicelib.core.model import Counted, Limits, Policy, Reason, Run, Status
from chalicelib.core.news import News
from chalicelib.glances import Glance
from chalicelib.instances import Instance as Listed
from chalicelib.shell import Shell
from chalicelib.store import Conflict
from chalicelib.sweep import sweep
from tests.sim.agent import Agent, Unreachable
from tests.sim.ec2 import BY_EC2, BY_USER, MINUTE, Instance, Pool, SimEc2
from tests.sim.faults import CallFailed, Died, Faults
from tests.sim.table import FakeStore

START = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
SCHEDULER_LATE = timedelta(seconds=60)  # what EventBridge Scheduler may be late
IDLE_LOOK = timedelta(minutes=30)
ACCOUNT = "123456789012"
SPEC = {
    "source": {"token": None}, "inputs": [], "secrets": {},
    "results": {"require": [], "metrics": None}, "checkpoint": {"keep": 3},
}  # fmt: skip


class World:
    def __init__(self, limit: Decimal = Decimal(20), start: datetime = START) -> None:
        self.now = start
        self.policy = Policy()
        self.faults = Faults()
        self.store = FakeStore(limit, self.faults)
        pools = [
            Pool(kind, zone, [(start - timedelta(days=1), Decimal(usd))])
            for kind, zone, usd in (
                ("c6i.xlarge", "us-east-1a", "0.068"),
                ("c6i.xlarge", "us-east-1b", "0.071"),
                ("c5.xlarge", "us-east-1a", "0.069"),
            )
        ]
        self.ec2 = SimEc2(lambda: self.now, self.faults, pools, self._launched, self._ended, self._scheduled)
        self.shell = Shell(self.store, self.ec2, self.policy, lambda: self.now, self.ec2, self.ec2)  # type: ignore[arg-type]
        self.c: Any = SimpleNamespace(
            store=self.store, shell=self.shell, policy=self.policy, clock=lambda: self.now, fleet=self.ec2,
            meter=self.ec2, offers_for_later=self.priced, bucket=self, records=self, region="us-east-1", sts=self,
            telemetry=SimpleNamespace(count=lambda *_, **__: None, concerns=lambda *_: None),
            settings=SimpleNamespace(
                instance_role="spot-relay-sim-instance", stage="sim", bucket="b", log_group="", time_scale=1.0,
                account=ACCOUNT, run_role_arn=f"arn:aws:iam::{ACCOUNT}:role/spot-relay-sim-run",
            ),
        )  # fmt: skip
        self.down = False
        self.events = "deliver"  # or lose, duplicate
        self.agents: dict[str, Agent] = {}
        self.whole: dict[tuple[str, int], list[int]] = {}  # checkpoints in S3, by run and attempt
        self.totals: dict[str, int] = {}
        self.happened = 0
        self.recorded: list[str] = []
        self._queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._boots = itertools.cycle([1, 3, 2, 4])
        self.at(start + MINUTE, self._sweep_in_turn)

    # -- time -----------------------------------------------------------------------------------------------------------

    def at(self, when: datetime, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._numbers), what))

    def later(self, after: timedelta, agent: Agent, what: Callable[[], None]) -> None:
        """For an agent: it happens only while the agent lives."""
        self.at(self.now + after, lambda: what() if agent.alive else None)

    def run_for(self, span: timedelta) -> None:
        end = self.now + span
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
            self.happened += 1
            self.check()
        self.now = end
        self.check()

    # -- the controller, as Lambda runs it -----------------------------------------------------------------------------

    def invoke(self, act: Callable[[], Any]) -> Any:
        """A request: None for a process that died, CallFailed for a 5xx."""
        if self.down:
            raise Unreachable
        try:
            return act()
        except (CallFailed, Died, Conflict) as error:
            raise Unreachable from error

    def on_event(self, event: ev.Warned | ev.InstanceState, tries: int = 3) -> None:
        """Asynchronous: tried three times, after a minute and after two (Lambda), unless it is lost."""
        if self.events == "lose":
            return
        for _ in range(2 if self.events == "duplicate" else 1):
            self._deliver(event, tries)

    def _deliver(self, event: ev.Warned | ev.InstanceState, tries: int) -> None:
        try:
            self.invoke(lambda: self.shell.on_instance(event))
        except Unreachable:
            if tries > 1:
                self.at(self.now + (4 - tries) * MINUTE, lambda: self._deliver(event, tries - 1))

    def _sweep_in_turn(self) -> None:
        """Each minute; while nothing is due it is skipped, which changes nothing but the time this takes."""
        if not self.down:
            self.sweep()
        due = [run.deadline for run in self.store.saved.values() if run.deadline is not None]
        calm = not any(i.running for i in self.ec2.instances.values())
        wait = max(MINUTE, min([*(d - self.now for d in due), IDLE_LOOK])) if calm else MINUTE
        self.at(self.now + wait, self._sweep_in_turn)

    def sweep(self) -> None:
        try:
            listed = [
                self._listed(i) for i in self.ec2.instances.values() if i.running or self.now - i.ended_at < 60 * MINUTE
            ]  # type: ignore[operator]
            self.store.ledger.open([self.month(self.now), self.month(calendar.turn(self.now, self.policy))])
            report = sweep(self.shell, self.store.glances(), listed, self, self.now)
            waiting = housekeeping.waiting_runs(self.shell, report.waiting)
            raised_at = self.store.ledger.raised_at
            housekeeping.resume(self.shell, waiting, self.free, raised_at, self.offers_of, self.now)
        except (CallFailed, Died, Conflict):
            pass  # the next minute goes on

    def _listed(self, i: Instance) -> Listed:
        state = "running" if i.running else "terminated"
        return Listed(i.instance_id, state, i.run, i.attempt, i.launched_at, i.protected, i.reason)

    # -- sweep.Around, records, bucket, STS ----------------------------------------------------------------------------

    def last_beats(self, run: Run) -> Mapping[int, datetime]:
        """A living agent has been heard half a minute ago, if the controller was there to hear it."""
        return {a.instance.attempt: self.now for a in self.agents.values() if a.alive and a.instance.run == run.name}

    def glimpse(self, attempts: list[tuple[str, int]]) -> Mapping[tuple[str, int], datetime]:
        return {agent.name: self.now for agent in self.agents.values() if agent.alive}

    def untidy(self, glance: Glance) -> bool:
        """Nothing is stored here."""
        return False

    def in_time(self) -> bool:
        return True

    def hand_over(self, runs: list[Glance]) -> bool:
        """One invocation has all the time it needs."""
        return False

    def priced(self, run: Run) -> ev.Priced | None:
        if run.status.ended or (run.offered_at and self.now - run.offered_at < self.policy.price_age):
            return None
        return self.offers_of(run)

    def offers_of(self, run: Run) -> ev.Priced | None:
        return None if self.ec2.silent else ev.Priced(self.ec2.offers(), self.now)

    def prune(self, run: Run) -> None:
        """Nothing is stored here."""

    def record(self, what: str, news: News, run: Run | None) -> None:
        self.recorded.append(what)

    def heard(self, run: str, beat: Any) -> None:
        """Heartbeats are not kept."""

    def beats(self, run: str) -> dict[int, Any]:
        """They are not kept."""
        return {}

    def left(self, *told: Any) -> None:
        """Nor results."""

    def published(self, run: Run, before: int) -> tuple[Counted, ...]:
        fixed = {c.attempt for c in run.counted}
        found = ((n, self.whole.get((run.name, n))) for n in range(1, before) if n not in fixed)
        return tuple(Counted(n, max(steps)) for n, steps in found if steps)

    def restorable(self, run: Run) -> list[Counted]:
        found = []
        for last in sorted(run.counted, key=lambda c: -c.attempt):
            steps = self.whole.get((run.name, last.attempt), [])
            found += [Counted(last.attempt, s) for s in sorted(steps, reverse=True) if s <= last.step]
        return found

    def source(self, run: str) -> None:
        """Nothing is stored."""

    def assume_role(self, **asked: Any) -> dict[str, Any]:
        keys = {"AccessKeyId": "", "SecretAccessKey": "", "SessionToken": "", "Expiration": self.now}
        return {"Credentials": keys}

    # -- agents ---------------------------------------------------------------------------------------------------------

    def claim(self, agent: Agent, ready: bool) -> dict[str, Any]:
        body = ClaimRequest(ready=ready)
        return self._agent(agent, lambda caller: agents.claim(self.c, caller, body))

    def heartbeat(self, agent: Agent) -> dict[str, Any]:
        told = {"step": agent.saved, "bytes": 1} if agent.saved is not None else None
        body = HeartbeatRequest.model_validate(
            {"phase": "train", "checkpoint": told, "notice_at": agent.instance.notice_ends_at}
        )
        return self._agent(agent, lambda caller: agents.heartbeat(self.c, caller, body))

    def exit(self, agent: Agent, reason: str, drained: bool) -> dict[str, Any]:
        body = ExitRequest.model_validate(
            {"reason": reason, "message": "Over.", "code": 0, "step": agent.saved, "drained": drained}
        )
        return self._agent(agent, lambda caller: agents.leave(self.c, caller, body))

    def _agent(self, agent: Agent, act: Callable[[agents.Caller], dict[str, Any]]) -> dict[str, Any]:
        run, attempt = agent.name
        role = self.c.settings.instance_role
        arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{agent.instance.instance_id}"
        try:
            answer: dict[str, Any] = self.invoke(lambda: act(agents.identify(self.c, arn, run, attempt)))
        except ApiError as error:
            if error.code == "retry":
                raise Unreachable from error
            return {"action": "superseded"}
        return answer

    def publish(self, agent: Agent, step: int) -> None:
        self.whole.setdefault(agent.name, []).append(step)

    def total_steps(self, run: str) -> int:
        return self.totals[run]

    def _launched(self, instance: Instance) -> None:
        agent = self.agents[instance.instance_id] = Agent(self, instance, next(self._boots) * MINUTE)
        self.later(next(self._boots) * timedelta(seconds=30), agent, agent.boot)

    def _ended(self, instance: Instance) -> None:
        for state, after in (("shutting-down", 1), ("terminated", 20)):
            event = ev.InstanceState(instance.instance_id, state)
            self.at(self.now + timedelta(seconds=after), lambda event=event: self.on_event(event))  # type: ignore[misc]

    def _scheduled(self, instance_id: str, at: datetime) -> None:
        def fires() -> None:
            if self.ec2.entries.get(instance_id) == at:
                del self.ec2.entries[instance_id]
                self.ec2.stop(instance_id, BY_USER)

        self.at(at + SCHEDULER_LATE, fires)

    # -- what a person does, and what EC2 does -------------------------------------------------------------------------

    def submit(self, name: str, cost_usd: Decimal, hours: int, *, wait: bool = False) -> None:
        limits = Limits(cost_usd, timedelta(hours=2 * hours), 50, 3, wait_for_budget=wait)
        run = Run(
            name, f"u-{name}", Status.QUEUED, Reason.SUBMITTED, "Accepted.", self.now, "me", limits, self.now,
            offers=self.ec2.offers(), offered_at=self.now,
        )  # fmt: skip
        self.totals[name] = hours * 3600

        def act() -> None:
            self.store.create(run, SPEC, "hash")
            self.shell.tell(name, ev.Submitted())

        self.ask(act)

    def ask(self, act: Callable[[], Any]) -> None:
        """A person's request: its failure is theirs to see."""
        with contextlib.suppress(Unreachable):
            self.invoke(act)

    def interrupt(self, instance: Instance, warned: bool) -> None:
        if not instance.running or instance.notice_ends_at:
            return
        if not warned:
            self.ec2.stop(instance.instance_id, BY_EC2)
            return
        ends_at = instance.notice_ends_at = self.now + self.policy.notice
        self.agents[instance.instance_id].noticed()
        self.at(self.now + timedelta(seconds=2), lambda: self.on_event(ev.Warned(instance.instance_id, ends_at)))
        self.at(ends_at, lambda: self.ec2.stop(instance.instance_id, BY_EC2))

    def price(self, pool: Pool, usd: Decimal) -> None:
        """The price moves; an instance whose cap it passes is taken back."""
        pool.prices.append((self.now, usd))
        for instance in self.ec2.instances.values():
            if instance.running and instance.pool is pool and usd > instance.max_price:
                self.interrupt(instance, warned=True)

    # -- what must be true ----------------------------------------------------------------------------------------------

    def month(self, at: datetime) -> str:
        return calendar.month(at, self.policy)

    def free(self) -> Decimal:
        return self.store.ledger.month(self.month(self.now))["free"]

    def check(self) -> None:
        """I3, after everything that happens."""
        for name, account in self.store.ledger.months.items():
            assert account.settled + account.reserved <= account.limit, f"{name}: {account}"
            assert account.free == account.limit - account.settled - account.reserved, f"{name}: {account}"
            assert account.reserved >= 0
            assert account.settled >= 0
        for name, account in self.store.ledger.of_runs.items():
            assert account.settled + account.reserved <= self.store.saved[name].limits.cost_usd
            assert account.free == account.limit - account.settled - account.reserved
        for run in self.store.saved.values():
            for attempt in run.live:
                instance = self.ec2.instances.get(attempt.instance_id or "")
                if instance is not None and instance.running and attempt.lease:
                    latest = attempt.lease.end + self.policy.grace + SCHEDULER_LATE + MINUTE
                    assert self.now <= latest, f"{instance} outlives {attempt.lease}"

    def check_bill(self) -> None:
        """What EC2 really charges is never more than what the ledger has settled and reserved, in any month."""
        for name, usd in self.ec2.bill(self.now, self.month).items():
            account = self.store.ledger.months[name]
            assert usd <= account.settled + account.reserved, f"{name}: true {usd}, {account}"

    def settle_down(self, span: timedelta = timedelta(days=3)) -> None:
        """Everything works again: what is left to settle is settled."""
        self.down, self.events, self.ec2.silent, self.ec2.vcpus = False, "deliver", False, None
        for pool in self.ec2.pools:
            pool.capacity = True
        self.run_for(span)
