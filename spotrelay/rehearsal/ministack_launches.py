"""CreateFleet and RunInstances, authorized in ministack as EC2 does it: on each thing that they make or use.

`checks` works out from a request and its launch template what leave is needed for (Service Authorization Reference,
"Actions, resources, and condition keys for Amazon EC2"); it is pure. `patch_launches` has each of them evaluated.
A pool that may not be launched refuses the whole fleet here; EC2 would list it among the answer's `Errors`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from spotrelay.rehearsal.ministack_checks import Asked, authorize_each, load, require_function, require_text

SERVICE = "ec2.amazonaws.com"
_BY_PARAMETER = "resolve:ssm:"

Tags = Mapping[str, Mapping[str, str]]  # by resource type


@dataclass(frozen=True)
class Check:
    """What leave is needed for: an action on a resource, with what conditions can ask of it."""

    action: str
    resource: str
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A launch template's id, and the data of the version that is asked for."""

    template_id: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class World:
    """What a request alone does not say: the template it names, the role in a profile; None for what is not there."""

    region: str
    account: str
    template: Callable[[Mapping[str, Any]], Template | None]
    role: Callable[[str], str | None]

    def arn(self, kind: str, name: str = "*") -> str:
        return f"arn:aws:ec2:{self.region}:{'' if kind == 'image' else self.account}:{kind}/{name}"


def checks(action: str, request: Mapping[str, Any], world: World) -> Iterator[Check]:
    """Everything that a CreateFleet or RunInstances (as `nested` gives it) needs leave for."""
    tags = _tags(listed(request.get("TagSpecification")))
    if action == "RunInstances":
        template = world.template(request["LaunchTemplate"]) if "LaunchTemplate" in request else None
        market = request.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        yield from _run(_Launch(template, request, tags, market), world)
        return
    market = request.get("TargetCapacitySpecification", {}).get("DefaultTargetCapacityType", "on-demand")
    yield Check("ec2:CreateFleet", world.arn("fleet"), _given(tags, "fleet"))
    yield from _tagging(tags, "fleet", "CreateFleet", world)
    for config in listed(request.get("LaunchTemplateConfigs")):
        template = world.template(config.get("LaunchTemplateSpecification", {}))
        for override in listed(config.get("Overrides")) or [{}]:
            launch = _Launch(template, override, tags, market)
            yield from _fleet(launch, world)
            yield from _run(launch, world)


class _Launch:
    """One instance to be: what the request says of it, and where it is silent, the template."""

    def __init__(self, template: Template | None, own: Mapping[str, Any], tags: Tags, market: str) -> None:
        data = template.data if template else {}
        network = (data.get("NetworkInterfaces") or [{}])[0]
        asked = (listed(own.get("NetworkInterface")) or [{}])[0]
        self.template, self.market = template, market
        self.kind = own.get("InstanceType") or data.get("InstanceType")
        self.image = str(own.get("ImageId") or data.get("ImageId") or "")
        self.subnet = own.get("SubnetId") or asked.get("SubnetId") or network.get("SubnetId") or "*"
        self.groups = [
            *(listed(own.get("SecurityGroupId")) or listed(asked.get("SecurityGroupId"))),
            *(data.get("SecurityGroupIds") or network.get("Groups") or []),
        ]
        self.metadata = {**data.get("MetadataOptions", {}), **own.get("MetadataOptions", {})}
        self.disks = [d.get("Ebs", {}) for d in listed(own.get("BlockDeviceMapping"))] or [
            d.get("Ebs", {}) for d in data.get("BlockDeviceMappings", [])
        ]
        self.profile = own.get("IamInstanceProfile") or data.get("IamInstanceProfile")
        held = _tags(data.get("TagSpecifications", []))
        self.tags = {kind: {**held.get(kind, {}), **tags.get(kind, {})} for kind in {*held, *tags}}

    def instance(self) -> dict[str, Any]:
        return _known({"ec2:InstanceType": self.kind, **_given(self.tags, "instance")})

    def volumes(self) -> Iterator[dict[str, Any]]:
        for disk in self.disks or [{}]:
            encrypted = disk.get("Encrypted")
            known = {
                "ec2:VolumeSize": disk.get("VolumeSize"),
                "ec2:VolumeType": disk.get("VolumeType"),
                "ec2:Encrypted": None if encrypted is None else str(encrypted).lower(),
            }
            yield _known({**known, **_given(self.tags, "volume")})


def _fleet(launch: _Launch, world: World) -> Iterator[Check]:
    action = "ec2:CreateFleet"
    yield Check(action, world.arn("instance"), launch.instance())
    if launch.template:
        yield Check(action, world.arn("launch-template", launch.template.template_id))
    yield Check(action, world.arn("image", _image(launch.image)))
    yield Check(action, world.arn("subnet", launch.subnet))
    for volume in launch.volumes():
        yield Check(action, world.arn("volume"), volume)


def _run(launch: _Launch, world: World) -> Iterator[Check]:
    action, common = "ec2:RunInstances", {}
    if launch.template:
        template = world.arn("launch-template", launch.template.template_id)
        common = {"ec2:LaunchTemplate": template}
        yield Check(action, template, common)
    known = {
        "ec2:MetadataHttpTokens": launch.metadata.get("HttpTokens"),
        "ec2:InstanceMarketType": launch.market,
    }
    yield Check(action, world.arn("instance"), _known({**common, **known, **launch.instance()}))
    for volume in launch.volumes():
        yield Check(action, world.arn("volume"), {**common, **volume})
    for group in launch.groups or ["*"]:
        yield Check(action, world.arn("security-group", group), common)
    yield Check(action, world.arn("network-interface"), common)
    yield Check(action, world.arn("subnet", launch.subnet), common)
    yield Check(action, world.arn("image", _image(launch.image)), common)
    if launch.market == "spot":
        yield Check(action, world.arn("spot-instances-request"))
    for kind in ("instance", "volume", "network-interface", "spot-instances-request"):
        yield from _tagging(launch.tags, kind, "RunInstances", world)
    yield from _lent(launch, world)


def _lent(launch: _Launch, world: World) -> Iterator[Check]:
    """What EC2 does with the caller's own permissions: hand a role over, look up which image a parameter names."""
    if launch.profile:
        name = launch.profile.get("Name") or str(launch.profile.get("Arn")).rsplit("/", 1)[-1]
        role = world.role(name)
        if role:
            yield Check("iam:PassRole", role, {"iam:PassedToService": SERVICE})
    if launch.image.startswith(_BY_PARAMETER):
        name = launch.image.removeprefix(_BY_PARAMETER)
        # A public parameter's ARN names no account.
        owner = "" if name.startswith("/aws/") else world.account
        yield Check("ssm:GetParameters", f"arn:aws:ssm:{world.region}:{owner}:parameter/{name.lstrip('/')}")


def _tagging(tags: Tags, kind: str, action: str, world: World) -> Iterator[Check]:
    if tags.get(kind):
        yield Check("ec2:CreateTags", world.arn(kind), {"ec2:CreateAction": action, **_given(tags, kind)})


def _given(tags: Tags, kind: str) -> dict[str, Any]:
    """The condition keys that tell of a resource's tags."""
    found = tags.get(kind, {})
    keys: dict[str, Any] = {f"aws:RequestTag/{key}": value for key, value in found.items()}
    return {**keys, "aws:TagKeys": list(found)} if found else {}


def _tags(specifications: list[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Tags by resource type, of a request (`Tag.1.Key`) or of a template (`Tags`)."""
    found: dict[str, dict[str, str]] = {}
    for each in specifications:
        tags = each.get("Tags") or listed(each.get("Tag"))
        found.setdefault(each["ResourceType"], {}).update({tag["Key"]: tag.get("Value", "") for tag in tags})
    return found


def _image(image: str) -> str:
    return "*" if image.startswith(_BY_PARAMETER) else image


def _known(context: Mapping[str, Any]) -> dict[str, Any]:
    """A key without a value is absent: no condition that asks for it holds."""
    return {key: value for key, value in context.items() if value is not None}


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A query's parameters (`A.1.B=c`) as a tree."""
    tree: dict[str, Any] = {}
    for name, value in parameters.items():
        *parts, last = name.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value[0] if isinstance(value, list) else value
    return tree


def listed(node: Mapping[str, Any] | None) -> list[Any]:
    """A tree's numbered children, in order."""
    return [node[number] for number in sorted(node, key=int)] if node else []


class LaunchArn(str):
    """The resource of a launch, which carries everything that is to be authorized with it."""

    checks: tuple[Check, ...] = ()


def patch_launches(ec2: Callable[[str], Any]) -> None:
    """Authorize launches resource by resource, with EC2's condition keys. `ec2` gives the host's client of a region.

    ministack knows one resource for each call, `*` for these, and none of their conditions: a role that may only launch
    what is small and ours could not be told from one that may launch anything.
    """
    actions, evaluator, iam = load("core.iam_actions"), load("core.iam_evaluator"), load("services.iam")
    extract = require_function(
        actions, "extract_resource_arn", "service method path headers body query_params region account_id"
    )
    require_text(load("app"), "_dispatch_service_request", "extract_resource_arn(", "resource_arn=checked_arn")
    require_text(iam, "_create_instance_profile", "_instance_profiles[name] = {", '"Roles": []')
    require_text(evaluator, "enforce", "key.lower(): value for key, value in (service_context or {}).items()")
    logger = evaluator.logger

    def template_of(region: str, named: Mapping[str, Any]) -> Template | None:
        asked = {key: named[key] for key in ("LaunchTemplateId", "LaunchTemplateName") if key in named}
        try:
            found = ec2(region).describe_launch_template_versions(
                **asked, Versions=[named.get("Version") or "$Default"]
            )["LaunchTemplateVersions"][0]
        except (ClientError, IndexError):
            return None  # EC2 says that itself
        return Template(found["LaunchTemplateId"], found["LaunchTemplateData"])

    def role_of(profile: str) -> str | None:
        names = (iam._instance_profiles.get(profile) or {}).get("Roles") or []
        return str(iam._roles[names[0]]["Arn"]) if names and names[0] in iam._roles else None

    @functools.wraps(extract)
    def patched_extract(
        service: str, method: str, path: str, headers: Any, body: bytes, query_params: Any, region: str, account_id: str
    ) -> str:
        action = query_params.get("Action") if service == "ec2" else None
        action = action[0] if isinstance(action, list) else action
        if action not in ("CreateFleet", "RunInstances"):
            arn: str = extract(service, method, path, headers, body, query_params, region, account_id)
            return arn
        world = World(region, account_id, functools.partial(template_of, region), role_of)
        found = {repr(check): check for check in checks(action, nested(query_params), world)}
        launch = LaunchArn(next(iter(found.values())).resource)
        launch.checks = tuple(found.values())
        return launch

    def each_check(asked: Asked) -> list[Asked]:
        launch: tuple[Check, ...] = getattr(asked.resource_arn, "checks", ())
        return [
            Asked(
                asked.access_key_id,
                check.action,
                check.action.partition(":")[0],
                asked.region,
                check.resource,
                dict(check.context),
            )
            for check in launch
        ] or [asked]

    def refused(asked: Asked, part: Asked) -> None:
        if part is not asked:
            said = (asked.iam_action, part.iam_action, part.resource_arn, part.service_context)
            logger.error("%s is refused: %s on %s %s", *said)

    actions.extract_resource_arn = patched_extract
    authorize_each(each_check, refused)
