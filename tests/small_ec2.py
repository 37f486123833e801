"""A small EC2 for lives of real clients: fleets by client token, instances with tags, volumes, prices, and what it all costs.

Answers are what boto3 gives. The bill is worked out from when machines ran, by nothing of the controller.
"""

from __future__ import annotations

import json
from calendar import monthrange
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.sim.ec2 import ADDRESS_USD_HOUR, BY_EC2, BY_USER, DISK_USD_MONTH, HOUR, MINUTE

ZONES = {"us-east-1a": "subnet-a", "us-east-1b": "subnet-b"}
USD_HOUR = {"spot": Decimal("0.068"), "on-demand": Decimal("0.17")}


@dataclass
class Machine:
    instance_id: str
    kind: str
    subnet: str
    tags: dict[str, str]
    launched_at: datetime
    market: str = "spot"
    ended_at: datetime | None = None
    reason: str = ""
    notice_ends_at: datetime | None = None

    @property
    def running(self) -> bool:
        return self.ended_at is None

    def tag(self, name: str) -> str:
        """Empty where it has none of this name."""
        return self.tags.get(f"spot-relay:{name}", "")

    def bill(self, now: datetime) -> Decimal:
        """USD up to now: price, volume and address, a minute at least; EC2 gives back its own first hour."""
        end = max(self.ended_at or now, self.launched_at + MINUTE)
        free = self.reason == BY_EC2 and self.ended_at is not None and self.ended_at - self.launched_at < HOUR
        hourly = (Decimal(0) if free else USD_HOUR[self.market]) + ADDRESS_USD_HOUR
        disk = DISK_USD_MONTH * sum(_months(self.launched_at, end), Decimal(0))
        return disk + hourly * Decimal(str((end - self.launched_at).total_seconds())) / 3600


def _months(start: datetime, end: datetime) -> Iterator[Decimal]:
    """The part that lies between the two of each month, UTC."""
    while start < end:
        first = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        turn = first + timedelta(days=monthrange(start.year, start.month)[1])
        yield Decimal(str((min(turn, end) - start).total_seconds())) / Decimal(str((turn - first).total_seconds()))
        start = turn


@dataclass
class SmallEc2:
    """`ended(machine)` is called when one ends. A second CreateFleet of a token is the first one's answer.

    `refusals` are error codes that the next launches are answered with, one each.
    """

    clock: Callable[[], datetime]
    ended: Callable[[Machine], None]
    machines: dict[str, Machine] = field(default_factory=dict)
    by_token: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, datetime] = field(default_factory=dict)  # of ours that hang on nothing, by when they were made
    refusals: list[str] = field(default_factory=list)

    def answers(self) -> dict[str, Callable[[Any], dict[str, Any]]]:
        """By operation; each is given what the request's body has."""
        return {
            "CreateFleet": self._create_fleet,
            "DescribeInstances": self._describe,
            "DescribeVolumes": lambda _: {
                "Volumes": [{"VolumeId": name, "CreateTime": at, "Tags": []} for name, at in self.volumes.items()]
            },
            "DeleteVolume": lambda asked: (
                {} if self.volumes.pop(asked["VolumeId"], None) else {"Error": "InvalidVolume.NotFound"}
            ),
            "GetProducts": _products,
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

    def appear(self, **tags: str) -> Machine:
        """A machine that no launch has made."""
        named = {f"spot-relay:{name}": value for name, value in tags.items()}
        machine = Machine(self._next_id(), "c6i.xlarge", "subnet-a", named, self.clock(), "on-demand")
        self.machines[machine.instance_id] = machine
        return machine

    def _next_id(self) -> str:
        return f"i-{len(self.machines) + 1:017x}"

    def _create_fleet(self, asked: dict[str, Any]) -> dict[str, Any]:
        token = asked["ClientToken"]
        if token not in self.by_token:
            if self.refusals:
                return {"Instances": [], "Errors": [{"ErrorCode": self.refusals.pop(0), "ErrorMessage": "For a test."}]}
            prefix = "LaunchTemplateConfigs.1.Overrides.1."
            of = next(n for n in (1, 2) if asked[f"TagSpecification.{n}.ResourceType"] == "instance")
            keys, values = (_listed(asked, f"TagSpecification.{of}.Tag", end) for end in (".Key", ".Value"))
            machine = Machine(
                self._next_id(),
                asked[f"{prefix}InstanceType"],
                asked[f"{prefix}SubnetId"],
                dict(zip(keys, values, strict=True)),
                self.clock(),
                asked["TargetCapacitySpecification.DefaultTargetCapacityType"],
            )
            self.machines[machine.instance_id] = machine
            self.by_token[token] = machine.instance_id
        machine = self.machines[self.by_token[token]]
        if not machine.running:
            return {"Error": "IdempotentInstanceTerminated"}
        chosen = {"InstanceType": machine.kind, "SubnetId": machine.subnet}
        group = {"InstanceIds": [machine.instance_id], "LaunchTemplateAndOverrides": {"Overrides": chosen}}
        return {"Instances": [{**group, "InstanceType": machine.kind}], "Errors": []}

    def _describe(self, asked: dict[str, Any]) -> dict[str, Any]:
        now = self.clock()
        found = [m for m in self.machines.values() if m.ended_at is None or now - m.ended_at < HOUR]
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
            "Tags": [{"Key": key, "Value": value} for key, value in m.tags.items()],
            **(ended or {}),
        }

    def _terminate(self, asked: dict[str, Any]) -> dict[str, Any]:
        machine = self.machines.get(asked["InstanceId.1"])
        if machine is None:
            return {"Error": "InvalidInstanceID.NotFound"}
        self.end(machine, BY_USER)
        return {"TerminatingInstances": []}

    def _prices(self, asked: dict[str, Any]) -> dict[str, Any]:
        zones = [asked["AvailabilityZone"]] if "AvailabilityZone" in asked else list(ZONES)
        at = self.clock() - timedelta(hours=1)
        kinds = _listed(asked, "InstanceType")
        entry = {"SpotPrice": str(USD_HOUR["spot"]), "Timestamp": at, "ProductDescription": "Linux/UNIX"}
        return {"SpotPriceHistory": [{**entry, "InstanceType": k, "AvailabilityZone": z} for k in kinds for z in zones]}


def _products(asked: bytes) -> dict[str, Any]:
    """The list price of any type, as the Pricing API shapes it."""
    assert json.loads(asked)["ServiceCode"] == "AmazonEC2"
    dimension = {"pricePerUnit": {"USD": str(USD_HOUR["on-demand"])}}
    return {"PriceList": [json.dumps({"terms": {"OnDemand": {"term": {"priceDimensions": {"one": dimension}}}}})]}


def _listed(asked: dict[str, Any], name: str, after: str = "") -> list[str]:
    """The values of `name.1`, `name.2`, …, as EC2's query protocol lists them."""
    found, n = [], 1
    while (value := asked.get(f"{name}.{n}{after}")) is not None:
        found.append(value)
        n += 1
    return found
