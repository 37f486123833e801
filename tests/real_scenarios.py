"""Lives in which every call that the controller can make is made: each says what happens in it, and what must come of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from chalicelib import files, money, people
from chalicelib.contracts.money import BudgetChange
from chalicelib.core.model import Status
from tests.controlled import ME, SPEC
from tests.real_life import Life, Scenario
from tests.sim.ec2 import MINUTE

_EVE = datetime(2026, 11, 30, 22, 50, tzinfo=UTC)
_KNOWN, _NEW = "known@example.com", "new@example.com"


def _ask(life: Life, what: str) -> bool:
    return life.asked(lambda: people.ask(life.c, life.name, what, ME))


def _warned(life: Life) -> None:
    life.once("warn", life.step(1) >= 120, lambda: life.warn(1))


def _cancelled(life: Life) -> None:
    life.once("cancel", life.step(1) >= 120, lambda: _ask(life, "cancel"))


def _subscribed(life: Life) -> None:
    life.clients["sns"].subscribe(
        TopicArn=life.settings.topic_arn,
        Protocol="email",
        Endpoint=_KNOWN,
        Attributes={"FilterPolicy": '{"run": ["another"]}'},
        ReturnSubscriptionArn=True,
    )


def _filters(life: Life) -> dict[str, str]:
    sns = life.clients["sns"]
    found = sns.list_subscriptions_by_topic(TopicArn=life.settings.topic_arn)["Subscriptions"]
    return {
        s["Endpoint"]: sns.get_subscription_attributes(SubscriptionArn=s["SubscriptionArn"])["Attributes"][
            "FilterPolicy"
        ]
        for s in found
    }


def _told_of_the_run(life: Life) -> bool:
    filters = _filters(life)
    return len(filters) == 2 and all(life.name in runs for runs in filters.values())


def _silent(life: Life) -> None:
    def falls_silent() -> None:
        agent = life.agent(1)
        assert agent
        agent.silent = True

    life.once("silent", life.step(1) >= 120, falls_silent)


def _littered(life: Life) -> None:
    stage = life.settings.stage
    life.ec2.appear(stage=stage, run="nobody", attempt="1")
    life.ec2.appear(stage=stage, run=life.name, attempt="7")
    life.ec2.appear()
    life.ec2.volumes["vol-1"] = life.clock.now


def _stored(life: Life) -> None:
    """What another run has left; and an upload that nobody completes, which is charged as well."""
    s3, there = life.clients["s3"], {"Bucket": life.settings.bucket, "Key": "runs/another/model.pt"}
    for n in range(8):
        s3.put_object(Bucket=life.settings.bucket, Key=f"runs/another/results/{n}", Body=b"weights")
    upload = s3.create_multipart_upload(**there)["UploadId"]
    s3.upload_part(**there, UploadId=upload, PartNumber=1, Body=b"weights")


def _poor(life: Life) -> None:
    life.ec2.refusals = ["InsufficientInstanceCapacity"]


def _look_around(life: Life) -> None:
    """A person reads whatever can be read."""
    c, name = life.c, life.name
    money.budget(c)
    people.list_runs(c, {})
    for read in (people.events, people.checkpoints, people.ledger, files.results, files.logs):
        read(c, name, {})
    files.logs(c, name, {"tail": "true"})


def _given_money(life: Life) -> None:
    enough = BudgetChange.model_validate({"limit_usd": 20})
    run, status = life.run, life.run.status if life.run else None
    queued = run is not None and status is Status.QUEUED and bool(run.reason == "budget")
    life.once("money", queued, lambda: life.asked(lambda: money.set_limit(life.c, enough, ME)))
    if life.step(1) >= 60:
        life.once("log", True, lambda: life.put("logs/0001/000000000000.log", b"training\n" * 10_000))
        life.once("look", True, lambda: life.asked(lambda: _look_around(life)))
    life.once("suspend", life.step(1) >= 120, lambda: _ask(life, "suspend"))
    life.once("resume", status is Status.SUSPENDED, lambda: _ask(life, "resume"))


def _vanishes(life: Life) -> None:
    def goes() -> None:
        agent = life.agent(1)
        assert agent
        life.ec2.end(agent.machine, "Server.InternalError")

    life.once("goes", life.step(1) >= 120, goes)


def _forsaken(life: Life) -> None:
    """The controller is gone, and an agent that hangs is ended by Scheduler alone, at the end of a lease over two months."""
    left = life.clock.now - _EVE

    def goes() -> None:
        agent = life.agent(1)
        assert agent
        agent.silent = life.away = True

    def comes_back() -> None:
        life.away = False

    life.once("goes", left >= 30 * MINUTE, goes)
    life.once("comes back", left >= 90 * MINUTE, comes_back)


def _broken(life: Life) -> None:
    """A run that can't be read: each pass of the sweep looks at it first, and has no time for another."""
    item: dict[str, Any] = {"pk": {"S": "RUN#broken"}, "sk": {"S": "RUN"}, "live": {"S": "broken"}}
    life.clients["dynamodb"].put_item(TableName=life.settings.table, Item=item)


_MAILED = {"a mail of its success": lambda life: "succeeded" in life.mails()}

SCENARIOS = (
    Scenario("warned", _warned, wants=_MAILED),
    Scenario(
        "cancelled",
        _cancelled,
        _subscribed,
        wants={"what notify asks for": _told_of_the_run},
        spec={"notify": [_KNOWN, _NEW]},
        ends="CANCELLED",
    ),
    Scenario(
        "silent",
        _silent,
        _littered,
        wants=_MAILED | {"a mail of a stray": lambda life: "ended" in life.mails()},
        settings={"guard": "account"},
        tick=timedelta(seconds=30),
    ),
    Scenario(
        "long",
        prepares=_stored,
        wants=_MAILED,
        spec={"checkpoint": {**SPEC["checkpoint"], "keep": 2}},
        tick=MINUTE,
        most=110 * MINUTE,
        keys=6,
        steps=32 * 60,
        saved=4 * 60,
    ),
    Scenario(
        "poor",
        _given_money,
        _poor,
        wants=_MAILED | {"a mail of the limit": lambda life: "limit" in life.mails()},
        spec={"limits": {"wait_for_budget": True}},
        settings={"limit_usd": Decimal("0.05")},
    ),
    Scenario(
        "sliced",
        _vanishes,
        _broken,
        wants=_MAILED,
        spec={"resources": {"instance_types": ["c6i.xlarge"], "market": "on_demand"}},
        sliced=True,
        events=False,
    ),
    Scenario(
        "forsaken",
        _forsaken,
        wants=_MAILED,
        begins=_EVE,
        tick=MINUTE,
        most=180 * MINUTE,
        steps=48 * 60,
        saved=4 * 60,
    ),
)
