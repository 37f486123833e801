"""Around the runs: instances of others are shown, and ended only under guard; thresholds are told once each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from chalicelib import housekeeping, money
from chalicelib.core import calendar
from chalicelib.instances import Instance
from chalicelib.store import Store
from chalicelib.sweep import Report
from tests.controlled import Deployed
from tests.core_world import POLICY, START
from tests.hooks import answers

HOUR = timedelta(hours=1)
OLD = Instance("i-0000000a", "running", "", 0, START - 2 * HOUR, instance_type="c6i.xlarge")
KEPT = replace(OLD, instance_id="i-0000000b", protected=True)
YOUNG = replace(OLD, instance_id="i-0000000c", launched_at=START - timedelta(minutes=5))


@pytest.fixture
def stage(store: Store) -> Deployed:
    return Deployed(store)


@pytest.mark.parametrize(("guard", "ended"), [("own", []), ("account", [OLD.instance_id])])
def test_instances_of_others_are_shown_and_ended_only_under_guard(
    stage: Deployed, guard: str, ended: list[str]
) -> None:
    stage.c.settings = replace(stage.c.settings, guard=guard)
    for _ in range(2):
        report = Report()
        housekeeping.after_runs(stage.c, [OLD, KEPT, YOUNG], report, START)
        assert report.failed == {}
        assert report.strays == ended
    assert set(stage.ec2.ended) == set(ended)
    shown = money.budget(stage.c)
    assert len(shown["acts"]) == len(ended), "an act is written down once"
    instances = {i["instance_id"]: i for i in shown["unmanaged"]["instances"]}
    assert Decimal(instances[OLD.instance_id]["usd"]) == Decimal("0.34")  # two hours at the on-demand price
    assert instances[KEPT.instance_id]["protected"]


def test_thresholds_are_told_once_each_also_by_a_process_that_does_not_remember(stage: Deployed) -> None:
    month = calendar.month(START, POLICY)
    stage.c.store.ledger.open([month])
    stage.c.dynamodb.transact_write_items(TransactItems=[stage.c.store.ledger.moved(month, Decimal(0), Decimal(17))])
    for _ in range(3):
        stage.c.told.clear()
        housekeeping.after_runs(stage.c, [], Report(), START)
    told = sorted(act["message"] for act in money.budget(stage.c)["acts"])
    assert len(told) == 2, "50 and 80 per cent"
    assert all("17.00 USD of the 20.00 USD for 2026-11 are spent" in message for message in told)


def test_too_little_money_for_what_is_stored_is_told_once_and_shown(stage: Deployed) -> None:
    page = {"Versions": [{"Key": "a", "Size": 3000 * 10**9}], "IsTruncated": False}
    answers(stage.c.s3, "ListObjectVersions", page, always=True)
    for hours in range(3):
        housekeeping.before_runs(stage.c, 1, Report(), START + hours * HOUR)
    shown = money.budget(stage.c)
    assert (shown["free_usd"], shown["storage"]["reserved_usd"]) == ("0.000000", "20.000000")
    assert Decimal(shown["storage"]["short_usd"]) > 4
    assert [act["message"][:40] for act in shown["acts"]] == ["What is stored (3000.0 GB) costs 5.31 US"]


def test_one_part_that_fails_does_not_keep_the_others_from_being_done(
    stage: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no figures today")

    monkeypatch.setattr(stage.c.unmanaged, "keep", broken)
    delivered: list[object] = []
    monkeypatch.setattr(stage.c.outbox, "deliver", delivered.append)
    report = Report()
    housekeeping.after_runs(stage.c, [], report, START)
    assert list(report.failed) == ["other instances"]
    assert delivered == [START]


def test_the_account_stays_guarded_while_its_figures_fail_and_every_failure_is_named(
    stage: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.c.settings = replace(stage.c.settings, guard="account")
    dear = replace(OLD, instance_id="i-0000000d")

    def broken(*_: object) -> None:
        raise RuntimeError("no figures today")

    def end(instance_id: str) -> None:
        if instance_id == OLD.instance_id:
            raise ConnectionError("no way to EC2")
        stage.ec2.ended.append(instance_id)

    monkeypatch.setattr(stage.c.unmanaged, "keep", broken)
    monkeypatch.setattr(stage.ec2, "end", end)
    report = Report()
    housekeeping.after_runs(stage.c, [OLD, dear, KEPT], report, START)
    assert stage.ec2.ended == [dear.instance_id]
    assert report.failed == {
        "other instances": "RuntimeError: no figures today",
        OLD.instance_id: "ConnectionError: no way to EC2",
    }
