"""A run's life through the real controller and real clients, in virtual time: what a scenario has happen, and everything around.

Tables, buckets, schedules and topics are moto's, EC2 is `small_ec2`, and what an entry of Scheduler says is done when its time
comes. Agents, people, events and slices do what the real ones do about an answer that is bad or missing: they ask again, and a
dead process is followed by another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_api._internal import moto_api_backend
from moto.scheduler.models import scheduler_backends
from moto.sns.models import sns_backends

from chalicelib import people
from chalicelib.contracts.errors import ApiError
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.core.model import Run
from chalicelib.slices import Others, slice_in
from chalicelib.store import Conflict
from chalicelib.sweep import SweepFailed
from chalicelib.upkeep import one_slice, whole_pass
from tests.calls import Calls
from tests.conftest import make_table
from tests.controlled import ME, SETTINGS, SPEC
from tests.core_world import START
from tests.fakes import Clock
from tests.real_agents import Agent
from tests.real_truth import Truth
from tests.sim.ec2 import BY_EC2, BY_USER, MINUTE
from tests.sim.faults import Died
from tests.small_ec2 import Machine, SmallEc2

_BAD = (ClientError, BotoCoreError, Died, Conflict, SweepFailed)
_TRIES = 3  # of Lambda, for what is invoked asynchronously


@dataclass(frozen=True)
class Scenario:
    """What is special about a life. `happens` is asked at every tick; `wants` must be true at the end, by sentence.

    `steps` of training, one a second, and `saved` between checkpoints; `prepares` makes what is there before the run.
    """

    name: str
    happens: Callable[[Life], None] = lambda life: None
    prepares: Callable[[Life], None] = lambda life: None
    wants: Mapping[str, Callable[[Life], bool]] = field(default_factory=lambda: MappingProxyType({}))
    spec: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    begins: datetime = START
    tick: timedelta = timedelta(seconds=15)
    most: timedelta = timedelta(minutes=80)  # a mail that can wait is told within an hour
    steps: int = 240
    saved: int = 60
    ends: str = "SUCCEEDED"
    keys: int = 1000  # in an answer of S3 that lists
    sliced: bool = False  # a pass of the sweep has time for one run
    events: bool = True  # whether EC2 tells that an instance has ended


class Life:
    """One run in an account of its own; `clients` are made once for all lives."""

    def __init__(self, scenario: Scenario, clients: dict[str, Any], calls: Calls) -> None:
        self.scenario, self.calls, self.clients = scenario, calls, clients
        self.clock, self.name, self.spec = Clock(), str(SPEC["name"]), {**SPEC, **scenario.spec}
        with calls.aside():
            topic = clients["sns"].create_topic(Name="spot-relay-test")["TopicArn"]
        self.settings = replace(SETTINGS, topic_arn=topic, **scenario.settings)
        self.ec2, self.truth = SmallEc2(self.clock, self._ended), Truth(self)
        self.clock.now = scenario.begins
        self.agents: dict[str, Agent] = {}
        self.accepted = self.away = False  # `away`: there is no controller, and nobody is answered
        self._done: set[str] = set()
        self._events: list[tuple[Callable[[], Any], int]] = []  # with the tries that are left
        self._swept_at: datetime | None = None
        self.run: Run | None = None  # as it was last looked at

    def __enter__(self) -> Life:
        """With what deploying makes."""
        self.calls.answers = {**self.ec2.answers(), "Invoke": self._invoked}
        with self.calls.aside():
            make_table(self.clients["dynamodb"], self.settings.table)
            s3, bucket = self.clients["s3"], self.settings.bucket
            s3.create_bucket(Bucket=bucket)
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
            self.clients["scheduler"].create_schedule_group(Name=self.settings.schedule_group)
            self.c = self._process()
            self.scenario.prepares(self)
        return self

    def __exit__(self, *_: object) -> None:
        moto_api_backend.reset()  # all that there is

    def live(self) -> Run:
        """Until all is done for the run, or for as long as the scenario lasts at most."""
        began = self.clock.now
        while self.clock.now - began < self.scenario.most:
            self.accepted = self.accepted or self.asked(lambda: people.submit(self.c, self.spec, ME))
            self.scenario.happens(self)
            self._deliver()
            for agent in list(self.agents.values()):
                agent.act(self)
            self._machines()
            self._entries()
            if self._swept_at is None or self.clock.now - self._swept_at >= MINUTE:
                self._swept_at = self.clock.now
                self.asked(lambda: whole_pass(self.c, self._others()).check())
            self._look()
            if self.run and self.run.deadline is None and not any(self.left().values()):
                break
            self.clock.now += self.scenario.tick
        assert self.run, "it was never accepted"
        return self.run

    # -- what scenarios do and ask ------------------------------------------------------------------------------------------

    def once(self, what: str, when: bool, act: Callable[[], Any]) -> None:
        """Do it at the first tick at which it may be done; `act` that gives False is tried again."""
        if when and what not in self._done and act() is not False:
            self._done.add(what)

    def agent(self, number: int) -> Agent | None:
        return next((agent for agent in self.agents.values() if agent.number == number), None)

    def step(self, number: int) -> int:
        """How far this attempt has trained; -1 before."""
        agent = self.agent(number)
        return agent.step if agent and agent.begun is not None else -1

    def warn(self, number: int) -> None:
        agent = self.agent(number)
        assert agent
        machine = agent.machine
        machine.notice_ends_at = ends_at = self.clock.now + 2 * MINUTE
        self.happened(lambda: self.c.shell.on_instance(ev.Warned(machine.instance_id, ends_at)))

    def happened(self, deliver: Callable[[], Any]) -> None:
        """Invoke a function asynchronously."""
        self._events.append((deliver, _TRIES))

    def asked(self, act: Callable[[], Any]) -> bool:
        """Whether it was answered. What ends a process has the next request begin another."""
        if self.away:
            return False
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

    def put(self, key: str, body: bytes) -> None:
        """As an agent does, past the controller's clients."""
        with self.calls.aside():
            self.clients["s3"].put_object(Bucket=self.settings.bucket, Key=f"runs/{self.name}/{key}", Body=body)

    def launched(self) -> list[Machine]:
        return [m for m in self.ec2.machines.values() if m.instance_id in self.ec2.by_token.values()]

    def mails(self) -> list[str]:
        """What was published, by its kind."""
        topic = sns_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].topics[self.settings.topic_arn]
        return [str((attributes or {})["kind"]["Value"]) for _, _, _, attributes, _ in topic.sent_notifications]

    # -- the controller's processes -----------------------------------------------------------------------------------------

    def _process(self) -> Controller:
        ids = iter(range(1000))
        c = Controller(self.settings, self.clients["session"], self.clock, lambda: f"uid{next(ids)}")
        c.__dict__.update({name: client for name, client in self.clients.items() if name != "session"})
        return c

    def _others(self) -> Others | None:
        """A pass of a sliced life has time for one run: what else is to be done goes to others."""
        return Others(lambda: self.c.functions, self.settings.sweep, lambda: 0.0) if self.scenario.sliced else None

    def _invoked(self, payload: bytes) -> dict[str, Any]:
        given = slice_in(json.loads(payload))
        assert given is not None
        self.happened(lambda: one_slice(self.c, given, self._others()).check())
        return {"StatusCode": 202}

    def _deliver(self) -> None:
        events, self._events = self._events, []
        for deliver, tries in events:
            if not self.asked(deliver) and tries > 1:
                self._events.append((deliver, tries - 1))

    def _ended(self, machine: Machine) -> None:
        state = ev.InstanceState(machine.instance_id, "terminated", machine.reason)
        if self.scenario.events:
            self.happened(lambda: self.c.shell.on_instance(state))

    def _machines(self) -> None:
        """They boot in a tick, and go when their notice is over."""
        for machine in self.launched():
            if machine.instance_id not in self.agents and self.clock.now - machine.launched_at >= self.scenario.tick:
                self.agents[machine.instance_id] = Agent(machine, int(machine.tag("attempt")))
            if machine.notice_ends_at and self.clock.now >= machine.notice_ends_at:
                self.ec2.end(machine, BY_EC2)

    def _entries(self) -> None:
        """Scheduler ends what an entry names, within a minute after its time, and deletes the entry."""
        entries = (
            scheduler_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].schedule_groups[self.settings.schedule_group].schedules
        )
        for name, entry in list(entries.items()):
            at = datetime.strptime(f"{entry.schedule_expression}+0000", "at(%Y-%m-%dT%H:%M:%S)%z")
            if self.clock.now >= at:
                for instance_id in json.loads(entry.target["Input"])["InstanceIds"]:
                    self.truth.fired(machine := self.ec2.machines[instance_id])
                    self.ec2.end(machine, BY_USER)
                del entries[name]

    # -- looked at past the controller's clients ------------------------------------------------------------------------------

    def _look(self) -> None:
        with self.calls.aside():
            self.run = self.c.store.load(self.name)
            self.truth.look(self.run)

    def left(self) -> dict[str, list[Any]]:
        """What must be gone in the end."""
        with self.calls.aside():
            group = self.clients["scheduler"].list_schedules(GroupName=self.settings.schedule_group)
            return {
                "instances": [m.instance_id for m in self.ec2.machines.values() if m.running],
                "volumes": list(self.ec2.volumes),
                "schedules": [entry["Name"] for entry in group["Schedules"]],
                "mails": list(self.c.store.ledger.query("OUTBOX")),
            }

    def stored(self, prefix: str) -> list[str]:
        """Keys of the run in the bucket, whatever version of them is there."""
        where = {"Bucket": self.settings.bucket, "Prefix": f"runs/{self.name}/{prefix}"}
        return [version["Key"] for version in self.clients["s3"].list_object_versions(**where).get("Versions", [])]

    def problems(self, run: Run) -> list[str]:
        """What is not as it should be at the end, in sentences."""
        with self.calls.aside():
            return self.truth.at_the_end(run)
