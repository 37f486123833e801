"""The run spec: what a person asks for, checked as a whole. YAML for people, the same as JSON for `POST /runs`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_validator as model_check

from chalicelib.contracts.fields import FieldError, money, wrong_fields
from chalicelib.contracts.kinds import (
    Command,
    Duration,
    EnvName,
    EnvValue,
    InstanceTypes,
    Key,
    PlainPath,
    Prefix,
    Ref,
    RelativePath,
    Repo,
    Resume,
    SecretName,
    Text,
)
from chalicelib.contracts.names import is_run_name
from chalicelib.contracts.patterns import check_pattern
from chalicelib.contracts.secretlike import HIDDEN, hide, secrets_in

# Keys that are none of ours, under which somebody may have put a secret.
_TELLING = re.compile(r"token|secret|passw|credential|api_?key", re.IGNORECASE)


class SpecError(Exception):
    """A spec that can't be accepted; `fields` are all that is wrong with it."""

    def __init__(self, fields: tuple[FieldError, ...]) -> None:
        many = "1 field is" if len(fields) == 1 else f"{len(fields)} fields are"
        super().__init__(f"{many} wrong. " + " ".join(f"{f}." for f in fields))
        self.fields = fields


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


# -- the spec ----------------------------------------------------------------------------------------------------------


class Source(_Part):
    repo: Repo
    ref: Ref = "main"
    token: SecretName | None = None


class Input(_Part):
    from_: Annotated[Prefix, Field(alias="from")]
    to: PlainPath


class Checkpoint(_Part):
    dir: RelativePath = "checkpoints"
    pattern: Annotated[str, Field(max_length=200), AfterValidator(check_pattern)] | None = None
    resume: Resume | None = None
    on_notice: Literal["SIGTERM", "SIGUSR1", "none"] = "SIGTERM"
    keep: Annotated[int, Field(ge=2, le=100)] = 3


class Results(_Part):
    dir: RelativePath = "results"
    metrics: PlainPath | None = "metrics.json"
    require: Annotated[list[Key], Field(max_length=100)] = []

    @model_check(mode="after")
    def _required_of_something(self) -> Results:
        if self.require and self.metrics is None:
            raise ValueError("require needs results.metrics, the file that has the keys")
        return self


class Progress(_Part):
    total_steps: Annotated[int, Field(ge=1, le=10**15)] | None = None
    metrics: PlainPath | None = "progress.jsonl"


class Resources(_Part):
    instance_types: InstanceTypes = [
        "c6i.xlarge",
        "c5.xlarge",
        "c5a.xlarge",
        "m6i.xlarge",
    ]
    disk_gb: Annotated[int, Field(ge=8, le=1000)] = 50
    market: Literal["spot", "on_demand"] = "spot"


class RunLimits(_Part):
    cost_usd: Annotated[Decimal, BeforeValidator(money)] = Decimal(11)
    duration: Duration = timedelta(hours=30)
    attempts: Annotated[int, Field(ge=1, le=1000)] = 50
    attempts_without_progress: Annotated[int, Field(ge=1, le=100)] = 3
    wait_for_budget: bool = False


class RunSpec(_Part):
    name: str
    source: Source
    workdir: PlainPath = "."
    docker: bool = False
    setup: Text | None = None
    command: Command
    inputs: Annotated[list[Input], Field(max_length=50)] = []
    env: Annotated[dict[EnvName, EnvValue], Field(max_length=100)] = {}
    secrets: Annotated[dict[EnvName, SecretName], Field(max_length=10)] = {}
    aws_credentials: bool = False
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
    named = {f.field for f in wrong}
    wrong += [found for found in secrets_in(document) if found.field not in named]
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
    if isinstance(name, str) and not is_run_name(name):
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
    owner, _, name = wrong.field.partition(".")
    value = wrong.value
    if owner in ("env", "secrets") or (owner == "source" and name not in ("repo", "ref")):
        value = None
    elif _TELLING.search(wrong.field):
        value = HIDDEN
    elif isinstance(value, str):
        value = hide(re.sub(r"//[^@/]*@", f"//{HIDDEN}@", value) if wrong.field == "source.repo" else value)
    return FieldError(hide(wrong.field), value, wrong.message)
