"""What can go wrong in a rehearsal, by name. A plot looks at the run a few times a second and strikes when it is time."""

from __future__ import annotations

from collections.abc import Callable

from spotrelay.rehearsal.ec2_control import HostControl
from spotrelay.rehearsal.plot_budget import BudgetEnd
from spotrelay.rehearsal.plot_chaos import Chaos
from spotrelay.rehearsal.plot_outage import ControllerAndAgentDown, ControllerDown
from spotrelay.rehearsal.plot_strays import Strays
from spotrelay.rehearsal.scene import Plot, Scenario, Scene

# A lease of a minute, so that it ends while somebody watches, and prices at which that minute costs cents.
MONEY_SCALE, MONEY_DEARER = 0.02, 100.0


class _Simple(Plot):
    """A plot that is one function, called again and again."""

    def __init__(self, scene: Scene, strike: Callable[[Scene], None], prepare: Callable[[HostControl], None]) -> None:
        super().__init__(scene)
        self._strike, self._prepare = strike, prepare

    def prepare(self) -> None:
        self._prepare(self.scene.control)

    def strike(self) -> None:
        self._strike(self.scene)


def simple(
    strike: Callable[[Scene], None], prepare: Callable[[HostControl], None] = lambda control: None
) -> Callable[[Scene], Plot]:
    return lambda scene: _Simple(scene, strike, prepare)


def _warned(scene: Scene) -> None:
    if scene.reached():
        scene.interrupt(1)


def _unwarned(scene: Scene) -> None:
    """Right after a checkpoint became whole: what is lost is what was trained since it was saved."""
    instance = scene.instance(1)
    if not instance or not scene.reached() or "kill 1" in scene.done:
        return
    if scene.once("mark"):
        scene.mark = len(scene.published)
    if len(scene.published) > scene.mark and scene.once("kill 1"):
        scene.say(f"EC2 takes attempt 1 away at step {scene.watch.last(1)}, without a word")
        scene.control.kill(instance)


def _no_capacity(scene: Scene) -> None:
    if scene.reached() and scene.once("refuse"):
        scene.say("no pool has capacity any more")
        scene.refuse_all(True)
    _warned(scene)
    refused = scene.run is not None and scene.run["reason"] == "no_capacity"
    if refused and scene.instance(1) is None and scene.once("give"):
        scene.say("the pools have capacity again")
        scene.refuse_all(False)


def _twice(scene: Scene) -> None:
    _warned(scene)
    second = scene.attempt(2)
    if second and second["phase"] in ("PREPARING", "READY") and "interrupt 1" in scene.done:
        scene.interrupt(2)


def _boot_failure(scene: Scene) -> None:
    if scene.reached() and scene.once("break"):
        scene.say("the agent vanishes from the bucket: the next instance can't boot")
        scene.stage.hide_agent(True)
    _warned(scene)
    second = scene.attempt(2)
    if second and second["ended_by"] and scene.once("mend"):
        scene.say("the agent is back")
        scene.stage.hide_agent(False)


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("calm", "nothing goes wrong", attempts=1),
        Scenario("warned", "EC2 warns, the replacement boots while the old instance trains on", simple(_warned)),
        Scenario("unwarned", "EC2 takes the instance away without a word", simple(_unwarned), warned=False),
        Scenario(
            "lost-events",
            "no EC2 event arrives; the sweep finds out",
            simple(_unwarned, lambda control: control.event_mode("lose")),
            warned=False,
        ),
        Scenario("no-capacity", "every pool refuses the replacement for a while", simple(_no_capacity)),
        Scenario(
            "quota",
            "5 vCPU: the replacement starts when the old instance is gone",
            simple(_warned, lambda control: control.quota(5)),
        ),
        Scenario(
            "duplicate-events",
            "every event arrives twice",
            simple(_warned, lambda control: control.event_mode("duplicate")),
        ),
        Scenario("boot-failure", "the replacement never boots; another one does", simple(_boot_failure), attempts=3),
        Scenario("twice", "the replacement is interrupted in the middle of the handoff", simple(_twice), attempts=3),
        Scenario("strays", "instances and a volume that no run accounts for, beside the run", Strays, attempts=1),
        Scenario(
            "chaos",
            "every few seconds a process of the controller or an agent is killed with -9",
            Chaos,
            crowded=True,
            when=(0.1, 0.2),
        ),
        Scenario(
            "budget-end",
            "the month's money ends in mid-training; the run waits for the next month",
            BudgetEnd,
            time_scale=MONEY_SCALE,
            dearer=MONEY_DEARER,
            lasts_s=80,
        ),
        Scenario(
            "controller-down",
            "no function runs until after the lease's end; the instance ends itself",
            ControllerDown,
            crowded=True,
            time_scale=MONEY_SCALE,
            dearer=MONEY_DEARER,
            when=(0.1, 0.25),
            lasts_s=70,
        ),
        Scenario(
            "controller-and-agent-down",
            "the machine hangs as well: only the Scheduler's entry is left to end it",
            ControllerAndAgentDown,
            crowded=True,
            warned=False,
            time_scale=MONEY_SCALE,
            dearer=MONEY_DEARER,
            lasts_s=32,
        ),
    )
}


def reset(control: HostControl, pools: list[tuple[str, str]]) -> None:
    """Take back whatever a scenario changed."""
    control.event_mode("deliver")
    control.quota(None)
    control.boot(fail=False)
    for kind, zone in pools:
        control.pool(kind, zone, reset=True)
