"""Who may do what, by the template alone; tests/test_emulator_roles.py has it enforced."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models.instance_types import INSTANCE_TYPES
from pydantic import ValidationError

from chalicelib.contracts.spec import Resources as SpecResources
from spotrelay.deploying import application, stack, template

TEMPLATE = template.load()
RESOURCES = TEMPLATE["Resources"]
ROLES = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::IAM::Role"}
POLICIES = {name: r["Properties"] for name, r in RESOURCES.items() if r["Type"] == "AWS::IAM::ManagedPolicy"}
FUNCTION_ROLES = {name: r for name, r in ROLES.items() if "lambda.amazonaws.com" in json.dumps(r)}


def statements(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for statement in document["Statement"]:
        yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def every_statement() -> list[tuple[str, dict[str, Any]]]:
    documents = [(name, p["PolicyDocument"]) for name, p in POLICIES.items()]
    documents += [(name, each["PolicyDocument"]) for name, r in ROLES.items() for each in r["Policies"]]
    return [(name, statement) for name, document in documents for statement in statements(document)]


EVERY = every_statement()
BY_SID = {statement["Sid"]: statement for _, statement in EVERY}


def actions(statement: dict[str, Any]) -> list[str]:
    given = statement["Action"]
    return [given] if isinstance(given, str) else given


def test_each_function_has_a_role_of_its_own_called_as_its_handler() -> None:
    made = stack.Resources(**{name: name for name in stack.Resources.__dataclass_fields__})
    handlers = [each.handler for each in application.functions()]
    assert sorted(made.function_roles) == sorted(handlers)
    named = {h: TEMPLATE["Outputs"][output]["Value"]["Fn::GetAtt"] for h, output in made.function_roles.items()}
    assert {value.removesuffix(".Arn") for value in named.values()} == set(FUNCTION_ROLES)
    for handler, value in named.items():
        role = ROLES[value.removesuffix(".Arn")]
        assert role["RoleName"] == {"Fn::Sub": f"spot-relay-${{Stage}}-{handler}"}


def test_no_statement_allows_more_than_it_names() -> None:
    assert not [action for _, s in EVERY for action in actions(s) if "*" in action]
    anything = {s["Sid"] for _, s in EVERY if s["Resource"] == "*"}
    # Actions for which AWS knows no resource (Service Authorization Reference).
    knows_none = {"ProveUse", "PoolsAndPrices", "CompareWithTheQuota", "AddARunToASubscription", "LookForLeftVolumes"}
    assert anything == knows_none
    assert all(s["Effect"] == "Allow" for _, s in EVERY)


def test_statements_of_a_role_are_told_apart_by_their_names() -> None:
    for name, role in ROLES.items():
        attached = [ref["Ref"] for ref in role.get("ManagedPolicyArns", [])]
        sids = [s["Sid"] for owner, s in EVERY if owner in (name, *attached)]
        assert sorted(sids) == sorted(set(sids))


def test_only_the_api_lends_the_role_of_runs() -> None:
    (trust,) = ROLES["RunRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"AWS": {"Fn::GetAtt": "ApiRole.Arn"}}
    assert [owner for owner, s in EVERY if "sts:AssumeRole" in actions(s)] == ["ApiRole"]


def test_one_role_is_passed_to_each_service() -> None:
    passed = [(s["Condition"]["StringEquals"]["iam:PassedToService"], s["Resource"]) for _, s in EVERY
              if "iam:PassRole" in actions(s)]  # fmt: skip
    assert sorted(passed, key=str) == [
        ("ec2.amazonaws.com", {"Fn::GetAtt": "InstanceRole.Arn"}),
        ("scheduler.amazonaws.com", {"Fn::GetAtt": "SchedulerRole.Arn"}),
    ]


def test_what_ends_or_deletes_asks_for_our_tag() -> None:
    for sid in ("EndOurs", "DeleteWhatOursLeft"):
        for _, statement in EVERY:
            if statement["Sid"] == sid:
                assert statement["Condition"] == {
                    "StringEquals": {"aws:ResourceTag/spot-relay:stage": {"Ref": "Stage"}}
                }
    others = [(owner, s["Condition"]) for owner, s in EVERY if s["Sid"] == "EndOthers"]
    absent = {"aws:ResourceTag/spot-relay:protect": "true", "aws:ResourceTag/spot-relay:stage": "true"}
    assert others == [("SweepRole", {"Null": absent})]


def test_tags_are_given_at_creation_only_and_are_ours() -> None:
    (tagging,) = [s for _, s in EVERY if "ec2:CreateTags" in actions(s)]
    assert tagging["Condition"]["StringEquals"] == {
        "ec2:CreateAction": ["CreateFleet", "RunInstances"],
        "aws:RequestTag/spot-relay:stage": {"Ref": "Stage"},
    }


def like(value: str, pattern: str) -> bool:
    return bool(re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value))


def in_a_spec(kind: str) -> bool:
    try:
        SpecResources(instance_types=[kind])
    except ValidationError:
        return False
    return True


def test_every_type_a_spec_may_name_can_be_launched_and_no_other() -> None:
    refused = BY_SID["RunOurInstance"]["Condition"]["StringNotLike"]["ec2:InstanceType"]
    launched = {kind for kind in INSTANCE_TYPES if not any(like(kind, pattern) for pattern in refused)}
    assert launched == {kind for kind in INSTANCE_TYPES if in_a_spec(kind)}
    assert {"c6i.xlarge", "g4dn.xlarge", "p5.48xlarge", "m7i-flex.large"} <= launched
    assert not {"t3.micro", "t3a.large", "c7g.xlarge", "im4gn.large", "a1.large"} & launched
    assert len(launched) > 300


def test_a_disk_is_as_large_as_a_spec_may_ask() -> None:
    condition = BY_SID["WithADiskWithinBounds"]["Condition"]
    least, most = (int(condition[f"Numeric{which}ThanEquals"]["ec2:VolumeSize"]) for which in ("Greater", "Less"))
    for size in (least - 1, least, most, most + 1):
        if least <= size <= most:
            SpecResources(disk_gb=size)
        else:
            with pytest.raises(ValidationError):
                SpecResources(disk_gb=size)


def test_policies_are_as_small_as_iam_wants_them() -> None:
    """6,144 characters for a managed policy; names of partition, region, account, stage and bucket are longer than here."""
    for name, policy in POLICIES.items():
        assert len(json.dumps(policy["PolicyDocument"], separators=(",", ":"))) < 5500, name
    for name, role in ROLES.items():
        assert len(json.dumps(role["Policies"], separators=(",", ":"))) < 9000, name


def test_cfn_lint_has_nothing_to_say() -> None:
    lint = [str(Path(sys.executable).with_name("cfn-lint")), "--regions", "us-east-1", "--template"]
    done = subprocess.run([*lint, str(stack.TEMPLATE)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_the_template_is_as_small_as_cloudformation_takes_it() -> None:
    assert len(stack.TEMPLATE.read_bytes()) <= 51_200
