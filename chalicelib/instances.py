"""EC2 as the sweep lists it: instances of this stage, instances of others, and volumes of ours that hang on nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

_STAGE, _PROTECT = "spot-relay:stage", "spot-relay:protect"


@dataclass(frozen=True)
class Instance:
    """An instance as EC2 lists it. `run` and `attempt` are what its tags say: empty and 0 when they say nothing."""

    instance_id: str
    state: str
    run: str
    attempt: int
    launched_at: datetime
    protected: bool = False
    reason: str = ""
    instance_type: str = ""

    @property
    def alive(self) -> bool:
        return self.state in ("pending", "running")

    @property
    def costs(self) -> bool:
        """Whether anything of it is charged: a stopped instance keeps its volume."""
        return self.state not in ("shutting-down", "terminated")


@dataclass(frozen=True)
class Volume:
    """A volume of this stage that no instance has."""

    volume_id: str
    created_at: datetime
    protected: bool


@dataclass(frozen=True)
class Listed:
    """`ours` includes ended ones, while EC2 describes them (about an hour); `others` are alive."""

    ours: list[Instance]
    others: list[Instance]


def list_instances(ec2: Any, stage: str) -> Listed:
    """Every instance of the region. Those of another stage of Spot Relay are that stage's, and left out."""
    listed = Listed([], [])
    for page in ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000}):
        for reservation in page["Reservations"]:
            for described in reservation["Instances"]:
                tags = {t["Key"]: t["Value"] for t in described.get("Tags", [])}
                instance = _instance(described, tags)
                if tags.get(_STAGE) == stage:
                    listed.ours.append(instance)
                elif _STAGE not in tags and instance.alive:
                    listed.others.append(instance)
    return listed


def list_left_volumes(ec2: Any, stage: str) -> list[Volume]:
    pages = ec2.get_paginator("describe_volumes").paginate(
        Filters=[{"Name": f"tag:{_STAGE}", "Values": [stage]}, {"Name": "status", "Values": ["available"]}]
    )
    return [
        Volume(v["VolumeId"], v["CreateTime"], _PROTECT in {t["Key"] for t in v.get("Tags", [])})
        for page in pages
        for v in page["Volumes"]
    ]


def _instance(described: dict[str, Any], tags: dict[str, str]) -> Instance:
    number = tags.get("spot-relay:attempt", "")
    return Instance(
        instance_id=described["InstanceId"],
        state=described["State"]["Name"],
        run=tags.get("spot-relay:run", ""),
        attempt=int(number) if number.isascii() and number.isdecimal() else 0,
        launched_at=described["LaunchTime"],
        protected=_PROTECT in tags,
        reason=described.get("StateReason", {}).get("Code", ""),
        instance_type=described.get("InstanceType", ""),
    )
