"""The simulated world: a queue of what happens next, the controller as Lambda runs it, and what must be true all the time.

`run_for(span)` lets time pass. The controller's code is the real one: shell, core, routes of agents, sweep with what it does
beside the runs, and the resuming of runs; around it are EC2 (`ec2`), the table (`table`, `watched`), the bucket, EventBridge
(`post`) and agents (`agent`) in virtual time. `invariants` looks at everything that happens.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from chalicelib import housekeeping
from chalicelib.core import calendar
from chalicelib.core import events as ev
from chalicelib.core.model import Attempt, Limits, Policy, Reason, Run, Status
from chalicelib.instances import Instance as Listed
from chalicelib.shell import Shell
from chalicelib.store import Conflict
from chalicelib.sweep import Report, sweep
from chalicelib.upkeep import Upkeep, listening_since
from tests.sim.agent import Agent, Unreachable
from tests.sim.bucket import SimBucket
from tests.sim.ec2 import BY_EC2, BY_USER, MINUTE, Instance, Pool
from tests.sim.faults import CallFailed, Died, Faults
from tests.sim.invariants import CANARY, Invariants
from tests.sim.post import Post
from tests.sim.records import SimActs, SimRecords
from tests.sim.routes import ACCOUNT, Routes
from tests.sim.story import Story
from tests.sim.watched import WatchedEc2, WatchedStore

START = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
SCHEDULER_LATE = timedelta(seconds=60)  # what EventBridge Scheduler may be late
IDLE_LOOK = timedelta(minutes=30)
HEARTBEAT = timedelta(seconds=30)
SPEC = {
    "source": {"token": None}, "inputs": [], "secrets": {},
    "results": {"require": [], "metrics": None}, "checkpoint": {"keep": 3},
}  # fmt: skip


class World:
    def __init__(self, limit: Decimal = Decimal(20), start: datetime = START, name: str = "") -> None:
        """`name` says how this world is made again; a broken invariant tells it."""
        self.now, self.name = start, name
        self.policy = Policy()
        self.faults = Faults(lambda: self.now, self.run_for)
        self.story = Story()
        pools = [
            Pool(kind, zone, [(start - timedelta(days=1), Decimal(usd))])
            for kind, zone, usd in (
                ("c6i.xlarge", "us-east-1a", "0.068"),
                ("c6i.xlarge", "us-east-1b", "0.071"),
                ("c5.xlarge", "us-east-1a", "0.069"),
            )
        ]
        self.store = WatchedStore(limit, self.faults)
        self.ec2 = WatchedEc2(lambda: self.now, self.faults, pools, self._launched, self._ended, self._scheduled)
        self.invariants = self.store.watch = self.ec2.watch = Invariants(self)
        self.bucket = SimBucket(self.faults, self.invariants.baton.pruning)
        self.shell = Shell(self.store, self.ec2, self.policy, lambda: self.now, self.ec2, self.ec2)  # type: ignore[arg-type]
        self.c: Any = SimpleNamespace(
            store=self.store, shell=self.shell, policy=self.policy, clock=lambda: self.now, fleet=self.ec2,
            meter=self.ec2, offers_for_later=self.offers_if_old, offers_if_old=self.offers_if_old,
            bucket=self.bucket, records=SimRecords(self._heard_at), acts=SimActs(), pruned={},
            passed_at=None, listening_since=None, region="us-east-1", sts=self,
            telemetry=SimpleNamespace(count=lambda *_, **__: None, concerns=lambda *_: None),
            settings=SimpleNamespace(
                instance_role="spot-relay-sim-instance", stage="sim", bucket="b", log_group="", time_scale=1.0,
                account=ACCOUNT, run_role_arn=f"arn:aws:iam::{ACCOUNT}:role/spot-relay-sim-run",
            ),
        )  # fmt: skip
        self._down = self._paused = False
        self._since = self._before = start - timedelta(days=1)  # when the controller last went or came, and before that
        self.post, self.routes = Post(self), Routes(self)
        self.agents: dict[str, Agent] = {}
        self.by_attempt: dict[tuple[str, int], Agent] = {}
        self.born: Callable[[Agent], None] = lambda agent: None  # what awaits an instance that was just launched
        self.asked: Callable[[str, Attempt], None] = lambda run, attempt: None  # before a launch is asked for
        self.lag = timedelta()  # until EC2 describes what it has launched
        self.totals: dict[str, int] = {}
        self.happened = 0
        self._queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        turns = zip(itertools.cycle([15, 40, 25, 90]), itertools.cycle([20, 180, 60, 5, 240]), strict=False)
        # Seconds until an instance's agent claims, and from then until it could restore.
        self.boots: Callable[[Instance], tuple[float, float]] = lambda instance: next(turns)
        self.at(start + MINUTE, self._sweep_in_turn)

    # -- time -----------------------------------------------------------------------------------------------------------

    def at(self, when: datetime, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._numbers), what))

    def later(self, after: timedelta, agent: Agent, what: Callable[[], None]) -> None:
        """For an agent: it happens only while the agent lives."""
        self.at(self.now + after, lambda: what() if agent.alive else None)

    def run_for(self, span: timedelta) -> None:
        """Also called in the middle of what happens, while a call of it hangs."""
        end = self.now + span
        while self._queue and self._queue[0][0] <= end:
            self.now, _, what = heapq.heappop(self._queue)
            what()
            self.happened += 1
            self.invariants.check()
        self.now = max(self.now, end)
        self.invariants.check()

    # -- the controller, as Lambda runs it -----------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        return self._down

    @down.setter
    def down(self, down: bool) -> None:
        if down != self._down:
            self._down, self._before, self._since = down, self._since, self.now
            self.story.tell(self.now, None, "the controller is away" if down else "the controller is back")
            if not down and self._paused:
                self._paused = False
                self.at(self.now + timedelta(seconds=7), self._sweep_in_turn)

    @property
    def events(self) -> str:
        return self.post.events

    @events.setter
    def events(self, events: str) -> None:
        self.post.events = events

    def invoke(self, act: Callable[[], Any]) -> Any:
        """A request. Raises Unreachable for a process that died, for a 5xx, and while the controller is away."""
        if self._down:
            raise Unreachable
        try:
            return act()
        except (CallFailed, Died, Conflict) as error:
            self.story.tell(self.now, None, f"an invocation ends with {type(error).__name__} {error}")
            raise Unreachable from error

    def _sweep_in_turn(self) -> None:
        """Each minute; while nothing is due it is skipped, which changes nothing but the time this takes."""
        if self._down:
            self._paused = True
            return
        self.sweep()
        wait = MINUTE
        if not self.ec2.running:
            due = [glance.due for glance in self.store.live_glances() if not glance.waits]
            wait = max(MINUTE, min([*(d - self.now for d in due), IDLE_LOOK]))
        self.at(self.now + wait, self._sweep_in_turn)

    def sweep(self) -> None:
        listed = [self._listed(i) for i in self.ec2.described()]
        try:
            self.store.ledger.open([self.month(self.now), self.month(calendar.turn(self.now, self.policy))])
            around = Upkeep(self.c, self.now, listening_since(self.c, self.now))
            report = sweep(self.shell, self.store.glances(), listed, around, self.now)
            with report.kept("waiting runs"):
                waiting = housekeeping.waiting_runs(self.shell, report.waiting)
                raised_at = self.store.ledger.raised_at
                housekeeping.resume(self.shell, waiting, self.free, raised_at, self.offers_of, self.now)
        except (CallFailed, Died, Conflict) as error:
            report = Report(failed={"pass": f"{type(error).__name__}: {error}"})  # the next minute goes on
        self.invariants.swept(report)

    def _listed(self, i: Instance) -> Listed:
        state = "running" if i.running else "terminated"
        return Listed(i.instance_id, state, i.run, i.attempt, i.launched_at, i.protected, i.reason)

    # -- what the controller asks beside the table and EC2 --------------------------------------------------------------

    def _heard_at(self, run: str, attempt: int, played: datetime) -> datetime:
        """An agent that lives beats each half minute; it is heard where the controller is there and the line stands."""
        agent = self.by_attempt[run, attempt]
        last = agent.dead_at or self.now
        if not agent.connected or (agent.back_at and self.now - agent.back_at < HEARTBEAT):
            last = min(last, agent.cut_at or last)
        if self.now - self._since < HEARTBEAT:
            last = min(last, self._before)
        return max(played, last)

    def offers_if_old(self, run: Run) -> ev.Priced | None:
        if run.offered_at and self.now - run.offered_at < self.policy.price_age:
            return None
        return self.offers_of(run)

    def offers_of(self, run: Run) -> ev.Priced | None:
        return None if self.ec2.silent else ev.Priced(self.ec2.offers(), self.now)

    def assume_role(self, **asked: Any) -> dict[str, Any]:
        keys = {"AccessKeyId": CANARY, "SecretAccessKey": CANARY, "SessionToken": CANARY, "Expiration": self.now}
        return {"Credentials": keys}

    # -- instances ------------------------------------------------------------------------------------------------------

    def _launched(self, instance: Instance) -> None:
        instance.listed_at = self.now + self.lag
        boot, prepare = self.boots(instance)
        agent = self.agents[instance.instance_id] = Agent(self, instance, timedelta(seconds=prepare))
        self.by_attempt[agent.name] = agent
        self.tell(agent, f"EC2 launches it in {instance.pool.name} for at most {instance.max_price} USD an hour")
        self.invariants.started(instance)
        self.later(timedelta(seconds=boot), agent, agent.boot)
        self.born(agent)

    def _ended(self, instance: Instance) -> None:
        self.tell(self.agents[instance.instance_id], f"it ends ({instance.reason})")
        for state, after in (("shutting-down", 1), ("terminated", 20)):
            event = ev.InstanceState(instance.instance_id, state)
            self.at(self.now + timedelta(seconds=after), lambda event=event: self.post.send(event))  # type: ignore[misc]

    def _scheduled(self, instance_id: str, at: datetime) -> None:
        def fires() -> None:
            if self.ec2.entries.get(instance_id) == at:
                del self.ec2.entries[instance_id]
                self.tell_of(instance_id, "Scheduler ends it")
                self.ec2.stop(instance_id, BY_USER)

        self.at(at + SCHEDULER_LATE, fires)

    def tell(self, agent: Agent, text: str) -> None:
        self.story.tell(self.now, agent.instance.run, f"attempt {agent.instance.attempt}, {text}")

    def tell_of(self, instance_id: str, text: str) -> None:
        self.tell(self.agents[instance_id], text)

    # -- what a person does, and what EC2 does -------------------------------------------------------------------------

    def submit(self, name: str, cost_usd: Decimal, hours: float, *, wait: bool = False) -> None:
        limits = Limits(cost_usd, timedelta(hours=2 * hours), 50, 3, wait_for_budget=wait)
        run = Run(
            name, f"u-{name}", Status.QUEUED, Reason.SUBMITTED, "Accepted.", self.now, "me", limits, self.now,
            offers=self.ec2.offers(), offered_at=self.now,
        )  # fmt: skip
        self.totals[name] = int(hours * 3600)

        def act() -> None:
            self.store.create(run, {**SPEC}, "hash")
            self.shell.tell(name, ev.Submitted())

        self.ask(act)

    def ask(self, act: Callable[[], Any]) -> None:
        """A person's request: its failure is theirs to see."""
        with contextlib.suppress(Unreachable):
            self.invoke(act)

    def interrupt(self, instance: Instance, warned: bool, late: timedelta = timedelta()) -> None:
        """EC2 takes an instance back; after a notice it may be `late`."""
        if not instance.running or instance.notice_ends_at:
            return
        self.tell_of(instance.instance_id, f"EC2 interrupts it, {'with' if warned else 'without'} a notice")
        self.invariants.interruptions += 1
        if not warned:
            self.ec2.stop(instance.instance_id, BY_EC2)
            return
        ends_at = instance.notice_ends_at = self.now + self.policy.notice
        self.agents[instance.instance_id].noticed()
        self.at(self.now + timedelta(seconds=2), lambda: self.post.send(ev.Warned(instance.instance_id, ends_at)))
        self.at(ends_at + late, lambda: self.ec2.stop(instance.instance_id, BY_EC2))

    def stray(self, run: str, attempt: int) -> None:
        """An instance of ours that nothing accounts for, as after a table was put back: it does nothing but cost."""
        instance = self.ec2.appear(run, attempt)
        agent = self.agents[instance.instance_id] = Agent(self, instance, timedelta())
        agent.hang(switch_fails=True)
        self.story.tell(self.now, run, f"a stray appears: {instance.instance_id}, of attempt {attempt}")

    def price(self, pool: Pool, usd: Decimal) -> None:
        """The price moves; an instance whose cap it passes is taken back."""
        pool.prices.append((self.now, usd))
        for instance in list(self.ec2.running.values()):
            if instance.pool is pool and usd > instance.max_price:
                self.interrupt(instance, warned=True)

    # -- the money ------------------------------------------------------------------------------------------------------

    def month(self, at: datetime) -> str:
        return calendar.month(at, self.policy)

    def free(self) -> Decimal:
        return self.store.ledger.month(self.month(self.now))["free"]

    def check_bill(self) -> None:
        self.invariants.check_bill()

    def settle_down(self, span: timedelta = timedelta(days=3)) -> None:
        """Everything works again: what is left to settle is settled."""
        self.down, self.events, self.ec2.silent, self.ec2.vcpus = False, "deliver", False, None
        for pool in self.ec2.pools:
            pool.capacity = True
        self.run_for(span)
