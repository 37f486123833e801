"""moto's launches, made like EC2's: whole launch templates, pools in order with errors beside instances, client tokens.

Each patch says what moto lacks; `expect` and `replace` stop the host when the pinned moto has another shape, because a
patch that silently does nothing would let every rehearsal pass.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.fleets import Fleet
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.responses.fleets import Fleets
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import random_spot_request_id

from spotrelay.rehearsal.ec2_market import Market, Pool, Refusal

FLEET_PARAMETERS = (
    "Context", "ExcessCapacityTerminationPolicy", "LaunchTemplateConfigs", "OnDemandOptions",
    "ReplaceUnhealthyInstances", "SpotOptions", "TagSpecifications", "TargetCapacitySpecification",
    "TerminateInstancesWithExpiration", "Type", "ValidFrom", "ValidUntil",
)  # fmt: skip
RUN_PARAMETERS = (
    "BlockDeviceMappings", "IamInstanceProfile", "ImageId", "InstanceInitiatedShutdownBehavior",
    "InstanceMarketOptions", "InstanceType", "KeyName", "LaunchTemplate", "MaxCount", "MetadataOptions", "MinCount",
    "NetworkInterfaces", "Placement", "SecurityGroupIds", "SecurityGroups", "SubnetId", "TagSpecification",
    "TagSpecifications", "UserData",
)  # fmt: skip
GONE = ("shutting-down", "terminated")


class MotoShapeError(RuntimeError):
    """The installed moto is not the one these patches were written for."""


def expect(function: Callable[..., Any], *parameters: str) -> None:
    """Stop unless `function` takes these parameters: then moto was changed under its patch."""
    have = inspect.signature(function).parameters
    missing = [name for name in parameters if name not in have]
    if missing:
        raise MotoShapeError(f"moto's {function.__qualname__} no longer takes {', '.join(missing)}: look at its patch")


def replace(owner: Any, name: str, new: Any) -> None:
    """Set a patch. `owner` is Any, for moto's types rightly forbid it."""
    if not hasattr(owner, name):
        raise MotoShapeError(f"moto's {owner} has no {name}")
    setattr(owner, name, new)


def vcpus(instance_type: str) -> int:
    """vCPU of an instance type; 4 for one that moto doesn't know."""
    return int(INSTANCE_TYPES.get(instance_type, {}).get("VCpuInfo", {}).get("DefaultVCpus", 4))


def offered(pool: Pool, region: str) -> bool:
    offers = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
    return any((offer["InstanceType"], offer["Location"]) == pool for offer in offers)


def patch_fleets(market: Market) -> None:
    """moto's CreateFleet(instant) takes one override only, knows no capacity and no `Errors`, and drops the template's
    profile, metadata options, security groups, volumes and shutdown behaviour."""
    expect(Fleet.create_spot_requests, "weight_to_add")
    expect(Fleet.create_on_demand_requests, "weight_to_add")
    expect(InstanceBackend.run_instances, "image_id", "count", "user_data", "security_group_names", "kwargs")
    spot, on_demand, answer = Fleet.create_spot_requests, Fleet.create_on_demand_requests, Fleets.create_fleet

    def create_spot_requests(self: Any, weight_to_add: float) -> Any:
        if self.fleet_type != "instant":
            return spot(self, weight_to_add)
        for spec, instance in _launch(self, market, int(weight_to_add), "spot"):
            instance.spot_instance_request_id = random_spot_request_id()
            request = SimpleNamespace(id=instance.spot_instance_request_id, instance=instance, launch_spec=spec)
            self.spot_requests.append(request)
        return self.spot_requests

    def create_on_demand_requests(self: Any, weight_to_add: float) -> None:
        if self.fleet_type != "instant":
            on_demand(self, weight_to_add)
            return
        for spec, instance in _launch(self, market, int(weight_to_add), "on-demand"):
            self.on_demand_instances.append({"id": instance.id, "instance": instance, "launch_spec": spec})

    def create_fleet(self: Any) -> Any:
        result = answer(self)
        body = result.result
        if not isinstance(body, dict):
            raise MotoShapeError("moto's CreateFleet no longer answers with an ActionResult of a dict")
        fleet = self.ec2_backend.get_fleet(body["FleetId"])
        if fleet.fleet_type == "instant":
            body["Errors"] = getattr(fleet, "errors", [])
            for entry in body["Instances"]:
                zone = self.ec2_backend.get_instance(entry["InstanceIds"][0]).availability_zone
                place = entry.setdefault("LaunchTemplateAndOverrides", {})
                place["Overrides"] = {**place.get("Overrides", {}), "AvailabilityZone": zone}
        return result

    replace(Fleet, "create_spot_requests", create_spot_requests)
    replace(Fleet, "create_on_demand_requests", create_on_demand_requests)
    replace(Fleets, "create_fleet", create_fleet)


def _launch(fleet: Any, market: Market, wanted: int, lifecycle: str) -> Iterator[tuple[Any, Any]]:
    """Start up to `wanted` instances, pool after pool; every pool that refused is an entry of `fleet.errors`."""
    backend = fleet.ec2_backend
    fleet.errors = getattr(fleet, "errors", [])
    tried = fleet.__dict__.setdefault("_tried", set())
    if lifecycle in tried:  # moto asks again for what is missing; an instant fleet tries once
        return
    tried.add(lifecycle)
    options = (fleet.spot_options if lifecycle == "spot" else fleet.on_demand_options) or {}
    for spec in _in_order(fleet, market, options.get("AllocationStrategy") or "lowest-price"):
        overrides, pool = spec.overrides or {}, _pool(fleet, spec)
        template = _template(backend, spec)
        while wanted > 0:
            refusal = _refusal(backend, market, pool, _max_price(overrides, template), spot=lifecycle == "spot")
            if refusal:
                place = {
                    "LaunchTemplateSpecification": spec.launch_template_spec,
                    "Overrides": {**overrides, "AvailabilityZone": pool[1]},
                }
                error = {"ErrorCode": refusal.code, "ErrorMessage": refusal.message, "Lifecycle": lifecycle}
                fleet.errors.append({"LaunchTemplateAndOverrides": place, **error})
                break
            market.take(pool)
            instance = _run(fleet, spec, template, pool, lifecycle)
            fleet.fulfilled_capacity += 1
            wanted -= 1
            yield spec, instance


def _in_order(fleet: Any, market: Market, strategy: str) -> list[Any]:
    """Pools in the order EC2 would try them. Priority counts only where EC2 reads it; else the cheapest comes first and
    priority, then the request's own order, settles a tie."""

    def priority(spec: Any) -> float:
        value = (spec.overrides or {}).get("Priority")
        return float("inf") if value is None else float(value)

    def price(spec: Any) -> float:
        pool = _pool(fleet, spec)
        return market.price(pool, vcpus(pool[0]))

    if "prioritized" in strategy.lower():
        return sorted(fleet.launch_specs, key=priority)
    return sorted(fleet.launch_specs, key=lambda spec: (price(spec), priority(spec)))


def _pool(fleet: Any, spec: Any) -> Pool:
    overrides, backend = spec.overrides or {}, fleet.ec2_backend
    if overrides.get("InstanceRequirements"):
        raise EC2ClientError("InvalidParameterValue", "A rehearsal knows instance types, not InstanceRequirements.")
    if spec.subnet_id:
        return str(spec.instance_type), str(backend.get_subnet(spec.subnet_id).availability_zone)
    zone = overrides.get("AvailabilityZone") or (overrides.get("Placement") or {}).get("AvailabilityZone")
    return str(spec.instance_type), str(zone or backend.region_name + "a")


def _template(backend: Any, spec: Any) -> dict[str, Any]:
    template = backend.get_launch_template(spec.launch_template_spec["LaunchTemplateId"])
    data: dict[str, Any] = template.get_version(spec.launch_template_spec.get("Version", "$Default")).data
    return data


def _max_price(overrides: dict[str, Any], template: dict[str, Any]) -> float | None:
    market_options = (template.get("InstanceMarketOptions") or {}).get("SpotOptions") or {}
    value = overrides.get("MaxPrice") or market_options.get("MaxPrice")
    return None if value is None else float(value)


def _refusal(backend: Any, market: Market, pool: Pool, max_price: float | None, *, spot: bool) -> Refusal | None:
    if not offered(pool, backend.region_name):
        return Refusal(
            "InvalidFleetConfiguration",
            f"Your requested instance type ({pool[0]}) is not supported in your requested Availability Zone "
            f"({pool[1]}).",
        )
    used = [
        vcpus(instance.instance_type)
        for instance in backend.all_instances()
        if instance.lifecycle == "spot" and instance.state in ("pending", "running", "shutting-down")
    ]
    return market.refusal(pool, spot=spot, max_price=max_price, vcpus=vcpus(pool[0]), used=used)


def _run(fleet: Any, spec: Any, template: dict[str, Any], pool: Pool, lifecycle: str) -> Any:
    """One instance with everything of its launch template and the tags of template and request."""
    backend = fleet.ec2_backend
    tags = {**spec.tag_specifications}
    tags["instance"] = {**tags.get("instance", {}), "aws:ec2:fleet-id": fleet.id}
    version = {
        "LaunchTemplateId": spec.launch_template_spec["LaunchTemplateId"],
        "Version": spec.launch_template_spec.get("Version", "$Default"),
    }
    network = (template.get("NetworkInterfaces") or [{}])[0]
    disks = (spec.overrides or {}).get("BlockDeviceMappings") or template.get("BlockDeviceMappings")
    instance = backend.run_instances(
        spec.image_id, 1, spec.user_data, list(template.get("SecurityGroups") or []),
        instance_type=pool[0], is_instance_type_default=False, region_name=backend.region_name,
        subnet_id=spec.subnet_id or network.get("SubnetId"), placement=None if spec.subnet_id else pool[1],
        security_group_ids=list(template.get("SecurityGroupIds") or network.get("Groups") or []),
        associate_public_ip=network.get("AssociatePublicIpAddress"), tags=tags, key_name=spec.key_name,
        launch_template=version, lifecycle="spot" if lifecycle == "spot" else None, fleet_id=fleet.id,
        metadata_options=template.get("MetadataOptions"), ebs_optimized=template.get("EbsOptimized", False),
        instance_initiated_shutdown_behavior=template.get("InstanceInitiatedShutdownBehavior"),
        **({"block_device_mappings": disks} if disks else {}),
    ).instances[0]  # fmt: skip
    profile = template.get("IamInstanceProfile")
    if profile:
        try:
            backend.associate_iam_instance_profile(
                instance.id, iam_instance_profile_name=profile.get("Name"), iam_instance_profile_arn=profile.get("Arn")
            )
        except Exception:
            # moto looks the profile up only now; EC2 would have started nothing.
            instance._fleet_id = None
            backend.terminate_instances([instance.id])
            raise
    return instance


def patch_tokens(market: Market) -> None:
    """moto ignores ClientToken: a retried launch would start a second instance, where EC2 repeats its first answer."""

    def idempotent(answer: Callable[[Any], Any], parameters: tuple[str, ...]) -> Callable[[Any], Any]:
        answers: dict[str, tuple[str, Any, list[Any]]] = {}

        def wrapper(self: Any) -> Any:
            token = self._get_param("ClientToken")
            request = json.dumps({name: self._get_param(name) for name in parameters}, sort_keys=True, default=str)
            with market.lock:
                if not token or token not in answers:
                    before = {instance.id for instance in self.ec2_backend.all_instances()}
                    result = answer(self)
                    started = [one for one in self.ec2_backend.all_instances() if one.id not in before]
                    if token:
                        answers[token] = (request, result, started)
                    return result
                first, result, started = answers[token]
                if first != request:
                    raise EC2ClientError(
                        "IdempotentParameterMismatch",
                        "Arguments on this idempotent request are inconsistent with arguments used in previous "
                        "request(s).",
                    )
                if started and all(instance.state in GONE for instance in started):
                    raise EC2ClientError(
                        "IdempotentInstanceTerminated",
                        "The client token belongs to a request whose instances are terminated.",
                    )
                return result

        return wrapper

    replace(Fleets, "create_fleet", idempotent(Fleets.create_fleet, FLEET_PARAMETERS))
    replace(InstanceResponse, "run_instances", idempotent(InstanceResponse.run_instances, RUN_PARAMETERS))
