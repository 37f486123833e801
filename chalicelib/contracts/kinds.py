"""The kinds of values a spec is made of: each checks one value, and says what would be right. Pure.

A value is data wherever it goes: only `command`, `checkpoint.resume` (split into words, no shell) and `setup` (a shell's) are
run. What none of them can be is text that would be something else elsewhere: a path that leads out, a wildcard in a policy.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pytimeparse2 import parse as parse_duration

from chalicelib.contracts import templates

_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_INSTANCE_TYPE = re.compile(
    r"(?P<family>[a-z][a-z0-9-]*)\.(?P<size>nano|micro|small|medium|large|\d*xlarge|metal(-\d+xl)?)"
)
_ARM = re.compile(r"(a1|[a-z]+\d+g[a-z]*)")  # Graviton: a `g` right after the generation
_LONGEST = timedelta(days=31)
_DIRECTORY_NAMES = frozenset({"run", "attempt"})
_COMMAND_NAMES = _DIRECTORY_NAMES | {"results", "results.rel"}
_OURS = ("runs", "agent")  # of the bucket
_RESUME_NAMES = _COMMAND_NAMES | {"checkpoint", "checkpoint.rel"}


def _text(value: str) -> str:
    if any(ord(c) < 32 and c not in "\n\t" for c in value):
        raise ValueError("has control characters")
    return value


def _env_value(value: str) -> str:
    if "\0" in value:
        raise ValueError("has a NUL character in it: no environment variable can hold it")
    return value


def _relative(value: str) -> str:
    """A folder or file under the repository's root."""
    _text(value)
    unknown = templates.names(value) - _DIRECTORY_NAMES
    if unknown:
        raise ValueError(f"may name {{run}} and {{attempt}} only, not {', '.join(f'{{{u}}}' for u in sorted(unknown))}")
    return _inside(value)


def _plain_relative(value: str) -> str:
    """The same where no placeholder is filled in."""
    if templates.names(_text(value)):
        raise ValueError("takes no placeholders")
    return _inside(value)


def _inside(value: str) -> str:
    place = PurePosixPath(value)
    odd = "\\" in value or "\n" in value or value.startswith("~")
    if not value or place.is_absolute() or ".." in place.parts or odd:
        raise ValueError("must be a path under the repository's root, like 'ml/results': no '..', no '/' at its start")
    for part in place.parts:
        if part.endswith("."):
            raise ValueError(f"has the part {part[:50]!r}: no part may end with a dot")
        if len(part.encode()) > 255:
            raise ValueError("has a part of more than 255 bytes, which no file system takes")
    return value


def _prefix(value: str) -> str:
    """A key or a folder of keys in the bucket. It goes into a policy, where these characters would mean more than themselves."""
    _plain_relative(value)
    if re.search(r"[*?$]", value):
        raise ValueError("must name one key or folder of the bucket: no '*', '?' or '$'")
    if PurePosixPath(value).parts[0] in _OURS:
        raise ValueError("must lie outside of 'runs' and 'agent', which are each run's own and ours: 'datasets/…', say")
    return value


def _command(value: str) -> str:
    return _words(value, _COMMAND_NAMES)


def _resume(value: str) -> str:
    return _words(value, _RESUME_NAMES)


def _words(value: str, known: frozenset[str]) -> str:
    _known(_text(value), known)
    try:
        templates.words(value)
    except ValueError as error:
        raise ValueError(str(error)) from None
    return value


def _known(value: str, known: frozenset[str]) -> None:
    unknown = templates.names(value) - known
    if unknown:
        raise ValueError(str(templates.UnknownPlaceholder(sorted(unknown)[0], known)))


def _secret_name(value: str) -> str:
    if not _SECRET_NAME.fullmatch(value):
        raise ValueError("must be the name of a stored secret (letters, digits, '_', '-', '.'), never its value")
    return value


def _instance_type(value: str) -> str:
    found = _INSTANCE_TYPE.fullmatch(value)
    if not found:
        raise ValueError("is no instance type; one looks like c6i.xlarge")
    if re.fullmatch(r"t\d[a-z]*", found["family"]):
        raise ValueError("is burstable: its surplus credits have no price cap; choose c, m or r types, like c6i.xlarge")
    if _ARM.fullmatch(found["family"]):
        raise ValueError("is an ARM type and the image is x86-64; choose one like c6i.xlarge")
    return value


def _each_once(values: list[str]) -> list[str]:
    twice = sorted({v for v in values if values.count(v) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice")
    return values


def _duration(value: Any) -> Any:
    """`90m`, `24h`, `1h30m`, `2 days`. A bare number names no unit, and is refused."""
    if isinstance(value, timedelta):
        return value
    seconds = parse_duration(value) if isinstance(value, str) and not value.strip().isdigit() else None
    if seconds is None:
        raise ValueError("must be a duration with its unit, like 90m or 24h")
    span = timedelta(seconds=float(seconds))
    if not timedelta(minutes=1) <= span <= _LONGEST:
        raise ValueError("must be from 1m to 31d")
    return span


Text = Annotated[str, Field(max_length=16384), AfterValidator(_text)]
EnvValue = Annotated[str, Field(max_length=8192), AfterValidator(_env_value)]
RelativePath = Annotated[str, Field(max_length=1024), AfterValidator(_relative)]
PlainPath = Annotated[str, Field(max_length=1024), AfterValidator(_plain_relative)]
Prefix = Annotated[str, Field(max_length=900), AfterValidator(_prefix)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


def _repo(value: str, info: ValidationInfo) -> str:
    _text(value)
    if re.search(r"\s", value) or value.startswith("-"):
        raise ValueError("must be an address like https://github.com/OWNER/REPO.git")
    local = bool((info.context or {}).get("allow_local"))
    if local and value.startswith(("/", "file:///", "http://127.0.0.1:")):
        return value
    if re.fullmatch(r"\w[\w.-]*@\w[\w.-]*:[\w./~-]+", value):
        return value
    parts = _split(value)
    if parts.scheme not in ("https", "ssh") or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("must be an address like https://github.com/OWNER/REPO.git")
    if parts.password or (parts.scheme == "https" and parts.username):
        raise ValueError("must not hold a user name or token; store the token and name it in source.token")
    if parts.query or parts.fragment:
        raise ValueError("must have no '?' or '#'; choose branch, tag or commit with source.ref")
    return value


def _split(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - it is looked at here, where it may raise
    except ValueError:
        raise ValueError("must be an address like https://github.com/OWNER/REPO.git") from None
    return parts


def _ref(value: str) -> str:
    if value.startswith("-") or not re.fullmatch(r"[^\s~^:?*\[\\\x00-\x1f\x7f]{1,255}", value) or ".." in value:
        raise ValueError("must be a branch, a tag or a full commit hash")
    return value


Command = Annotated[str, Field(max_length=16384), AfterValidator(_command)]
Resume = Annotated[str, Field(max_length=4096), AfterValidator(_resume)]
InstanceTypes = Annotated[
    list[Annotated[str, Field(max_length=50), AfterValidator(_instance_type)]],
    Field(min_length=1, max_length=20),
    AfterValidator(_each_once),
]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Repo = Annotated[str, Field(max_length=2048), AfterValidator(_repo)]
Ref = Annotated[str, Field(max_length=255), AfterValidator(_ref)]
Key = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_text)]
