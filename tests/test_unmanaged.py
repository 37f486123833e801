"""What others run in the account is summed up for a person; it is never ours to pay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from chalicelib import views
from chalicelib.contracts.money import UnmanagedMoney
from chalicelib.instances import Instance, list_instances
from chalicelib.store import Store
from chalicelib.unmanaged import NAMED, Report, Unmanaged, spent
from tests.conftest import TABLE
from tests.core_world import POLICY, START
from tests.hooks import aws, counted

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PRICES = {"c6i.xlarge": Decimal("0.17"), "p3.2xlarge": Decimal("3.06"), "new.type": None}


def other(name: str, kind: str = "c6i.xlarge", since: datetime = START, protected: bool = False) -> Instance:
    return Instance(name, "running", "", 0, since, protected, instance_type=kind)


def month(before: Report | None, running: list[Instance], now: datetime) -> Report:
    return spent(before, running, PRICES, now, POLICY)


def test_the_dearest_is_named_first_and_the_sum_has_all() -> None:
    report = month(None, [other("i-a"), other("i-b", "p3.2xlarge", protected=True)], START + 2 * HOUR)
    assert [(i.instance_id, i.usd, i.protected) for i in report.instances] == [
        ("i-b", Decimal("6.12"), True),
        ("i-a", Decimal("0.34"), False),
    ]
    assert report.usd == Decimal("6.46")


def test_what_has_gone_is_still_summed() -> None:
    one = month(None, [other("i-a"), other("i-b")], START + HOUR)
    two = month(one, [other("i-b")], START + 2 * HOUR)
    three = month(two, [], START + 3 * HOUR)
    assert [(r.ended_usd, r.usd) for r in (two, three)] == [
        (Decimal("0.17"), Decimal("0.51")),
        (Decimal("0.51"), Decimal("0.51")),
    ]


def test_each_month_begins_anew_and_has_only_its_own_hours() -> None:
    turn = datetime(2026, 12, 1, tzinfo=UTC)
    november = month(None, [other("i-a"), other("i-b")], turn - HOUR)
    december = month(november, [other("i-b")], turn + HOUR)
    assert (december.month, december.usd) == ("2026-12", Decimal("0.17"))


def test_a_type_without_a_price_is_named_without_a_cost() -> None:
    report = month(None, [other("i-a", "new.type"), other("i-b", "never.heard")], START + HOUR)
    assert [(i.usd_hour, i.usd) for i in report.instances] == [(None, 0), (None, 0)]
    assert report.usd == 0


def test_what_has_gone_unnamed_is_still_summed() -> None:
    running = [other(f"i-{n}") for n in range(4)] + [other("i-dear", "p3.2xlarge")]
    one = spent(None, running, PRICES, START + HOUR, POLICY, named=2)
    assert [i.instance_id for i in one.instances] == ["i-dear", "i-0"]
    assert (one.unnamed, one.unnamed_usd, one.usd) == (3, Decimal("0.51"), Decimal("3.74"))
    two = spent(one, running[:3], PRICES, START + 2 * HOUR, POLICY, named=2)
    assert ([i.instance_id for i in two.instances], two.unnamed, two.unnamed_usd) == (
        ["i-0", "i-1"],
        1,
        Decimal("0.34"),
    )
    assert two.usd == Decimal("3.74") + 3 * Decimal("0.17"), "the dear one and one unnamed are gone"
    assert two.ended_usd == Decimal("3.06") + Decimal("0.17")


def test_a_price_that_becomes_known_counts_from_the_launch_on() -> None:
    unknown = spent(None, [other("i-a")], {}, START + HOUR, POLICY)
    known = month(unknown, [other("i-a")], START + 2 * HOUR)
    again = spent(known, [other("i-a")], {}, START + 3 * HOUR, POLICY)
    assert [r.usd for r in (unknown, known, again)] == [0, Decimal("0.34"), Decimal("0.34")]


def test_other_stages_and_what_has_ended_are_not_others(store: Store) -> None:
    ec2 = aws("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def run(tags: dict[str, str]) -> str:
        wanted = [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]
        answer = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=wanted)
        return str(answer["Instances"][0]["InstanceId"])

    mine = run({"spot-relay:stage": "test", "spot-relay:run": "r", "spot-relay:attempt": "2"})
    run({"spot-relay:stage": "prod"})
    theirs, kept, gone = run({"Name": "x"}), run({"spot-relay:protect": ""}), run({"Name": "y"})
    ec2.terminate_instances(InstanceIds=[gone])
    listed = list_instances(ec2, "test")
    assert [(i.instance_id, i.run, i.attempt) for i in listed.ours] == [(mine, "r", 2)]
    assert {(i.instance_id, i.protected) for i in listed.others} == {(theirs, False), (kept, True)}


class Beside:
    def __init__(self, store: Store) -> None:
        self.unmanaged = Unmanaged(store.ledger, store._client, TABLE, PRICES.get)
        self.writes = counted(store._client, ["PutItem"])

    def keep(self, *running: Instance, after: timedelta = timedelta()) -> Report | None:
        return self.unmanaged.keep(list(running), START + after, POLICY)


@pytest.fixture
def beside(store: Store) -> Beside:
    return Beside(store)


def test_an_account_with_nothing_else_in_it_costs_no_write(beside: Beside) -> None:
    assert beside.keep() is None
    assert (beside.writes, beside.unmanaged.report()) == ([], None)


def test_the_figures_are_written_when_something_has_changed_or_grown_old(beside: Beside) -> None:
    steps = [
        ((other("i-a"),), 0 * MINUTE, 1),
        ((other("i-a"),), 29 * MINUTE, 1),
        ((other("i-a"),), 30 * MINUTE, 2),
        ((other("i-a"), other("i-b")), 31 * MINUTE, 3),
        ((other("i-a"),), 32 * MINUTE, 4),
        ((), 33 * MINUTE, 5),
        ((), 34 * MINUTE, 5),
    ]
    for running, after, writes in steps:
        beside.keep(*running, after=after)
        assert len(beside.writes) == writes


def test_what_is_written_is_what_is_read(beside: Beside) -> None:
    report = beside.keep(other("i-a"), other("i-b", "new.type", protected=True), after=HOUR)
    assert beside.unmanaged.report() == report
    assert report
    assert replace(report, instances=()).usd == 0


def test_the_month_turns_at_once_with_the_same_instances_running(beside: Beside) -> None:
    turn = datetime(2026, 12, 1, tzinfo=UTC) - START
    november = beside.keep(other("i-a"), after=turn - 5 * MINUTE)
    assert november
    december = beside.keep(other("i-a"), after=turn + 6 * MINUTE)
    assert december
    assert (december.month, december.usd, december.ended_usd) == ("2026-12", Decimal("0.017"), 0)
    assert len(beside.writes) == 2


def test_over_several_passes_and_months_the_sum_is_that_of_each_instances_hours(beside: Beside) -> None:
    turn, day = datetime(2026, 12, 1, tzinfo=UTC) - START, timedelta(days=1)
    steps: list[tuple[timedelta, tuple[str, ...], str, str]] = [
        (HOUR, ("i-a",), "2026-11", "0.17"),
        (2 * HOUR, ("i-a", "i-b"), "2026-11", "0.51"),  # i-b ran since an hour ago
        (3 * HOUR, ("i-b",), "2026-11", "0.68"),  # i-a counts up to when it was last seen
        (4 * HOUR, (), "2026-11", "0.68"),
        (5 * HOUR, ("i-c",), "2026-11", "0.85"),
        (turn + 2 * HOUR, ("i-c",), "2026-12", "0.34"),
        (turn + 3 * HOUR, ("i-c", "i-d"), "2026-12", "0.68"),
        (turn + 4 * HOUR, (), "2026-12", "0.68"),
        (turn + 31 * day, (), "2026-12", "0.68"),
        (turn + 31 * day + HOUR, ("i-e",), "2027-01", "0.17"),
    ]
    since = {"i-a": 0 * HOUR, "i-b": HOUR, "i-c": 4 * HOUR, "i-d": turn + 2 * HOUR, "i-e": turn + 31 * day}
    for after, names, name, usd in steps:
        report = beside.keep(*(other(n, since=START + since[n]) for n in names), after=after)
        assert report
        assert (report.month, report.usd) == (name, Decimal(usd)), f"after {after}"
        assert {i.instance_id for i in report.instances} == set(names)


def test_a_newly_protected_instance_is_shown_so_at_once(beside: Beside) -> None:
    beside.keep(other("i-a"))
    report = beside.keep(other("i-a", protected=True), after=MINUTE)
    assert report
    assert report.instances[0].protected


def test_an_account_of_ten_thousand_instances_is_one_small_item(beside: Beside) -> None:
    running = [other(f"i-{n:017x}") for n in range(9_999)] + [other("i-dear", "p3.2xlarge")]
    report = beside.keep(*running, after=HOUR)
    assert report
    assert (report.instances[0].instance_id, len(report.instances), report.unnamed) == ("i-dear", NAMED, 9_900)
    assert report.usd == 9_999 * Decimal("0.17") + Decimal("3.06")
    assert beside.unmanaged.report() == report
    beside.keep(*running, after=HOUR + MINUTE)
    assert len(beside.writes) == 1, "the same instances are no change"
    shown = UnmanagedMoney.model_validate(views.unmanaged_view(report, "own"))
    assert (len(shown.instances), shown.unnamed, shown.unnamed_usd) == (NAMED, 9_900, "1683.000000")
