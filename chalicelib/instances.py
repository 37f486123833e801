"""EC2 as the sweep lists it: instances of this stage, instances of others, and volumes of ours that hang on nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from chalicelib.core.frozen import dataclass

_MOST_VALUES = 200  # of a filter (EC2 API reference, DescribeInstances)
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


def list_instances(ec2: Any, stage: str, only: Sequence[str] | None = None) -> Listed:
    """Every instance of the region, or those with `only` these ids. Another stage's are that stage's, and left out."""
    listed = Listed([], [])
    for page in _pages(ec2, only):
        for reservation in page["Reservations"]:
            for described in reservation["Instances"]:
                tags = {t["Key"]: t["Value"] for t in described.get("Tags", [])}
                instance = _instance(described, tags)
                if tags.get(_STAGE) == stage:
                    listed.ours.append(instance)
                elif _STAGE not in tags and instance.alive:
                    listed.others.append(instance)
    return listed


def _pages(ec2: Any, only: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    paginator, size = ec2.get_paginator("describe_instances"), {"PageSize": 1000}
    if only is None:
        yield from paginator.paginate(PaginationConfig=size)
        return
    for start in range(0, len(only), _MOST_VALUES):
        # A filter leaves out what EC2 does not know; InstanceIds would refuse the whole request for it.
        wanted = {"Name": "instance-id", "Values": list(only[start : start + _MOST_VALUES])}
        yield from paginator.paginate(Filters=[wanted], PaginationConfig=size)


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
