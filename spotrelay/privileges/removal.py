"""Take a statement out of its policy, or a policy off a role, as an administrator would; and give it back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from spotrelay.privileges.statements import Attachment, Part, Statement

INLINE = "own"  # what the template calls a role's inline policy


@contextlib.contextmanager
def removed(iam: Any, part: Part) -> Iterator[None]:
    """While it lasts, the deployed system is without this part of its permissions, from the next call on."""
    if isinstance(part, Attachment):
        iam.detach_role_policy(RoleName=part.role, PolicyArn=part.policy)
        try:
            yield
        finally:
            iam.attach_role_policy(RoleName=part.role, PolicyArn=part.policy)
    elif part.managed:
        with _other_version(iam, part):
            yield
    else:
        document = iam.get_role_policy(RoleName=part.policy, PolicyName=INLINE)["PolicyDocument"]
        less = without(document, part.sid)
        if less["Statement"]:
            _put(iam, part.policy, less)
        else:  # a policy has one statement at least
            iam.delete_role_policy(RoleName=part.policy, PolicyName=INLINE)
        try:
            yield
        finally:
            _put(iam, part.policy, document)


@contextlib.contextmanager
def _other_version(iam: Any, part: Statement) -> Iterator[None]:
    before = iam.get_policy(PolicyArn=part.policy)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=part.policy, VersionId=before)["PolicyVersion"]["Document"]
    less = _new_version(iam, part.policy, without(document, part.sid))
    try:
        yield
    finally:
        # A new version again: the emulator can't go back to one. A policy keeps five.
        _new_version(iam, part.policy, document)
        for version in (before, less):
            iam.delete_policy_version(PolicyArn=part.policy, VersionId=version)


def _new_version(iam: Any, arn: str, document: Mapping[str, Any]) -> str:
    made = iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(document), SetAsDefault=True)
    return str(made["PolicyVersion"]["VersionId"])


def without(document: Mapping[str, Any], sid: str) -> dict[str, Any]:
    """The document without a statement. Raises ValueError when it has none of that name."""
    left = [each for each in document["Statement"] if each["Sid"] != sid]
    if len(left) != len(document["Statement"]) - 1:
        raise ValueError(f"the policy has not one statement {sid!r}, but {len(document['Statement']) - len(left)}")
    return {**document, "Statement": left}


def _put(iam: Any, role: str, document: Mapping[str, Any]) -> None:
    iam.put_role_policy(RoleName=role, PolicyName=INLINE, PolicyDocument=json.dumps(document))
