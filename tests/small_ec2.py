"""A small EC2 for lives of real clients: fleets by client token, instances with tags, prices. Answers are what boto3 gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

ZONES = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}


@dataclass
class Machine:
    instance_id: str
    kind: str
    subnet: str
    tags: list[dict[str, str]]
    launched_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    notice_ends_at: datetime | None = None

    @property
    def running(self) -> bool:
        return self.ended_at is None

    def tag(self, name: str) -> str:
        return next(t["Value"] for t in self.tags if t["Key"] == f"spot-relay:{name}")


@dataclass
class SmallEc2:
    """`ended(machine)` is called when one ends. A second CreateFleet of a token is the first one's answer."""

    clock: Callable[[], datetime]
    ended: Callable[[Machine], None]
    machines: dict[str, Machine] = field(default_factory=dict)
    by_token: dict[str, str] = field(default_factory=dict)

    def answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateFleet": self._create_fleet,
            "DescribeInstances": self._describe,
            "DescribeVolumes": lambda _: {"Volumes": []},
            "TerminateInstances": self._terminate,
            "DescribeSpotPriceHistory": self._prices,
            "DescribeSubnets": lambda _: {
                "Subnets": [{"AvailabilityZone": zone, "SubnetId": subnet} for zone, subnet in ZONES.items()]
            },
            "DescribeInstanceTypeOfferings": lambda asked: {
                "InstanceTypeOfferings": [
                    {"InstanceType": kind, "Location": zone}
                    for kind in _listed(asked, "Filter.1.Value")
                    for zone in ZONES
                ]
            },
            "DescribeInstanceTypes": lambda asked: {
                "InstanceTypes": [
                    {"InstanceType": kind, "VCpuInfo": {"DefaultVCpus": 4}} for kind in _listed(asked, "InstanceType")
                ]
            },
        }

    def end(self, machine: Machine, reason: str) -> None:
        if machine.running:
            machine.ended_at, machine.reason = self.clock(), reason
            self.ended(machine)

    def _create_fleet(self, asked: dict[str, Any]) -> dict[str, Any]:
        token = asked["ClientToken"]
        if token not in self.by_token:
            prefix = "LaunchTemplateConfigs.1.Overrides.1."
            tags = next(n for n in (1, 2) if asked[f"TagSpecification.{n}.ResourceType"] == "instance")
            machine = Machine(
                f"i-{len(self.machines) + 1:017x}",
                asked[f"{prefix}InstanceType"],
                asked[f"{prefix}SubnetId"],
                [
                    {"Key": key, "Value": value}
                    for key, value in zip(
                        _listed(asked, f"TagSpecification.{tags}.Tag", ".Key"),
                        _listed(asked, f"TagSpecification.{tags}.Tag", ".Value"),
                        strict=True,
                    )
                ],
                self.clock(),
            )
            self.machines[machine.instance_id] = machine
            self.by_token[token] = machine.instance_id
        machine = self.machines[self.by_token[token]]
        chosen = {"InstanceType": machine.kind, "SubnetId": machine.subnet}
        group = {"InstanceIds": [machine.instance_id], "LaunchTemplateAndOverrides": {"Overrides": chosen}}
        return {"Instances": [{**group, "InstanceType": machine.kind}], "Errors": []}

    def _describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = list(self.machines.values())
        if ids := _listed(asked, "InstanceId"):
            found = [machine for machine in found if machine.instance_id in ids]
            if not found:
                return {"Error": "InvalidInstanceID.NotFound"}
        n = 1
        while name := asked.get(f"Filter.{n}.Name"):
            values = _listed(asked, f"Filter.{n}.Value")
            if name == "instance-id":
                found = [m for m in found if m.instance_id in values]
            else:
                found = [m for m in found if m.tag(name.removeprefix("tag:spot-relay:")) in values]
            n += 1
        return {"Reservations": [{"Instances": [self._described(m) for m in found]}]}

    def _described(self, m: Machine) -> dict[str, Any]:
        ended = m.ended_at and {
            "StateReason": {"Code": m.reason},
            "StateTransitionReason": f"{m.reason} ({m.ended_at:%Y-%m-%d %H:%M:%S} GMT)",
        }
        return {
            "InstanceId": m.instance_id,
            "State": {"Name": "running" if m.running else "terminated"},
            "InstanceType": m.kind,
            "SubnetId": m.subnet,
            "LaunchTime": m.launched_at,
            "Tags": m.tags,
            **(ended or {}),
        }

    def _terminate(self, asked: dict[str, Any]) -> dict[str, Any]:
        machine = self.machines.get(asked["InstanceId.1"])
        if machine is None:
            return {"Error": "InvalidInstanceID.NotFound"}
        self.end(machine, "Client.UserInitiatedShutdown")
        return {"TerminatingInstances": []}

    def _prices(self, asked: dict[str, Any]) -> dict[str, Any]:
        zones = [asked["AvailabilityZone"]] if "AvailabilityZone" in asked else list(ZONES)
        at = self.clock() - timedelta(hours=1)
        kinds = _listed(asked, "InstanceType")
        entry = {"SpotPrice": "0.068", "Timestamp": at, "ProductDescription": "Linux/UNIX"}
        return {"SpotPriceHistory": [{**entry, "InstanceType": k, "AvailabilityZone": z} for k in kinds for z in zones]}


def _listed(asked: dict[str, Any], name: str, after: str = "") -> list[str]:
    """The values of `name.1`, `name.2`, …, as EC2's query protocol lists them."""
    found, n = [], 1
    while (value := asked.get(f"{name}.{n}{after}")) is not None:
        found.append(value)
        n += 1
    return found
