"""What the deployed roles are allowed, read back from IAM as it was made from the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Statement:
    """One statement of a policy. `policy` is a managed policy's ARN, or the name of the one role that has it inline."""

    policy: str
    managed: bool
    sid: str
    actions: tuple[str, ...]
    roles: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.policy.rsplit('/', 1)[-1]}: {self.sid}"


@dataclass(frozen=True)
class Attachment:
    """A managed policy on one of its roles, with what it allows there."""

    policy: str
    role: str
    actions: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.role}: all of {self.policy.rsplit('/', 1)[-1]}"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)


Part = Statement | Attachment


def parts(iam: Any, prefix: str) -> list[Part]:
    """Every statement and every attachment of the roles whose names begin so."""
    roles = [
        role["RoleName"]
        for page in iam.get_paginator("list_roles").paginate()
        for role in page["Roles"]
        if role["RoleName"].startswith(prefix)
    ]
    found: list[Part] = []
    attached: dict[str, list[str]] = {}
    for role in sorted(roles):
        for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
            found += [Statement(role, False, s["Sid"], _actions(s), (role,)) for s in document["Statement"]]
        for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
            attached.setdefault(policy["PolicyArn"], []).append(role)
    for arn, holders in sorted(attached.items()):
        statements = list(_managed(iam, arn))
        found += [Statement(arn, True, s["Sid"], _actions(s), tuple(holders)) for s in statements]
        every = tuple(action for s in statements for action in _actions(s))
        found += [Attachment(arn, role, every) for role in holders]
    return found


def _managed(iam: Any, arn: str) -> Iterator[Mapping[str, Any]]:
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    yield from document["Statement"]


def _actions(statement: Mapping[str, Any]) -> tuple[str, ...]:
    given = statement["Action"]
    return (given,) if isinstance(given, str) else tuple(given)
