"""What was found out about a deployment. Plain data: times are UTC, spans are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias, TypeVar


@dataclass(frozen=True)
class Unknown:
    """It could not be asked; `why` in AWS's own words."""

    why: str


T = TypeVar("T")
Known: TypeAlias = T | Unknown


@dataclass(frozen=True)
class Identity:
    """`skew_s`: this machine's clock minus AWS's; None when AWS's answer had no date."""

    account: str
    arn: str
    skew_s: float | None


@dataclass(frozen=True)
class Stack:
    status: str
    failures: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Network:
    """The default VPC, None when the region has none, and the zones in which it has a default subnet."""

    vpc: str | None
    zones: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """`status` is None when there is no such table."""

    name: str
    status: str | None
    recoverable: bool


@dataclass(frozen=True)
class Bucket:
    name: str
    reachable: bool
    private: bool
    tls_only: bool
    versioned: bool
    cleans_up: bool
    has_agent: bool


@dataclass(frozen=True)
class Function:
    """A deployed function. `retries` and `failed_to` are None where nothing was set; `enabled` says whether its rules fire.

    `role` is the name of the role it runs as.
    """

    handler: str
    environment: Mapping[str, str]
    called_by_events: bool
    enabled: bool
    retries: int | None
    failed_to: str | None
    logs_kept_days: int | None
    role: str


@dataclass(frozen=True)
class Api:
    """`ids`: APIs whose routes call the stage's functions. `status`: what a signed GET /budget answered, None for no answer."""

    ids: tuple[str, ...]
    status: int | None
    rate_per_s: float | None


@dataclass(frozen=True)
class Sweep:
    """`age_s` since it last logged, None when it did not within the last quarter of an hour; `failed_events` are in the queue."""

    age_s: float | None
    failed_events: int


@dataclass(frozen=True)
class Token:
    """The GitHub token. `asked`: whether GitHub was; `valid` and `expires_at` are then its answer (no date: it never expires)."""

    name: str
    stored: bool
    named: bool
    asked: bool = False
    valid: bool | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Mail:
    """Addresses that the topic tells, and those that have not confirmed."""

    confirmed: tuple[str, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True)
class Quota:
    """vCPUs that Spot may have at once, and those of one instance."""

    vcpus: float
    instance_type: str
    per_instance: int


@dataclass(frozen=True)
class Facts:
    """`here` is what this checkout would deploy: the agent's hash and the functions' handlers."""

    stage: str
    region: str
    now: datetime
    agent_sha256: str
    handlers: tuple[str, ...]
    identity: Known[Identity]
    stack: Known[Stack | None]
    network: Known[Network]
    image: Known[str]
    table: Known[Table]
    bucket: Known[Bucket]
    functions: Known[tuple[Function, ...]]
    api: Known[Api]
    sweep: Known[Sweep]
    token: Known[Token]
    mail: Known[Mail | None]
    quota: Known[Quota]
    spot_role: Known[bool]
