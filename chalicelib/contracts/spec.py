"""The run spec: what a person asks for, checked as a whole. YAML for people, the same as JSON for `POST /runs`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic import model_validator as model_check
from pytimeparse2 import parse as parse_duration

from chalicelib.contracts import templates
from chalicelib.contracts.fields import FieldError, money, wrong_fields
from chalicelib.contracts.names import NAME
from chalicelib.contracts.patterns import check_pattern

_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_INSTANCE_TYPE = re.compile(
    r"(?P<family>[a-z][a-z0-9-]*)\.(?P<size>nano|micro|small|medium|large|\d*xlarge|metal(-\d+xl)?)"
)
_ARM = re.compile(r"(a1|[a-z]+\d+g[a-z]*)")  # Graviton: a `g` right after the generation
_LONGEST = timedelta(days=31)
_DIRECTORY_NAMES = frozenset({"run", "attempt"})
_COMMAND_NAMES = _DIRECTORY_NAMES | {"results", "results.rel"}
_RESUME_NAMES = _COMMAND_NAMES | {"checkpoint", "checkpoint.rel"}


class SpecError(Exception):
    """A spec that can't be accepted; `fields` are all that is wrong with it."""

    def __init__(self, fields: tuple[FieldError, ...]) -> None:
        many = "1 field is" if len(fields) == 1 else f"{len(fields)} fields are"
        super().__init__(f"{many} wrong. " + " ".join(f"{f}." for f in fields))
        self.fields = fields


# -- kinds of values ---------------------------------------------------------------------------------------------------


def _text(value: str) -> str:
    if any(ord(c) < 32 and c not in "\n\t" for c in value):
        raise ValueError("has control characters")
    return value


def _relative(value: str) -> str:
    """A folder or file under the repository's root."""
    _text(value)
    unknown = templates.names(value) - _DIRECTORY_NAMES
    if unknown:
        raise ValueError(f"may name {{run}} and {{attempt}} only, not {', '.join(f'{{{u}}}' for u in sorted(unknown))}")
    place = PurePosixPath(value)
    if (
        not value
        or place.is_absolute()
        or ".." in place.parts
        or "\\" in value
        or value.startswith("~")
        or "\n" in value
    ):
        raise ValueError("must be a path under the repository's root, like 'ml/results': no '..', no '/' at its start")
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
RelativePath = Annotated[str, Field(max_length=1024), AfterValidator(_relative)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


# -- the spec ----------------------------------------------------------------------------------------------------------


def _repo(value: str, info: ValidationInfo) -> str:
    _text(value)
    if re.search(r"\s", value) or value.startswith("-"):
        raise ValueError("must be an address like https://github.com/OWNER/REPO.git")
    local = bool((info.context or {}).get("allow_local"))
    if local and (value.startswith(("/", "file:///"))):
        return value
    if re.fullmatch(r"[\w.-]+@[\w.-]+:[\w./~-]+", value):
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("https", "ssh") or not parts.hostname or not parts.path.strip("/"):
        raise ValueError("must be an address like https://github.com/OWNER/REPO.git")
    if parts.password or (parts.scheme == "https" and parts.username):
        raise ValueError("must not hold a user name or token; store the token and name it in source.token")
    if parts.query or parts.fragment:
        raise ValueError("must have no '?' or '#'; choose branch, tag or commit with source.ref")
    return value


def _ref(value: str) -> str:
    if value.startswith("-") or not re.fullmatch(r"[^\s~^:?*\[\\\x00-\x1f\x7f]{1,255}", value) or ".." in value:
        raise ValueError("must be a branch, a tag or a full commit hash")
    return value


class Source(_Part):
    repo: Annotated[str, Field(max_length=2048), AfterValidator(_repo)]
    ref: Annotated[str, AfterValidator(_ref)] = "main"
    token: SecretName | None = None


class Input(_Part):
    from_: Annotated[str, Field(alias="from", max_length=900), AfterValidator(_relative)]
    to: RelativePath


class Checkpoint(_Part):
    dir: RelativePath = "checkpoints"
    pattern: Annotated[str, Field(max_length=200), AfterValidator(check_pattern)] | None = None
    resume: Annotated[str, Field(max_length=4096), AfterValidator(_resume)] | None = None
    on_notice: Literal["SIGTERM", "SIGUSR1", "none"] = "SIGTERM"
    keep: Annotated[int, Field(ge=2, le=100)] = 3


class Results(_Part):
    dir: RelativePath = "results"
    metrics: RelativePath | None = "metrics.json"
    require: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=100)] = []

    @model_check(mode="after")
    def _required_of_something(self) -> Results:
        if self.require and self.metrics is None:
            raise ValueError("require needs results.metrics, the file that has the keys")
        return self


class Progress(_Part):
    total_steps: Annotated[int, Field(ge=1, le=10**15)] | None = None
    metrics: RelativePath | None = "progress.jsonl"


class Resources(_Part):
    instance_types: Annotated[
        list[Annotated[str, AfterValidator(_instance_type)]],
        Field(min_length=1, max_length=20),
        AfterValidator(_each_once),
    ] = [
        "c6i.xlarge",
        "c5.xlarge",
        "c5a.xlarge",
        "m6i.xlarge",
    ]
    disk_gb: Annotated[int, Field(ge=8, le=1000)] = 50
    market: Literal["spot", "on_demand"] = "spot"


class RunLimits(_Part):
    cost_usd: Annotated[Decimal, BeforeValidator(money)] = Decimal(11)
    duration: Annotated[timedelta, BeforeValidator(_duration)] = timedelta(hours=30)
    attempts: Annotated[int, Field(ge=1, le=1000)] = 50
    attempts_without_progress: Annotated[int, Field(ge=1, le=100)] = 3
    wait_for_budget: bool = False


class RunSpec(_Part):
    name: str
    source: Source
    workdir: RelativePath = "."
    docker: bool = False
    setup: Text | None = None
    command: Annotated[str, Field(max_length=16384), AfterValidator(_command)]
    inputs: Annotated[list[Input], Field(max_length=50)] = []
    env: Annotated[dict[EnvName, Annotated[str, Field(max_length=8192)]], Field(max_length=100)] = {}
    secrets: Annotated[dict[EnvName, SecretName], Field(max_length=10)] = {}
    checkpoint: Checkpoint = Checkpoint()
    results: Results = Results()
    progress: Progress = Progress()
    resources: Resources = Resources()
    limits: RunLimits = RunLimits()
    notify: Annotated[
        list[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=254)]], Field(max_length=10)
    ] = []


def parse(document: object, *, allow_local: bool = False) -> RunSpec:
    """A document (what JSON or YAML gave) as a spec. Raises SpecError naming every wrong field.

    `allow_local` accepts a folder as source.repo, for rehearsals.
    """
    if not isinstance(document, Mapping):
        raise SpecError((FieldError("(the whole)", None, "must be a mapping of keys to values"),))
    wrong: list[FieldError] = []
    spec = None
    try:
        spec = RunSpec.model_validate(dict(document), context={"allow_local": allow_local})
    except ValidationError as error:
        wrong += [_private(f) for f in wrong_fields(RunSpec, error)]
    wrong += _across(document)
    if wrong or spec is None:
        raise SpecError(tuple(wrong))
    return spec


def dump(spec: RunSpec) -> dict[str, Any]:
    """The whole spec in JSON types, defaults spelled out; `parse` gives the same spec again."""
    document = spec.model_dump(by_alias=True)
    document["limits"]["cost_usd"] = str(spec.limits.cost_usd)
    document["limits"]["duration"] = f"{int(spec.limits.duration.total_seconds())}s"
    return document


def canonical_hash(spec: RunSpec) -> str:
    """SHA-256, hex: the same for the same spec, however it was written down."""
    document = dump(spec)
    document["limits"]["cost_usd"] = f"{spec.limits.cost_usd:.2f}"
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _across(document: Mapping[str, Any]) -> list[FieldError]:
    """What no single field can tell. Looks at the document itself, so that it is found beside every other mistake."""
    wrong = []
    name = document.get("name")
    if isinstance(name, str) and not re.fullmatch(NAME, name):
        wrong.append(
            FieldError(
                "name", name[:200], "must be up to 63 of a-z, 0-9, '_' and '-', not beginning with one of the last two"
            )
        )
    env, secrets = document.get("env"), document.get("secrets")
    for kind, given in (("env", env), ("secrets", secrets)):
        for key in given if isinstance(given, Mapping) else ():
            if str(key).startswith("SPOT_RELAY_"):
                wrong.append(
                    FieldError(f"{kind}.{key}", None, "begins with SPOT_RELAY_, which is ours; choose another name")
                )
    if isinstance(env, Mapping) and isinstance(secrets, Mapping):
        for key in sorted(str(k) for k in set(env) & set(secrets)):
            wrong.append(FieldError(f"secrets.{key}", None, "is set in env as well; keep one of them"))
    return wrong


def _private(wrong: FieldError) -> FieldError:
    """Where a secret may have been written by mistake, the value is not repeated."""
    if wrong.field == "source.token" or wrong.field.startswith("secrets."):
        return FieldError(wrong.field, None, wrong.message)
    if wrong.field == "source.repo" and isinstance(wrong.value, str):
        return FieldError(wrong.field, re.sub(r"//[^@/]*@", "//[hidden]@", wrong.value), wrong.message)
    return wrong
