"""Agents of a real life: they claim, train, publish, tell and leave, and ask again what was answered badly or not at all.

What they put into the bucket is no call of the controller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from chalicelib import agents
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from tests.sim.ec2 import BY_ITSELF
from tests.small_ec2 import Machine

if TYPE_CHECKING:
    from tests.real_life import Life

_LAST_MOMENT = timedelta(seconds=30)  # of a notice, in which an agent hands over by itself


@dataclass
class Agent:
    machine: Machine
    number: int
    begun: int | None = None  # the step it began from
    step: int = 0
    told: dict[str, Any] | None = None  # the checkpoint that heartbeats tell of
    prepared: bool = False
    leaving: str | None = None
    off_at: datetime | None = None
    silent: bool = False  # it trains on, and nothing is heard of it or published

    @property
    def trains(self) -> bool:
        return self.machine.running and self.begun is not None and self.leaving is None

    def act(self, life: Life) -> None:
        if self.silent or not self.machine.running:
            return
        if self.off_at is not None:
            if life.clock.now >= self.off_at:
                self._power_off(life)
        elif self.leaving:
            self._leave(life)
        elif self.begun is None:
            self._claim(life)
        else:
            self._train(life)

    def _power_off(self, life: Life) -> None:
        life.ec2.end(self.machine, BY_ITSELF)

    def _answer(self, life: Life, act: Callable[[agents.Caller], dict[str, Any]]) -> dict[str, Any] | None:
        """None when there was none; whom the controller does not take for the attempt's own has been superseded."""
        role = life.settings.instance_role
        arn = f"arn:aws:sts::123456789012:assumed-role/{role}/{self.machine.instance_id}"
        found: list[dict[str, Any]] = []
        try:
            life.asked(lambda: found.append(act(agents.identify(life.c, arn, self.machine.tag("run"), self.number))))
        except ApiError:
            return {"action": "superseded"}
        return found[0] if found else None

    def _claim(self, life: Life) -> None:
        body = ClaimRequest(ready=self.prepared)
        answer = self._answer(life, lambda caller: agents.claim(life.c, caller, body))
        if answer is None:
            return
        match answer["action"]:
            case "prepare":
                self.prepared = True
            case "restore":
                found = answer["checkpoint"]
                self.begun = self.step = found["step"] if found else 0
                life.truth.restored.append((self.number, self.begun))
            case "wait":
                pass
            case _:
                self._power_off(life)

    def _train(self, life: Life) -> None:
        scenario = life.scenario
        self.step = min(scenario.steps, self.step + int(scenario.tick.total_seconds()))
        if self.step % scenario.saved == 0 or self.step == scenario.steps:
            self._publish(life)
        if self.step == scenario.steps:
            life.put(f"results/{self.number:04d}/metrics.json", b'{"loss": 1}')
            self.leaving = "done"
            return
        notice = self.machine.notice_ends_at
        body = HeartbeatRequest.model_validate(
            {"phase": "train", "step": self.step, "checkpoint": self.told, "notice_at": notice}
        )
        answer = self._answer(life, lambda caller: agents.heartbeat(life.c, caller, body))
        action = answer["action"] if answer else "continue"
        if action == "superseded":
            self._power_off(life)
        elif answer and action != "continue":
            self._publish(life, final=True)
            self.leaving = answer["reason"] or "handoff"
        elif notice and notice - life.clock.now <= _LAST_MOMENT:
            self._publish(life, final=True)
            self.leaving = "spot_interruption"

    def _publish(self, life: Life, final: bool = False) -> None:
        life.put(f"checkpoints/{self.number:04d}/{self.step:012d}/model.pt", b"weights")
        life.put(f"checkpoints/{self.number:04d}/{self.step:012d}/MANIFEST.json", b"{}")
        life.truth.published.setdefault(self.number, []).append(self.step)
        self.told = {"step": self.step, "bytes": 2, "final": final}

    def _leave(self, life: Life) -> None:
        told = {"reason": self.leaving, "message": "Over.", "code": 0, "step": self.step}
        results = {"prefix": f"runs/{life.name}/results/{self.number:04d}/", "metrics": {"loss": 1}}
        if self.leaving == "done":
            body = ExitRequest.model_validate({**told, "results": results})
        else:
            body = ExitRequest.model_validate({**told, "drained": True})
        answer = self._answer(life, lambda caller: agents.leave(life.c, caller, body))
        if answer is not None:
            self.off_at = life.clock.now + timedelta(seconds=answer.get("linger_s", 0))
            if self.off_at <= life.clock.now:
                self._power_off(life)
