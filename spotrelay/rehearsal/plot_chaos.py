"""Every few seconds a process is killed with -9: one of the controller's, or an instance's agent. The run succeeds all the same.

Which and when follows from the seed. Only processes that the rehearsal started are ever signalled: Lambdas are found in the
emulator's process group, agents among their instance's own.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from spotrelay.rehearsal.emulator import group_members
from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot, Scene

EVERY_S = (1.0, 4.0)
AGENTS = 0.3  # of the kills, as far as there is one to be killed
MOST_AGENTS = 4  # a run may have fifty attempts, and the person at the laptop some patience
LEAST_LAMBDAS, LEAST_AGENTS = 3, 1
AGENT = b"/opt/spot-relay/agent"


class Chaos(Plot):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._random = random.Random(f"{scene.seed} chaos")
        self._next = 0.0
        self._published = 0
        self.lambdas, self.agents = 0, 0

    def strike(self) -> None:
        if not self.scene.reached() and not self.agents:
            return
        if self._next and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._random.uniform(*EVERY_S)
        agent = self._random.random() < AGENTS or not self.agents
        if not (agent and self._kill_agent()):
            self._kill_lambda()

    def unwarned_losses(self) -> int | None:
        return self.agents

    def problems(self, outcome: Outcome) -> list[str]:
        self.scene.say(f"{self.lambdas} Lambda processes and {self.agents} agents were killed")
        if self.lambdas < LEAST_LAMBDAS or self.agents < LEAST_AGENTS:
            return [f"only {self.lambdas} Lambda processes and {self.agents} agents were killed: the run was too short"]
        return []

    def _kill_lambda(self) -> None:
        emulator = self.scene.stage.emulator.process_group
        if emulator is None:
            return
        workers = [pid for pid in group_members(emulator) if pid != emulator]
        if workers:
            victim = self._random.choice(sorted(workers))
            self.scene.stage.killed_at.append(time.monotonic())
            self.lambdas += _kill(victim)

    def _kill_agent(self) -> bool:
        """Only after a checkpoint since the last: a run that never gets anywhere is given up on, and rightly."""
        if self.agents >= MOST_AGENTS or len(self.scene.published) <= self._published:
            return False
        for number in sorted(self.scene.watch.instances, reverse=True):
            instance = self.scene.instance(number)
            found = [p for p in self.scene.control.instance(instance)["pids"] if _is_agent(p)] if instance else []
            if found:
                self.scene.say(f"the agent of attempt {number} is killed at step {self.scene.watch.last(number)}")
                self._published = len(self.scene.published)
                self.agents += _kill(found[0])
                return True
        return False


def _is_agent(pid: int) -> bool:
    """The agent itself: it runs nothing else under its own command line."""
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().rstrip(b"\0").endswith(AGENT)
    return False


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
