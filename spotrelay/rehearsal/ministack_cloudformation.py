"""CloudFormation's EC2 resources in ministack, made in the EC2 host: that is where instances are launched from them."""

from __future__ import annotations

import os
from typing import Any

import boto3
from botocore.config import Config

from spotrelay.rehearsal.ministack_checks import PatchMismatch, load

_INTEGERS = {"VolumeSize", "HttpPutResponseHopLimit", "DeviceIndex", "Iops", "Throughput"}
_BOOLEANS = {"Encrypted", "DeleteOnTermination", "AssociatePublicIpAddress"}


def patch_ec2_resources(ec2_endpoint: str) -> None:
    """Create launch templates and security groups of a stack in the EC2 host instead of ministack's own EC2.

    Called on ministack's event loop: the host answers these without calling back.
    """
    provisioners = load("services.cloudformation.provisioners")
    handlers = next(
        (v for v in vars(provisioners).values() if isinstance(v, dict) and "AWS::EC2::LaunchTemplate" in v), None
    )
    if handlers is None:
        raise PatchMismatch("ministack's CloudFormation has no table of resource handlers")
    ec2: Any = boto3.client(
        "ec2",
        endpoint_url=ec2_endpoint,
        region_name=os.environ["AWS_REGION"],
        aws_access_key_id="cloudformation",
        aws_secret_access_key="cloudformation",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
    )

    def template_create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
        name = props["LaunchTemplateName"]
        made = ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData=_typed(props["LaunchTemplateData"])
        )
        return _template(made["LaunchTemplate"]["LaunchTemplateId"], name, 1)

    def template_update(
        physical_id: str, old: dict[str, Any], new: dict[str, Any], stack: str, logical_id: str | None = None
    ) -> tuple[str, dict[str, str]]:
        made = ec2.create_launch_template_version(
            LaunchTemplateId=physical_id, LaunchTemplateData=_typed(new["LaunchTemplateData"])
        )
        return _template(physical_id, new["LaunchTemplateName"], made["LaunchTemplateVersion"]["VersionNumber"])

    def group_create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
        made = ec2.create_security_group(
            GroupName=props.get("GroupName") or f"{stack}-{logical_id}",
            Description=props["GroupDescription"],
            VpcId=props["VpcId"],
        )
        return made["GroupId"], {"GroupId": made["GroupId"], "VpcId": props["VpcId"]}

    def group_update(
        physical_id: str, old: dict[str, Any], new: dict[str, Any], stack: str, logical_id: str | None = None
    ) -> tuple[str, dict[str, str]]:
        return physical_id, {"GroupId": physical_id, "VpcId": new["VpcId"]}

    def delete_template(physical_id: str, props: dict[str, Any]) -> None:
        ec2.delete_launch_template(LaunchTemplateId=physical_id)

    def delete_group(physical_id: str, props: dict[str, Any]) -> None:
        ec2.delete_security_group(GroupId=physical_id)

    for kind, create, update, delete in (
        ("AWS::EC2::LaunchTemplate", template_create, template_update, delete_template),
        ("AWS::EC2::SecurityGroup", group_create, group_update, delete_group),
    ):
        handlers[kind] = {"create": create, "update": update, "update_with_logical_id": True, "delete": delete}


def _template(template_id: str, name: str, version: int) -> tuple[str, dict[str, str]]:
    return template_id, {
        "LaunchTemplateId": template_id,
        "LaunchTemplateName": name,
        "DefaultVersionNumber": "1",
        "LatestVersionNumber": str(version),
    }


def _typed(value: Any, name: str = "") -> Any:
    """A template's values as EC2's API wants them: CloudFormation also takes numbers and truth as text."""
    if isinstance(value, dict):
        return {key: _typed(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(each, name) for each in value]
    if name in _INTEGERS:
        return int(value)
    if name in _BOOLEANS:
        return value in (True, "true", "True")
    return value
