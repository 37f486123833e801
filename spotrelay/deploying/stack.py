"""Our own resources as one CloudFormation stack: made, updated, mended and removed.

Whatever state an earlier deploy left the stack in, `deploy_resources` finds the way on: it waits for what is under way,
removes the shell of a creation that failed, and ends an update's rollback that got stuck.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from botocore.exceptions import ClientError, WaiterError

from spotrelay.deploying.errors import DeployError

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATE = ROOT / ".chalice/resources.yaml"
_USER_DATA_PARAMETERS, _PARAMETER_CHARACTERS = 6, 4096
_DELAY_S, _PATIENCE_S = 2.0, 900.0
_PATIENCE = {"Delay": int(_DELAY_S), "MaxAttempts": int(_PATIENCE_S / _DELAY_S)}

Step = Literal["create", "update", "wait", "delete", "continue_rollback"]


@dataclass(frozen=True)
class Resources:
    """What the stack made, by its outputs."""

    TableName: str
    BucketName: str
    LaunchTemplateName: str
    ApiRoleArn: str
    WarningRoleArn: str
    StateChangeRoleArn: str
    SweepRoleArn: str
    InstanceRoleName: str
    RunRoleArn: str
    TopicArn: str
    LogGroup: str
    FailedEventsArn: str
    Guard: str

    @property
    def function_roles(self) -> dict[str, str]:
        """The role's ARN by handler: each function of `app.py` has its own."""
        return {
            "api_handler": self.ApiRoleArn,
            "on_warning": self.WarningRoleArn,
            "on_state_change": self.StateChangeRoleArn,
            "sweep": self.SweepRoleArn,
        }


def stack_name(stage: str) -> str:
    return f"spot-relay-{stage}-resources"


def next_step(status: str | None) -> Step:
    """What brings a stack in this status closer to what the template says; None is no stack."""
    if status is None or status == "DELETE_COMPLETE":
        return "create"
    if status == "REVIEW_IN_PROGRESS":
        return "delete"  # a change set that was never executed; nothing will happen by waiting
    if status.endswith("_IN_PROGRESS"):
        return "wait"
    if status == "UPDATE_ROLLBACK_FAILED":
        return "continue_rollback"
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"):
        return "delete"  # a first creation that failed leaves a shell that can't be updated
    return "update"


def deploy_resources(
    cloudformation: Any,
    stage: str,
    parameters: Mapping[str, str],
    say: Callable[[str], None] = lambda text: None,
) -> Resources:
    """Create or update the stack; nothing to change is fine. Raises DeployError with CloudFormation's own words.

    A parameter that is not given keeps its value.
    """
    name = stack_name(stage)
    before = settle(cloudformation, name, say)
    template = TEMPLATE.read_text("utf-8")
    wanted = {"Stage": stage, **user_data((ROOT / "userdata/boot.sh").read_bytes()), **parameters}
    kept = {p["ParameterKey"] for p in (before or {}).get("Parameters", [])} - set(wanted)
    request: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": template,
        "Capabilities": ["CAPABILITY_NAMED_IAM"],
        "Parameters": [
            *({"ParameterKey": key, "ParameterValue": value} for key, value in wanted.items()),
            *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept) if f"  {key}:" in template),
        ],
        "Tags": [{"Key": "spot-relay:stage", "Value": stage}],
    }
    try:
        if before is None:
            cloudformation.create_stack(**request)
            waiter = "stack_create_complete"
        else:
            cloudformation.update_stack(**request)
            waiter = "stack_update_complete"
        cloudformation.get_waiter(waiter).wait(StackName=name, WaiterConfig=_PATIENCE)
    except ClientError as error:
        if "No updates are to be performed" not in str(error):
            raise DeployError(f"CloudFormation refused the stack {name}: {error}") from error
    except WaiterError as error:
        raise DeployError(f"The stack {name} failed:\n{failures(cloudformation, name)}") from error
    return outputs(describe(cloudformation, name), name)


def settle(cloudformation: Any, name: str, say: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
    """The stack, once it can be updated, or None when it has to be created. Raises DeployError."""
    for _ in range(4):  # wait, continue the rollback, delete, and look once more
        stack = describe(cloudformation, name)
        step = next_step(stack["StackStatus"] if stack else None)
        if step == "create":
            return None
        if step == "update":
            return stack
        if step == "wait":
            say(f"waiting for the stack {name}, which is {(stack or {})['StackStatus']}")
            _wait_until_settled(cloudformation, name)
        elif step == "continue_rollback":
            say(f"ending the rollback of {name} that got stuck")
            cloudformation.continue_update_rollback(StackName=name)
            _wait_until_settled(cloudformation, name)
        else:
            say(f"removing what a failed creation left of {name}")
            delete_stack(cloudformation, name)
    raise DeployError(
        f"The stack {name} does not settle:\n{failures(cloudformation, name)}\nMend what is named, or skip it: "
        f"aws cloudformation continue-update-rollback --stack-name {name} --resources-to-skip NAME"
    )


def delete_stack(cloudformation: Any, name: str) -> None:
    """Remove the stack and wait; no stack is fine. Raises DeployError naming what could not be removed."""
    cloudformation.delete_stack(StackName=name)
    try:
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig=_PATIENCE)
    except WaiterError as error:
        raise DeployError(f"The stack {name} can't be removed:\n{failures(cloudformation, name)}") from error


def outputs(stack: Mapping[str, Any] | None, name: str) -> Resources:
    """Raises DeployError when the stack was made from another template than this code's."""
    found = {o["OutputKey"]: o["OutputValue"] for o in (stack or {}).get("Outputs", [])}
    try:
        return Resources(**{f.name: found[f.name] for f in fields(Resources)})
    except KeyError as error:
        raise DeployError(f"The stack {name} lacks the output {error}: run `make deploy`.") from error


def describe(cloudformation: Any, name: str) -> dict[str, Any] | None:
    """The stack as CloudFormation describes it, or None."""
    try:
        stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def parameter_values(stack: Mapping[str, Any] | None) -> dict[str, str]:
    return {p["ParameterKey"]: p.get("ParameterValue", "") for p in (stack or {}).get("Parameters", [])}


def failures(cloudformation: Any, name: str) -> str:
    """Why the stack's last operation failed, in its resources' own words, oldest first."""
    try:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    except ClientError as error:
        return f"  {error}"
    failed = []
    for event in events:  # newest first
        itself = event.get("PhysicalResourceId") == event.get("StackId")
        if itself and event["ResourceStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
            break  # what is older belongs to an operation before
        if event["ResourceStatus"].endswith("_FAILED"):
            failed.append(f"  {event['LogicalResourceId']}: {event.get('ResourceStatusReason', '?')}")
    return "\n".join(reversed(failed)) or "  (CloudFormation names no resource)"


def user_data(script: bytes) -> dict[str, str]:
    """The boot script as the template's parameters. Raises DeployError when EC2 would not take it."""
    if len(script) > 16 * 1024:
        raise DeployError(f"userdata/boot.sh has {len(script)} bytes; EC2 takes 16384.")
    text = base64.b64encode(script).decode()
    parts = [text[at : at + _PARAMETER_CHARACTERS] for at in range(0, len(text), _PARAMETER_CHARACTERS)]
    parts += [""] * (_USER_DATA_PARAMETERS - len(parts))
    return {f"UserData{n}": part for n, part in enumerate(parts)}


def _wait_until_settled(cloudformation: Any, name: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (stack := describe(cloudformation, name)) and stack["StackStatus"].endswith("_IN_PROGRESS"):
        if time.monotonic() > deadline:
            raise DeployError(f"The stack {name} is still {stack['StackStatus']} after {_PATIENCE_S / 60:.0f} minutes.")
        time.sleep(_DELAY_S)
