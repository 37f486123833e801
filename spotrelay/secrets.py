"""Secrets of a stage: SSM SecureStrings `/spot-relay/<stage>/secrets/<name>`, which specs name and never contain.

A value is only ever written; nothing here reads one back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError
from pydantic import TypeAdapter, ValidationError

from chalicelib.contracts.kinds import SecretName

# A standard parameter holds 4 KB and costs nothing.
_MOST_BYTES = 4096
_NAME: TypeAdapter[str] = TypeAdapter(SecretName)


class SecretError(Exception):
    """A name or a value that can't be taken; the message never repeats a value."""


@dataclass(frozen=True)
class Secret:
    name: str
    changed_at: datetime
    version: int


def prefix(stage: str) -> str:
    return f"/spot-relay/{stage}/secrets/"


def parameter(stage: str, name: str) -> str:
    """The parameter of that name. Raises SecretError when no spec could name it."""
    try:
        return prefix(stage) + _NAME.validate_python(name)
    except ValidationError:
        # Somebody may have given the value for the name: it is not repeated.
        raise SecretError(
            "That is no name for a secret: letters, digits, '.', '_' and '-', at most 128, beginning with a letter or digit, "
            "such as github-token."
        ) from None


def store(ssm: Any, stage: str, name: str, value: str) -> int:
    """Write it, over what was there. Gives the parameter's version. Raises SecretError."""
    path = parameter(stage, name)
    size = len(value.encode())
    if not value or size > _MOST_BYTES:
        raise SecretError(f"The value of {name} has {size} bytes; 1 to {_MOST_BYTES} are taken.")
    if "\0" in value:
        raise SecretError(f"The value of {name} has a NUL character in it: no environment variable can hold it.")
    answer = ssm.put_parameter(
        Name=path,
        Value=value,
        Type="SecureString",
        Overwrite=True,
        Description="Stored by spotrelay secret set",
    )
    return int(answer["Version"])


def listed(ssm: Any, stage: str) -> list[Secret]:
    """Names and dates, by name."""
    pages = ssm.get_paginator("describe_parameters").paginate(
        ParameterFilters=[{"Key": "Path", "Option": "OneLevel", "Values": [prefix(stage).rstrip("/")]}]
    )
    found = [
        Secret(each["Name"].removeprefix(prefix(stage)), each["LastModifiedDate"], int(each.get("Version", 1)))
        for page in pages
        for each in page["Parameters"]
    ]
    return sorted(found, key=lambda secret: secret.name)


def remove(ssm: Any, stage: str, name: str) -> bool:
    """False when there is none of that name. Raises SecretError."""
    try:
        ssm.delete_parameter(Name=parameter(stage, name))
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return False
        raise
    return True
