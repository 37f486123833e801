"""Launching: one CreateFleet(instant) for a saved launch, and what its answer means.

`request` and `answer_of` are pure; `Fleet` makes the calls. The request follows from the saved launch alone, so a
replay is the same request with the same client token.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from chalicelib.core.events import Launched, LaunchRefused, Refusal
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Attempt, Launch

# Other pools, or the same later (EC2 API error codes).
_CAPACITY = {
    "InsufficientInstanceCapacity",
    "UnfulfillableCapacity",
    "SpotMaxPriceTooLow",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientAddressCapacity",
    "InsufficientVolumeCapacity",
    "Unsupported",
    "InvalidFleetConfiguration",  # in the answer: this type is not offered in that zone
}
_QUOTA = {"MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"}
# Nothing is known about the launch: say nothing, the saved request is replayed.
_UNANSWERED = {"RequestLimitExceeded", "InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"}


_WHOLE = "InvalidFleetConfiguration"  # as the whole answer it means that the request itself is wrong


class Unanswered(Exception):
    """Whether there is an instance is not known; the same request is to be replayed."""


@dataclass(frozen=True)
class Settings:
    """What every instance of a stage is launched with."""

    stage: str
    launch_template: str
    api_url: str
    bucket: str
    agent_sha256: str


def tags(run: str, attempt: int, settings: Settings) -> dict[str, str]:
    """The tags an instance learns everything from; no secret is ever among them (I8)."""
    return {
        "Name": f"spot-relay {run} {attempt}",
        "spot-relay:stage": settings.stage,
        "spot-relay:run": run,
        "spot-relay:attempt": str(attempt),
        "spot-relay:api": settings.api_url,
        "spot-relay:bucket": settings.bucket,
        "spot-relay:agent": settings.agent_sha256,
    }


def request(run: str, attempt: int, launch: Launch, settings: Settings) -> dict[str, Any]:
    """The CreateFleet request for a saved launch."""
    market = launch.offers[0].market
    wanted = [{"Key": k, "Value": v} for k, v in tags(run, attempt, settings).items()]
    overrides = []
    for offer in launch.offers:
        override = {"InstanceType": offer.instance_type, "SubnetId": offer.subnet}
        if market == "spot":
            override["MaxPrice"] = str(offer.max_price)
        overrides.append(override)
    fleet: dict[str, Any] = {
        "Type": "instant",
        "ClientToken": launch.token,
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": settings.launch_template, "Version": "$Latest"},
                "Overrides": overrides,
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 1,
            "DefaultTargetCapacityType": "spot" if market == "spot" else "on-demand",
        },
        # Only fleet and instance can be tagged here; volumes get their tags from the launch template.
        "TagSpecifications": [{"ResourceType": kind, "Tags": wanted} for kind in ("fleet", "instance")],
    }
    if market == "spot":
        fleet["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized"}
    else:
        fleet["OnDemandOptions"] = {"AllocationStrategy": "lowest-price"}
    return fleet


def answer_of(attempt: int, launch: Launch, answer: dict[str, Any]) -> Launched | LaunchRefused:
    """What CreateFleet's answer means. An instance beats any error beside it, and only all errors fatal is fatal."""
    for group in answer.get("Instances") or []:
        override = (group.get("LaunchTemplateAndOverrides") or {}).get("Overrides") or {}
        return Launched(attempt, launch.token, group["InstanceIds"][0], _pool(launch, override, group))
    errors = answer.get("Errors") or []
    codes = [str(e.get("ErrorCode")) for e in errors]
    said = "; ".join(sorted({f"{e.get('ErrorCode')}: {e.get('ErrorMessage')}" for e in errors})) or "no pool answered"
    kinds = {kind_of(c) for c in codes}
    if not kinds or Refusal.CAPACITY in kinds:
        kind = Refusal.CAPACITY
    elif Refusal.QUOTA in kinds:
        kind = Refusal.QUOTA
    else:
        kind = Refusal.FATAL
    pools = tuple(o.pool for o in launch.offers) if kind is Refusal.CAPACITY else ()
    return LaunchRefused(attempt, launch.token, kind, f"EC2 refused every pool: {said}.", pools)


def kind_of(code: str) -> Refusal:
    """The kind of refusal an EC2 error code in a fleet's answer stands for."""
    if code in _CAPACITY or code in _UNANSWERED:
        return Refusal.CAPACITY
    return Refusal.QUOTA if code in _QUOTA else Refusal.FATAL


def _pool(launch: Launch, override: dict[str, Any], group: dict[str, Any]) -> str:
    """The pool EC2 chose, from the override it names; the subnet tells the zone apart from others of the type."""
    kind = override.get("InstanceType") or group.get("InstanceType")
    fitting = [o for o in launch.offers if o.instance_type == kind]
    for offer in fitting:
        if override.get("SubnetId") == offer.subnet or override.get("AvailabilityZone") == offer.zone:
            return offer.pool
    return (fitting or list(launch.offers))[0].pool


class Fleet:
    """Makes the calls. `find` looks an instance of a launch up by its tags: (instance id, pool) or None."""

    def __init__(self, ec2: Any, settings: Settings) -> None:
        self._ec2 = ec2
        self._settings = settings

    def launch(self, run: str, attempt: Attempt) -> Launched | LaunchRefused:
        """Ask for the attempt's saved launch. Raises Unanswered when it is not known what came of it."""
        launch = attempt.launch
        assert launch is not None
        try:
            answer = self._ec2.create_fleet(**request(run, attempt.number, launch, self._settings))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code.startswith("Idempotent"):
                found = self.find(run, attempt)
                if found is None:
                    raise Unanswered(code) from error
                return found
            if code in _UNANSWERED or status >= 500:
                raise Unanswered(code) from error
            said = f"EC2 refused the launch: {code}: {error.response['Error'].get('Message', '')}"
            kind = Refusal.FATAL if code == _WHOLE else kind_of(code)
            return LaunchRefused(attempt.number, launch.token, kind, said)
        return answer_of(attempt.number, launch, answer)

    def find(self, run: str, attempt: Attempt) -> Launched | None:
        """The instance that EC2's tags name for this attempt: one that lives, else one that has ended and is to be paid."""
        launch = attempt.launch
        assert launch is not None
        wanted = {"stage": self._settings.stage, "run": run, "attempt": str(attempt.number)}
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": f"tag:spot-relay:{k}", "Values": [v]} for k, v in wanted.items()]
        )
        found = [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]
        found.sort(key=lambda i: i["State"]["Name"] not in ("pending", "running"))
        for instance in found[:1]:
            override = {"SubnetId": instance.get("SubnetId"), "InstanceType": instance["InstanceType"]}
            return Launched(attempt.number, launch.token, instance["InstanceId"], _pool(launch, override, instance))
        return None

    def end(self, instance_id: str) -> None:
        """Terminate. An instance that EC2 does not know any more has ended, which is what was wanted."""
        try:
            self._ec2.terminate_instances(InstanceIds=[instance_id])
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidInstanceID.NotFound":
                raise
