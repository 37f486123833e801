"""The API's shapes about money: the month's budget, a run's ledger, and what a plan would cost. Decimal text in USD."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator

from chalicelib.contracts.api import Answer, Request, Usd
from chalicelib.contracts.fields import money


class RunMoney(Answer):
    run: str
    settled_usd: Usd
    reserved_usd: Usd


class StorageMoney(Answer):
    """What the bucket costs this month: settled by the day, reserved until the month's end. `short_usd` of it found no money
    in the month: nothing else gets any before."""

    bytes: int
    settled_usd: Usd
    reserved_usd: Usd
    short_usd: Usd
    measured_at: datetime


class ForeignInstance(Answer):
    instance_id: str
    instance_type: str
    launched_at: datetime
    protected: bool
    usd_hour: Usd | None
    usd: Usd


class UnmanagedMoney(Answer):
    """Estimated spend of this month's instances that are not ours. `guard: account` ends them.

    `instances` are the dearest that run; `unnamed` says how many more run, and `unnamed_usd` what these have cost. `usd` has all,
    those that are gone included.
    """

    guard: Literal["own", "account"]
    usd: Usd
    instances: list[ForeignInstance]
    unnamed: int
    unnamed_usd: Usd


class Act(Answer):
    at: datetime
    kind: str
    message: str
    run: str | None


class Budget(Answer):
    """`forecast_usd`: what the month will have cost if what runs goes on."""

    month: str
    turns_at: datetime
    limit_usd: Usd
    settled_usd: Usd
    reserved_usd: Usd
    free_usd: Usd
    forecast_usd: Usd
    runs: list[RunMoney]
    storage: StorageMoney | None
    unmanaged: UnmanagedMoney
    acts: list[Act]


class BudgetChange(Request):
    """`limit_usd` is the limit of this month and of all to come."""

    limit_usd: Annotated[Decimal, BeforeValidator(money)]


class RatesView(Answer):
    """USD per hour."""

    instance: Usd
    disk: Usd
    address: Usd


class LineView(Answer):
    """A lease as the ledger has it. While it is reserved there are no rates: `usd` is at the price cap."""

    entry: Literal["reserved", "settled", "credit"]
    attempt: int
    seq: int
    pool: str | None
    start: datetime
    end: datetime
    seconds: float
    rates_usd_hour: RatesView | None
    source: str | None
    usd: Usd


class LedgerView(Answer):
    run: str
    free_usd: Usd
    reserved_usd: Usd
    settled_usd: Usd
    lines: list[LineView]
    cursor: str | None


class PlannedCost(Answer):
    first_lease_usd: Usd
    hourly_usd: Usd
    hourly_at_cap_usd: Usd
    expected_usd: Usd
    expected_hours: str
    limit_usd: Usd
    month: str
    account: dict[str, Usd]
    month_covers_hours: str


class PlannedPool(Answer):
    pool: str
    usd_hour: Usd
    cap_usd_hour: Usd
    source: str
    at: datetime


class PlannedQuota(Answer):
    """vCPU. `overlap`: whether a replacement can start while its predecessor is there; None: AWS does not say."""

    vcpus: int | None
    needs: int | None
    overlap: bool | None


class Plan(Answer):
    run: str
    would: Literal["launch", "queue", "refuse", "nothing"]
    message: str
    warnings: list[str]
    cost: PlannedCost
    pools: list[PlannedPool]
    quota: PlannedQuota
