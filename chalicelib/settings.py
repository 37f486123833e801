"""The controller's settings: environment variables that deploying writes, read once per Lambda."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal, InvalidOperation

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy


class NotConfigured(Exception):
    """A setting is missing or can't be understood; the message names it and what would be right."""


@dataclass(frozen=True)
class Settings:
    """The functions' environment, read and checked (docs/architecture.md)."""

    stage: str
    table: str
    bucket: str
    launch_template: str
    run_role_arn: str
    agent_sha256: str
    api_url: str
    limit_usd: Decimal
    topic_arn: str
    log_group: str
    max_open_runs: int = 100  # runs without an end; a submission beyond them is refused
    guard: str = "own"  # "account": instances of others in the account are ended, too
    time_scale: float = 1.0  # below 1 only in a rehearsal
    month_shift_s: float = 0.0  # not 0 only in a rehearsal
    allow_local: bool = False  # whether source.repo may be a folder; only in a rehearsal

    @property
    def policy(self) -> Policy:
        return replace(Policy().scaled(self.time_scale), month_shift=timedelta(seconds=self.month_shift_s))

    @property
    def account(self) -> str:
        """The AWS account, from the run role's ARN (arn:aws:iam::<account>:role/<name>)."""
        return self.run_role_arn.split(":")[4]

    @property
    def scheduler_role_arn(self) -> str:
        """What EventBridge Scheduler acts as when it ends an instance."""
        return self.run_role_arn.removesuffix("-run") + "-scheduler"

    @property
    def schedule_group(self) -> str:
        return f"spot-relay-{self.stage}"

    @property
    def sweep(self) -> str:
        """The name of the sweep's function, as Chalice makes it."""
        return f"spot-relay-{self.stage}-sweep"

    @property
    def instance_role(self) -> str:
        return f"spot-relay-{self.stage}-instance"

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Settings:
        """Raises NotConfigured."""

        def need(name: str) -> str:
            value = env.get(name, "")
            if not value:
                raise NotConfigured(f"The environment variable {name} is not set: run make deploy, which writes it.")
            return value

        try:
            limit = Decimal(need("LIMIT_USD"))
            most = int(env.get("MAX_OPEN_RUNS") or 100)
            scale, shift = float(env.get("TIME_SCALE") or 1), float(env.get("MONTH_SHIFT_S") or 0)
        except (InvalidOperation, ValueError) as error:
            raise NotConfigured(
                f"LIMIT_USD, MAX_OPEN_RUNS, TIME_SCALE and MONTH_SHIFT_S must be numbers: {error}"
            ) from error
        if not 1 <= most <= 100_000:
            raise NotConfigured(f"MAX_OPEN_RUNS is {most}; it must be from 1 to 100000.")
        guard = env.get("GUARD") or "own"
        if guard not in ("own", "account"):
            raise NotConfigured(f"GUARD is {guard!r}; it must be own or account.")
        if not need("RUN_ROLE_ARN").startswith("arn:"):
            raise NotConfigured("RUN_ROLE_ARN must be the ARN of a role.")
        return cls(
            stage=need("STAGE"),
            table=need("TABLE"),
            bucket=need("BUCKET"),
            launch_template=need("LAUNCH_TEMPLATE"),
            run_role_arn=need("RUN_ROLE_ARN"),
            agent_sha256=need("AGENT_SHA256"),
            api_url=need("API_URL").rstrip("/"),
            limit_usd=limit,
            topic_arn=env.get("TOPIC_ARN", ""),
            log_group=env.get("LOG_GROUP", ""),
            max_open_runs=most,
            guard=guard,
            time_scale=scale,
            month_shift_s=shift,
            allow_local=env.get("ALLOW_LOCAL_SOURCE") == "1",
        )
