"""The way from an agent to the controller and the bucket: the real routes, asked as an instance asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chalicelib import agents
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.records import Beat
from tests.sim.agent import Agent, Refused, Unreachable

if TYPE_CHECKING:
    from tests.sim.world import World

ACCOUNT = "123456789012"


class Routes:
    def __init__(self, world: World) -> None:
        self.world = world
        self.tears: Callable[[Agent, int], bool] = lambda agent, step: False  # whether a checkpoint is published torn

        self.too_late = 0  # checkpoints that were published when the baton had moved on

    def claim(self, agent: Agent, ready: bool) -> dict[str, Any]:
        body = ClaimRequest.model_validate({"ready": ready, "torn": agent.torn})
        answer = self._agent(agent, lambda caller: agents.claim(self.world.c, caller, body))
        if ready:
            self.world.tell(agent, f"its agent is ready and told to {answer['action']}")
            self.world.invariants.baton.claimed(agent, answer)
        return answer

    def beats(self, agent: Agent) -> None:
        """From now on it is heard of each half minute, whether or not the beats that are played come through."""
        run, attempt = agent.name
        self.world.c.records.heard(run, Beat(attempt, self.world.now, "boot"))

    def heartbeat(self, agent: Agent, body: dict[str, Any]) -> dict[str, Any]:
        beat = HeartbeatRequest.model_validate(body)
        return self._agent(agent, lambda caller: agents.heartbeat(self.world.c, caller, beat))

    def exit(self, agent: Agent, reason: str, drained: bool) -> dict[str, Any]:
        code = 0 if reason == "done" else 1
        body = ExitRequest.model_validate(
            {"reason": reason, "message": "Over.", "code": code, "step": agent.published, "drained": drained}
        )
        self.world.tell(agent, f"its agent reports its exit: {reason}{', drained' if drained else ''}")
        return self._agent(agent, lambda caller: agents.leave(self.world.c, caller, body))

    def _agent(self, agent: Agent, act: Callable[[agents.Caller], dict[str, Any]]) -> dict[str, Any]:
        if not agent.connected:
            raise Unreachable
        run, attempt = agent.name
        role = self.world.c.settings.instance_role
        arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{agent.instance.instance_id}"
        try:
            answer: dict[str, Any] = self.world.invoke(lambda: act(agents.identify(self.world.c, arn, run, attempt)))
        except ApiError as error:
            if error.code == "retry":
                raise Unreachable from error
            raise Refused(error.status, error.code, error.message) from error
        self.world.invariants.answered(agent, answer)
        return answer

    def publish(self, agent: Agent, step: int, final: bool) -> None:
        run = self.world.store.saved[agent.instance.run]
        if (run.baton or 0) > agent.instance.attempt:
            self.too_late += 1
        torn = self.tears(agent, step)
        self.world.bucket.put(*agent.name, step, torn)
        self.world.tell(agent, f"publishes step {step}{', its last' if final else ''}{', torn' if torn else ''}")

    def is_torn(self, agent: Agent, attempt: int, step: int) -> bool:
        return (agent.instance.run, attempt, step) in self.world.bucket.torn

    def restored(self, agent: Agent, found: dict[str, int] | None) -> None:
        what = f"step {found['step']} of attempt {found['attempt']}" if found else "nothing, there is none"
        self.world.tell(agent, f"restores {what}, and trains")
        self.world.invariants.baton.restored(agent, found)
