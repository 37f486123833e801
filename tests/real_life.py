"""A run's life through the real controller and real clients: submitted, interrupted, handed over, ended.

Time is virtual; tables, buckets and schedules are moto's, EC2 is `small_ec2`. Agents, people and events do what the real ones
do about an answer that is bad or missing: they ask again, and a dead process is followed by another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib import agents, people
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.core.money import ZERO
from chalicelib.store import Conflict
from chalicelib.sweep import SweepFailed
from chalicelib.upkeep import whole_pass
from tests.calls import Calls
from tests.conftest import make_table
from tests.controlled import ME, SETTINGS, SPEC
from tests.fakes import Clock
from tests.sim.faults import Died
from tests.small_ec2 import Machine, SmallEc2

TICK = timedelta(seconds=15)
NAME = str(SPEC["name"])
TOTAL, SAVED = 240, 60  # steps of the whole training, and between checkpoints; one a second
_BAD = (ClientError, BotoCoreError, Died, Conflict, SweepFailed)


@dataclass
class Agent:
    machine: Machine
    number: int
    begun: int | None = None  # the step it began from
    step: int = 0
    told: dict[str, Any] | None = None  # the checkpoint that heartbeats tell of
    prepared: bool = False
    leaving: str | None = None
    beats: int = 0


class Life:
    """One run on tables and buckets of its own; `clients` are made once for all lives."""

    def __init__(self, clients: dict[str, Any], calls: Calls, number: int) -> None:
        self.clock, self.number, self.calls, self._clients = Clock(), number, calls, clients
        self.settings = replace(SETTINGS, table=f"table-{number}", bucket=f"bucket-{number}", stage=f"s{number}")
        self.ec2 = SmallEc2(self.clock, self._ended)
        self.agents: dict[str, Agent] = {}
        self.restored: list[tuple[int, int]] = []  # attempt, and the step it was given
        self.published: dict[int, list[int]] = {}
        self.batons: list[int] = []  # who had it, look by look
        self._events: list[tuple[Any, int]] = []
        self._warned = self._left = False

    def prepare(self) -> None:
        """What deploying makes."""
        make_table(self._clients["dynamodb"], self.settings.table)
        self._clients["s3"].create_bucket(Bucket=self.settings.bucket)
        self._clients["scheduler"].create_schedule_group(Name=self.settings.schedule_group)
        self.c = self._process()

    def live(self, minutes: int = 60) -> Run:
        """Until all is done for the run, or for so long."""
        for tick in range(minutes * 4):
            self._submitted = getattr(self, "_submitted", False) or self._asked(self._submit)
            for event, tries in self._taken():
                self._deliver(event, tries)
            for agent in list(self.agents.values()):
                if agent.machine.running:
                    self._act(agent)
            for machine in self.ec2.machines.values():
                if machine.instance_id not in self.agents and self.clock.now - machine.launched_at >= TICK:
                    self.agents[machine.instance_id] = Agent(machine, int(machine.tag("attempt")))
                if machine.notice_ends_at and self.clock.now >= machine.notice_ends_at:
                    self.ec2.end(machine, "Server.SpotInstanceTermination")
            if tick % 4 == 0:
                self._asked(lambda: whole_pass(self.c).check())
            run = self._run()
            if run and run.deadline is None and not any(m.running for m in self.ec2.machines.values()):
                return run
            self.clock.now += TICK
        assert run, "it was never accepted"
        return run

    # -- the controller's processes -----------------------------------------------------------------------------------------

    def _process(self) -> Controller:
        ids = iter(range(1000))
        c = Controller(self.settings, self._clients["session"], self.clock, lambda: f"uid{next(ids)}")
        c.__dict__.update({name: client for name, client in self._clients.items() if name != "session"})
        return c

    def _asked(self, act: Callable[[], Any]) -> bool:
        """Whether it was answered. What ends a process has the next request begin another."""
        try:
            act()
        except _BAD as error:
            if isinstance(error, Died):
                self.c = self._process()
            return False
        except ApiError as error:
            if error.status < 500 and error.code != "retry":
                raise
            return False
        return True

    def _submit(self) -> None:
        people.submit(self.c, SPEC, ME)

    def _deliver(self, event: Any, tries: int) -> None:
        if not self._asked(lambda: self.c.shell.on_instance(event)) and tries > 1:
            self._events.append((event, tries - 1))

    def _taken(self) -> list[tuple[Any, int]]:
        taken, self._events = self._events, []
        return taken

    def _ended(self, machine: Machine) -> None:
        self._events.append((ev.InstanceState(machine.instance_id, "terminated", machine.reason), 3))

    def _run(self) -> Run | None:
        """As it is in the table, looked at past all clients of the controller."""
        self.calls.pause()
        try:
            run = self.c.store.load(NAME)
        finally:
            self.calls.resume()
        if run and run.baton:
            self.batons.append(run.baton)
        return run

    # -- agents ---------------------------------------------------------------------------------------------------------------

    def _act(self, agent: Agent) -> None:
        if agent.leaving:
            self._leave(agent)
        elif agent.begun is None:
            self._claim(agent)
        else:
            self._train(agent)

    def _caller(self, agent: Agent) -> agents.Caller:
        role = self.settings.instance_role
        arn = f"arn:aws:sts::123456789012:assumed-role/{role}/{agent.machine.instance_id}"
        return agents.identify(self.c, arn, NAME, agent.number)

    def _answer(self, agent: Agent, act: Callable[[agents.Caller], dict[str, Any]]) -> dict[str, Any] | None:
        found: list[dict[str, Any]] = []
        try:
            self._asked(lambda: found.append(act(self._caller(agent))))
        except ApiError:
            return {"action": "superseded"}
        return found[0] if found else None

    def _claim(self, agent: Agent) -> None:
        body = ClaimRequest(ready=agent.prepared)
        answer = self._answer(agent, lambda caller: agents.claim(self.c, caller, body))
        if answer is None:
            return
        match answer["action"]:
            case "prepare":
                agent.prepared = True
            case "restore":
                found = answer["checkpoint"]
                agent.begun = agent.step = found["step"] if found else 0
                self.restored.append((agent.number, agent.begun))
            case "wait":
                pass
            case _:
                self.ec2.end(agent.machine, "Client.InstanceInitiatedShutdown")

    def _train(self, agent: Agent) -> None:
        agent.step = min(TOTAL, agent.step + int(TICK.total_seconds()))
        if agent.step % SAVED == 0 or agent.step == TOTAL:
            self._publish(agent)
        if agent.step >= SAVED * 2 and not self._warned:
            self._warned = True
            agent.machine.notice_ends_at = self.clock.now + timedelta(minutes=2)
            self._events.append((ev.Warned(agent.machine.instance_id, agent.machine.notice_ends_at), 3))
        if agent.step == TOTAL:
            self._put(f"results/{agent.number:04d}/metrics.json", b'{"loss": 1}')
            agent.leaving = "done"
            return
        agent.beats += 1
        body = HeartbeatRequest.model_validate(
            {"phase": "train", "step": agent.step, "checkpoint": agent.told, "notice_at": agent.machine.notice_ends_at}
        )
        answer = self._answer(agent, lambda caller: agents.heartbeat(self.c, caller, body))
        if answer is not None and answer["action"] != "continue":
            if answer["action"] == "superseded":
                self.ec2.end(agent.machine, "Client.InstanceInitiatedShutdown")
                return
            self._publish(agent, final=True)
            agent.leaving = answer["reason"] or "handoff"

    def _publish(self, agent: Agent, final: bool = False) -> None:
        self._put(f"checkpoints/{agent.number:04d}/{agent.step:012d}/MANIFEST.json", b"{}")
        self.published.setdefault(agent.number, []).append(agent.step)
        agent.told = {"step": agent.step, "bytes": 2, "final": final}

    def _put(self, key: str, body: bytes) -> None:
        """As the agent does, past the controller's clients."""
        self.calls.pause()
        self._clients["s3"].put_object(Bucket=self.settings.bucket, Key=f"runs/{NAME}/{key}", Body=body)
        self.calls.resume()

    def _leave(self, agent: Agent) -> None:
        drained = agent.leaving != "done"
        body = ExitRequest.model_validate(
            {"reason": agent.leaving, "message": "Over.", "code": 0, "step": agent.step, "drained": drained}
        )
        if self._answer(agent, lambda caller: agents.leave(self.c, caller, body)) is not None:
            self.ec2.end(agent.machine, "Client.InstanceInitiatedShutdown")

    # -- what must be true at the end -------------------------------------------------------------------------------------------

    def wrong(self, run: Run) -> list[str]:
        """What is not as it should be, in sentences."""
        self.calls.pause()
        try:
            month, account = self.c.store.ledger.month("2026-11"), self.c.store.ledger.run(NAME)
            entries = self._clients["scheduler"].list_schedules(GroupName=self.settings.schedule_group)["Schedules"]
        finally:
            self.calls.resume()
        running = [m.instance_id for m in self.ec2.machines.values() if m.running]
        attempts = [m.tag("attempt") for m in self.ec2.machines.values()]
        found = {
            f"the run is {run.status.value}: {run.message}": run.status.value != "SUCCEEDED",
            f"instances are left: {running}": bool(running),
            f"schedules are left: {entries}": bool(entries),
            f"money stays reserved: {account}": account["reserved"] != ZERO,
            f"an attempt was launched twice: {attempts}": len(set(attempts)) != len(attempts),
            f"the baton went back: {self.batons}": self.batons != sorted(self.batons),
            f"more is held than the limit: {month}": month["settled"] + month["reserved"] > month["limit"],
        }
        problems = [what for what, is_wrong in found.items() if is_wrong]
        for number, step in self.restored:
            best = max((s for n, steps in self.published.items() if n < number for s in steps), default=0)
            if step < best and step < max(self.published.get(number - 1, [0]), default=0):
                problems.append(f"attempt {number} began at step {step}, where {self.published} was published")
        return problems
