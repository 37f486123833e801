"""What a deploy would make, worked out from the template and the application: nothing is changed, and little is asked.

In: stage, region and what was given. Out: a `Plan`, to be printed. Without credentials the account's number is left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from spotrelay import bundle
from spotrelay.deploying import application, finish, settings, template
from spotrelay.deploying.stack import ROOT, Resources, stack_name, user_data

OPEN = "<account>"
_SECONDARY = ("UserData", "VpcId", "ApiId")


@dataclass(frozen=True)
class Plan:
    """`resources`, `functions` and `after` are rows to show; `parameters` and `environment` have their values."""

    stage: str
    region: str
    account: str
    stack: str
    bucket: str
    parameters: Mapping[str, str]
    resources: tuple[template.Resource, ...]
    functions: tuple[tuple[str, str], ...]
    routes: tuple[str, ...]
    environment: Mapping[str, str]
    after: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make(
    stage: str,
    region: str,
    account: str | None,
    bucket: tuple[str, Mapping[str, str]],
    limit_usd: str | None,
    parameters: Mapping[str, str],
) -> Plan:
    """`bucket` is its name and the parameters that choose it; `limit_usd` None keeps the one there is."""
    ours = template.load()
    name, chosen = bucket
    values = {**template.defaults(ours), **chosen, **parameters, "Stage": stage}
    known = {
        **values,
        "AWS::Region": region,
        "AWS::AccountId": account or OPEN,
        "AWS::Partition": "aws",
    }
    shown = {k: v for k, v in sorted(values.items()) if not k.startswith(_SECONDARY)}
    made = Resources(**{f.name: template.output(ours, known, f.name) for f in fields(Resources)})
    environment = settings.environment(stage, made, bundle.build()[1], limit_usd or settings.DEFAULT_LIMIT_USD, {})
    user_data((ROOT / "userdata/boot.sh").read_bytes())  # refused here, not in the middle
    called = application.functions()
    return Plan(
        stage=stage,
        region=region,
        account=account or OPEN,
        stack=stack_name(stage),
        bucket=name,
        parameters=shown,
        resources=tuple(template.resources(ours, known)),
        functions=tuple((each.name(stage), each.called_by) for each in called),
        routes=tuple(application.routes()),
        environment={**environment, "API_URL": "(known after the first deploy)"},
        after=_after(called, limit_usd),
    )


def _after(called: list[application.Function], limit_usd: str | None) -> tuple[str, ...]:
    events = [each.handler for each in called if each.handler != application.API_HANDLER]
    ages = ", ".join(f"{name} {finish.event_age_s(name) // 60} min" for name in events)
    limit = (f"PUT /budget: {limit_usd} USD a month, where another limit holds",) if limit_usd else ()
    return (
        *limit,
        f"retries of events: {finish.RETRIES}, then the queue of failed events; given up after: {ages}",
        f"logs of the functions kept {finish.LOGS_KEPT_DAYS} days",
        f"API throttled to {finish.RATE_PER_S} requests a second (burst {finish.BURST})",
        f"service-linked role {finish.SPOT_SERVICE}, unless the account has it",
    )
