"""Whether a run may start, and what it would cost: gathered once, judged by pure functions, told with every number.

A plan and a submission see the same: what a plan says would happen is what a submission does. The launch's own reservation is
what holds; this only answers sooner, and shows the cost before it is spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from chalicelib.contracts import spec as specs
from chalicelib.contracts.errors import ApiError
from chalicelib.core import calendar, leases
from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Policy
from chalicelib.core.money import ZERO, rates_in, up
from chalicelib.pools import Priced, PriceUnknown
from chalicelib.quota import increase

if TYPE_CHECKING:
    from chalicelib.controller import Controller

_SECONDS = Decimal(3600)


@dataclass(frozen=True)
class Facts:
    """What a judgement rests on. `quota` and `vcpus` are None and empty when AWS does not say.

    `open_runs` are those without an end, of which there may be `most_runs`.
    """

    pools: tuple[Priced, ...]
    month: str
    account: Mapping[str, Decimal]
    turns_at: datetime
    quota: int | None
    vcpus: Mapping[str, int]
    open_runs: int = 0
    most_runs: int = 100


@dataclass(frozen=True)
class Judgement:
    """`would` is `launch`, `queue`, `refuse` or, for a run that is there already, `nothing`.

    `status` and `code` are those of the answer that refuses.
    """

    would: str
    message: str
    numbers: Mapping[str, Any]
    status: int = 201
    code: str = ""
    warnings: tuple[str, ...] = ()

    def refuse(self) -> None:
        """Raises ApiError when the run may not start."""
        if self.would == "refuse":
            raise ApiError(self.status, self.code, self.message, **self.numbers)


def gather(c: Controller, spec: specs.RunSpec) -> Facts:
    """Raises ApiError 503 when no price is known."""
    types, market = list(spec.resources.instance_types), spec.resources.market
    try:
        pools = c.priced(types, market)
    except PriceUnknown as error:
        raise ApiError(503, "price_unknown", str(error)) from error
    now = c.clock()
    month = calendar.month(now, c.policy)
    account = c.store.ledger.month(month)
    turns = calendar.turn(now, c.policy)
    quota, vcpus = c.quotas.limit(market), c.quotas.vcpus(types)
    return Facts(pools, month, account, turns, quota, vcpus, c.store.count_live(), c.settings.max_open_runs)


def judge(spec: specs.RunSpec, facts: Facts, now: datetime, policy: Policy) -> Judgement:
    """What would become of the run now."""
    numbers = cost(spec, facts, now, policy)
    first, limit, free = Decimal(numbers["first_lease_usd"]), spec.limits.cost_usd, facts.account["free"]
    warnings = _warnings(spec, facts, numbers)
    if facts.open_runs >= facts.most_runs:
        said = (
            f"{facts.open_runs} runs have not ended, and {facts.most_runs} may be open at once: cancel some, or raise "
            "MAX_OPEN_RUNS (spotrelay deploy --max-open-runs)."
        )
        more = {**numbers, "open_runs": facts.open_runs, "max_open_runs": facts.most_runs}
        return Judgement("refuse", said, more, 409, "too_many_runs", warnings)
    needs, quota = min(facts.vcpus.values(), default=0), facts.quota
    if quota is not None and needs > quota:
        command = increase(spec.resources.market, 2 * needs)
        said = f"The account may run {quota} vCPU at once, and the smallest of these types has {needs}. Ask for more: {command}"
        return Judgement("refuse", said, numbers, 409, "quota", warnings)
    if first > limit:
        said = f"The first lease costs up to {first} USD, more than limits.cost_usd allows ({limit} USD)."
        return Judgement("refuse", said, numbers, 402, "run_budget", warnings)
    if first > free:
        said = f"The first lease costs up to {first} USD, and {free:.6f} USD of {facts.month} are free"
        if spec.limits.wait_for_budget:
            return Judgement("queue", f"{said}: the run waits until there is money.", numbers, warnings=warnings)
        hint = "raise the limit (PUT /budget), or set limits.wait_for_budget to wait for the money."
        return Judgement("refuse", f"{said}: {hint}", numbers, 402, "budget", warnings)
    expected = f"about {numbers['expected_usd']} USD for {numbers['expected_hours']} h"
    return Judgement("launch", f"It is launched at once; expected: {expected}.", numbers, warnings=warnings)


def cost(spec: specs.RunSpec, facts: Facts, now: datetime, policy: Policy) -> dict[str, Any]:
    """Every number of a judgement, decimal text in USD.

    Expected is what limits.duration costs at today's cheapest price, or all of limits.cost_usd when that ends sooner.
    """
    disk = spec.resources.disk_gb
    hourly = rates_in(facts.pools[0].quote.usd_hour, disk, now, now, policy).total
    highest = max(p.offer.max_price for p in facts.pools)
    lease = leases.first(now, 1, highest, disk, policy)
    expected = min(_whole(spec, hourly), spec.limits.cost_usd)
    return {
        "first_lease_usd": str(lease.reserved),
        "hourly_usd": str(hourly),
        "hourly_at_cap_usd": str(lease.rate),
        "expected_usd": f"{expected:.2f}",
        "expected_hours": _hours(expected, hourly),
        "limit_usd": str(spec.limits.cost_usd),
        "month": facts.month,
        "account": {f"{name}_usd": f"{usd:.6f}" for name, usd in facts.account.items()},
        "month_covers_hours": _hours(facts.account["free"], hourly),
    }


def plan(spec: specs.RunSpec, facts: Facts, judged: Judgement) -> dict[str, Any]:
    """The answer to `POST /runs?plan=true`."""
    needs = min(facts.vcpus.values(), default=None)
    overlap = None if facts.quota is None or needs is None else facts.quota >= 2 * needs
    return {
        "run": spec.name,
        "would": judged.would,
        "message": judged.message,
        "warnings": list(judged.warnings),
        "cost": dict(judged.numbers),
        "pools": [
            {
                "pool": p.offer.pool,
                "usd_hour": str(p.quote.usd_hour),
                "cap_usd_hour": str(p.offer.max_price),
                "source": p.quote.source,
                "at": p.quote.at.isoformat(),
            }
            for p in facts.pools
        ],
        "quota": {"vcpus": facts.quota, "needs": needs, "overlap": overlap},
    }


def _warnings(spec: specs.RunSpec, facts: Facts, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    found = []
    needs = min(facts.vcpus.values(), default=None)
    if facts.quota is None:
        found.append(
            "AWS does not say how many vCPU the account may run: a replacement may have to wait for its place."
        )
    elif needs is not None and facts.quota < 2 * needs:
        command = increase(spec.resources.market, 2 * needs)
        found.append(
            f"No overlap: quota {facts.quota} vCPU, needs {2 * needs}. A replacement starts when its predecessor is gone. "
            f"Ask for more: {command}"
        )
    if Decimal(numbers["expected_usd"]) > facts.account["free"] > ZERO:
        found.append(
            f"{facts.month} has {facts.account['free']:.2f} USD left, for {numbers['month_covers_hours']} h of it; then the "
            f"run is suspended and goes on at {facts.turns_at:%Y-%m-%d %H:%M} UTC."
        )
    if _whole(spec, Decimal(numbers["hourly_usd"])) > spec.limits.cost_usd:
        found.append(f"limits.cost_usd ends before limits.duration: it pays for {numbers['expected_hours']} h.")
    return tuple(found)


def _whole(spec: specs.RunSpec, hourly: Decimal) -> Decimal:
    """What all of limits.duration costs."""
    return up(hourly * calendar.seconds(spec.limits.duration) / _SECONDS)


def _hours(usd: Decimal, hourly: Decimal) -> str:
    return f"{usd / hourly:.1f}" if hourly > 0 else "0.0"
