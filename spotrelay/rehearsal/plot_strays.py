"""Beside a run stands what no run accounts for: the sweep ends what is ours and leaves the busy, the protected, the foreign."""

from __future__ import annotations

import time
from typing import Any

from spotrelay.rehearsal.outcome import Outcome
from spotrelay.rehearsal.scene import Plot, Scene
from spotrelay.rehearsal.stage import STAGE

SWEEPS = 2
MAIL_PATIENCE_S, END_PATIENCE_S = 5.0, 15.0
UNKNOWN, DEAD = "no-such-run", "99"
KIND = "c6i.xlarge"


class Strays(Plot):
    """Made by plain EC2 calls, as an administrator would by mistake. `strays` must go, `kept` must stay; by what they are."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._ec2 = scene.stage.client("ec2")
        self.strays: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.unmanaged = ""
        self._sweeps = 0
        self._found: list[str] | None = None

    def strike(self) -> None:
        scene = self.scene
        if scene.instance(1) and scene.reached() and scene.once("strays"):
            # Between two sweeps, so that it can be counted how many it takes.
            with scene.stage.between_sweeps():
                self._make()
                self._sweeps = scene.stage.sweeps
            scene.say(f"beside it: strays {', '.join(self.strays.values())}; not to be touched {', '.join(self.kept)}")
        if self.strays and self._found is None and scene.stage.sweeps >= self._sweeps + SWEEPS:
            self._found = self._judge()
            scene.say(
                f"after {SWEEPS} sweeps: " + ("; ".join(self._found) or "the strays are gone, the others are not")
            )

    def problems(self, outcome: Outcome) -> list[str]:
        return ["the run ended before two sweeps were over"] if self._found is None else self._found

    def clean(self) -> None:
        ids = [*self.strays.values(), *self.kept.values()]
        instances = [i for i in ids if i.startswith("i-") and i != self.scene.instance(1)]
        if instances:
            self._ec2.terminate_instances(InstanceIds=instances)
        for volume in (i for i in ids if i.startswith("vol-") and i in self._volumes()):
            self._ec2.delete_volume(VolumeId=volume)
        until = time.monotonic() + END_PATIENCE_S
        while time.monotonic() < until and not all(
            self.scene.control.instance(i)["state"] == "terminated" for i in instances
        ):
            time.sleep(0.1)

    def _make(self) -> None:
        ours = {"spot-relay:stage": STAGE, "spot-relay:attempt": "1"}
        protect = {"spot-relay:protect": "yes"}
        unknown, dead = {**ours, "spot-relay:run": UNKNOWN}, {"spot-relay:run": self.scene.name}
        self.strays["an instance of an unknown run"] = self._instance(unknown)
        self.strays["an instance of a dead attempt"] = self._instance({**ours, **dead, "spot-relay:attempt": DEAD})
        self.strays["a volume left behind"] = self._volume(ours)
        self.kept["a protected instance"] = self._instance({**unknown, **protect})
        self.kept["a protected volume"] = self._volume({**ours, **protect})
        self.unmanaged = self.kept["an instance of somebody else"] = self._instance({})

    def _judge(self) -> list[str]:
        """What is wrong after the sweeps; the run is still training."""
        states = {i["id"]: i["state"] for i in self.scene.control.instances()}
        alive = {i for i, state in states.items() if state in ("pending", "running")} | self._volumes()
        problems = [f"{what} ({i}) is still there" for what, i in self.strays.items() if i in alive]
        problems += [f"{what} ({i}) was ended" for what, i in self.kept.items() if i not in alive]
        if not self.scene.instance(1):
            problems.append("the run's own instance was ended")
        budget = self.scene.stage.api.get("budget")
        others = {i["instance_id"]: i for i in budget["unmanaged"]["instances"]}
        if others.keys() != {self.unmanaged} or not others[self.unmanaged]["usd_hour"]:
            problems.append(f"the budget shows unmanaged {others}, and there is {self.unmanaged}, at a price")
        told = [act["message"] for act in budget["acts"] if act["kind"] == "ended"]
        problems += self._each_once("line among the acts", told)
        ids = list(self.strays.values())
        mails = self.scene.stage.mailbox.wait(
            lambda found: all(any(i in m.message for m in found) for i in ids), MAIL_PATIENCE_S
        )
        return problems + self._each_once("mail", [m.message for m in mails])

    def _each_once(self, what: str, messages: list[str]) -> list[str]:
        problems = []
        for name, wanted in (*((i, 1) for i in self.strays.values()), *((i, 0) for i in self.kept.values())):
            found = sum(name in message for message in messages)
            if found != wanted:
                problems.append(f"{name} has {found} {what}, not {wanted}")
        return problems

    def _instance(self, tags: dict[str, str]) -> str:
        image = self._ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        made = self._ec2.run_instances(
            ImageId=image, InstanceType=KIND, MinCount=1, MaxCount=1, **_tagged("instance", tags)
        )
        return str(made["Instances"][0]["InstanceId"])

    def _volume(self, tags: dict[str, str]) -> str:
        zone = self.scene.pools[0][1]
        made = self._ec2.create_volume(AvailabilityZone=zone, Size=8, VolumeType="gp3", **_tagged("volume", tags))
        return str(made["VolumeId"])

    def _volumes(self) -> set[str]:
        pages = self._ec2.get_paginator("describe_volumes").paginate()
        return {v["VolumeId"] for page in pages for v in page["Volumes"]}


def _tagged(kind: str, tags: dict[str, str]) -> dict[str, Any]:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": listed}]} if tags else {}
