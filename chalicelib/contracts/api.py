"""The shapes of the API's requests and answers; those about money are in `money`. Times are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from chalicelib.contracts.errors import ApiError
from chalicelib.contracts.fields import money, wrong_fields

StepNumber = Annotated[int, Field(ge=0, lt=10**12)]
AttemptNumber = Annotated[int, Field(ge=1, le=9999)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Message = Annotated[str, Field(max_length=2000)]
Usd = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
_DEEPEST = 20


def _not_too_deep(value: dict[str, Any]) -> dict[str, Any]:
    left: list[tuple[Any, int]] = [(value, 1)]
    while left:
        each, depth = left.pop()
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        if inside and depth > _DEEPEST:
            raise ValueError(f"is nested more than {_DEEPEST} deep")
        left += [(one, depth + 1) for one in inside]
    return value


Metrics = Annotated[dict[str, Any], Field(max_length=200), AfterValidator(_not_too_deep)]

# An agent's word for what it does now.
AgentPhase = Literal["boot", "source", "setup", "wait", "restore", "train", "save", "upload"]
# What an agent may say ended its attempt; a subset of the controller's reasons.
ExitReason = Literal[
    "done",
    "exit_code",
    "metrics_missing",
    "command",
    "source",
    "checkpoint_dir",
    "boot_failed",
    "spot_interruption",
    "instance_ended",
    "lease_end",
    "handoff",
    "superseded",
    "budget",
    "run_budget",
    "max_duration",
    "no_progress",
    "max_attempts",
    "lost_contact",
    "launch_refused",
    "user",
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# -- errors --------------------------------------------------------------------------------------------------------------


class WrongField(Answer):
    field: str
    value: Any
    message: str


class ErrorDetail(BaseModel):
    """Beside these, an error may carry numbers of its own (`retry_in_s`, amounts in USD)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    code: str
    message: str
    fields: list[WrongField]


class ErrorBody(Answer):
    error: ErrorDetail


# -- people --------------------------------------------------------------------------------------------------------------


class AttemptView(Answer):
    attempt: int
    phase: str
    instance_id: str | None
    pool: str | None
    started_at: datetime | None
    ended_at: datetime | None
    ended_by: str | None
    exit_code: int | None
    from_step: int | None
    step: int | None
    notice_ends_at: datetime | None
    cost_usd: Usd
    reserved_usd: Usd


class LimitsView(Answer):
    cost_usd: Usd
    duration_s: int
    attempts: int
    attempts_without_progress: int


class RunView(Answer):
    """`spec`, `metrics`, `commit` and the last heartbeat are given with a single run only."""

    name: str
    status: str
    reason: str
    message: str
    created_at: datetime
    created_by: str
    deadline: datetime | None
    baton: int | None
    attempts: list[AttemptView]
    step: int | None
    total_steps: int | None
    metrics: dict[str, Any] | None
    last_heartbeat_at: datetime | None
    commit: str | None
    results: str | None
    cost_usd: Usd
    reserved_usd: Usd
    limits: LimitsView
    spec: dict[str, Any] | None


class RunList(Answer):
    """`unreadable` are names of runs whose record can't be read, whatever their status."""

    runs: list[RunView]
    unreadable: list[str]
    cursor: str | None


class EventView(Answer):
    at: datetime
    status: str
    reason: str
    message: str
    attempt: int | None


class EventList(Answer):
    events: list[EventView]
    cursor: str | None


class CheckpointView(Answer):
    attempt: int
    step: int
    prefix: str
    counts: bool


class CheckpointList(Answer):
    checkpoints: list[CheckpointView]
    cursor: str | None


class ResumeRequest(Request):
    """`cost_usd` raises limits.cost_usd."""

    cost_usd: Annotated[Decimal, BeforeValidator(money)] | None = None


# -- agents --------------------------------------------------------------------------------------------------------------


class CheckpointRef(Request):
    attempt: AttemptNumber
    step: StepNumber


class ClaimRequest(Request):
    """`ready`: could restore at once. `torn`: checkpoints that were offered and are not whole."""

    ready: bool
    torn: Annotated[list[CheckpointRef], Field(max_length=100)] = []


class Credentials(Answer):
    access_key_id: str
    secret_access_key: str
    session_token: str
    expiration: datetime


class SecretNames(Answer):
    """Names of SSM parameters, never values."""

    token: str | None
    env: dict[str, str]


class _Leased(Answer):
    lease_end: datetime | None = None
    lease_s: float | None = None
    heartbeat_s: float | None = None


class Offered(Answer):
    attempt: int
    step: int
    prefix: str


class ClaimAnswer(_Leased):
    """Which fields there are depends on `action`: the work with `prepare`, `retry_in_s` with `wait`, checkpoints with
    `restore` (`older` are to be tried in order should `checkpoint` be torn)."""

    action: Literal["prepare", "wait", "restore", "superseded", "stop"]
    reason: str
    message: str
    run: str | None = None
    attempt: int | None = None
    spec: dict[str, Any] | None = None
    bucket: str | None = None
    prefix: str | None = None
    commit: str | None = None
    source: str | None = None
    secrets: SecretNames | None = None
    credentials: Credentials | None = None
    command_credentials: Credentials | None = None
    log_group: str | None = None
    retry_in_s: float | None = None
    checkpoint: Offered | None = None
    older: list[Offered] = []


class PublishedCheckpoint(Request):
    step: StepNumber
    bytes: Annotated[int, Field(ge=0, lt=10**18)]
    final: bool = False


class HeartbeatRequest(Request):
    """`lease_end` is the lease the agent knows of; when it is not the one that stands, credentials come with the answer."""

    phase: AgentPhase
    step: StepNumber | None = None
    metrics: Metrics = {}
    commit: Commit | None = None
    checkpoint: PublishedCheckpoint | None = None
    notice_at: datetime | None = None
    lease_end: Annotated[str, Field(max_length=64)] | None = None


class HeartbeatAnswer(_Leased):
    action: Literal["continue", "drain", "stop", "superseded"]
    reason: str
    message: str
    credentials: Credentials | None = None
    command_credentials: Credentials | None = None


class ExitResults(Request):
    prefix: Annotated[str, Field(max_length=1024)]
    metrics: Metrics | None = None
    found: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=1000)] = []
    missing: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=1000)] = []


class ExitRequest(Request):
    code: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    reason: ExitReason
    message: Message
    step: StepNumber | None = None
    drained: bool = False
    results: ExitResults | None = None


class ExitAnswer(Answer):
    """`linger_s`: how long to wait for EC2 to end the instance before powering off."""

    linger_s: float


Body = TypeVar("Body", bound=BaseModel)


def validate_request(model: type[Body], body: object) -> Body:
    """The body as this model. Raises ApiError 400 naming every wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        fields = wrong_fields(model, error)
        raise ApiError(400, "bad_request", " ".join(f"{f}." for f in fields), [f.as_dict() for f in fields]) from error
