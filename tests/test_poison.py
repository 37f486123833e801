"""One thing that can't be read keeps no other from being done: it is told once, counted once, and shown to a person."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from chalicelib import agents, money, people
from chalicelib.codec import Unreadable, to_item
from chalicelib.contracts import api
from chalicelib.contracts import money as shapes
from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import Status
from chalicelib.core.news import Kind, News
from chalicelib.core.storage import Stored
from chalicelib.store import Store
from chalicelib.telemetry import logger
from chalicelib.upkeep import Upkeep
from tests.conftest import TABLE
from tests.core_world import START, new_run
from tests.hooks import answers
from tests.test_whole_pass import HOUR, MINUTE, MONTH, House

GOOD, BAD = "good-run", "bad-run"


@pytest.fixture
def house(store: Store) -> House:
    """Two runs that wait to be launched, one younger than the other."""
    house = House()
    for name in (BAD, GOOD):
        house.c.store.create(new_run(name=name), {"name": name, "checkpoint": {"keep": 3}}, "hash")
        house.c.shell.tell(name, ev.CancelAsked("me"))
    return house


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what the log says is unreadable."""
    found: list[str] = []
    monkeypatch.setattr(logger, "error", lambda message, extra: found.append(extra["record"]))
    return found


def spoil(house: House, pk: str, sk: str, **values: Any) -> None:
    """An item as it is, but for these values; None takes one away."""
    found = house.c.store.ledger.get(pk, sk) or {}
    item = {k: v for k, v in {**found, "pk": pk, "sk": sk, **values}.items() if v is not None}
    house.c.dynamodb.put_item(TableName=TABLE, Item=to_item(item))


RUN_RECORDS: dict[str, dict[str, Any]] = {
    "nothing": {"run": None},
    "text": {"run": "broken"},
    "an unknown status": {"run": {"name": BAD, "status": "DANCING"}},
    "a field of the future": {"run": {"name": BAD, "tomorrow": 1}},
    "another run": {"version": Decimal(99)},
}


@pytest.mark.parametrize("broken", RUN_RECORDS.values(), ids=RUN_RECORDS)
def test_a_run_that_cannot_be_read_keeps_no_other_waiting(
    store: Store, broken: dict[str, Any], said: list[str]
) -> None:
    house = House()
    for name in (BAD, GOOD):
        run = house.c.store.create(new_run(name=name), {"name": name}, "hash")
        # A person wanted it ended, and the process that was to see to it died.
        house.c.store.save(run, replace(run, wanted=run.wanted.CANCEL, deadline=START), START, house.c.policy)
    spoil(house, f"RUN#{BAD}", "RUN", **broken)
    for _ in range(3):
        report = house.sweep()
        assert not report.failed
        assert {error.what for error in report.unreadable} == {f"RUN#{BAD} / RUN"}
    ended = house.c.store.load(GOOD)
    assert ended is not None
    assert ended.status is Status.CANCELLED
    assert said == [f"RUN#{BAD} / RUN"], "it is logged once, not with each pass"
    assert [act for act in house.told() if BAD in act] == [
        f"RUN#{BAD} / RUN can't be read and is left alone; everything else goes on. The log of the controller says why."
    ]


def test_another_process_does_not_tell_it_again_and_a_week_later_it_is_told_again(
    house: House, said: list[str]
) -> None:
    spoil(house, f"RUN#{BAD}", "RUN", run="broken", live=BAD)
    house.sweep()
    house.sweep(c=house.process())
    assert len(said) == 1
    [act] = [item for item in house.c.store.ledger.query("ACTS") if item["kind"] == Kind.UNREADABLE]
    week = house.clock.now + timedelta(days=7)
    assert abs(int(act["expires"]) - week.timestamp()) <= 120


def test_people_see_which_run_cannot_be_read_and_all_the_others(house: House) -> None:
    spoil(house, f"RUN#{BAD}", "RUN", run="broken", live=BAD)
    listed = people.list_runs(house.c, {})
    api.RunList.model_validate(json.loads(json.dumps(listed)))
    assert [run["name"] for run in listed["runs"]] == [GOOD]
    assert listed["unreadable"] == [BAD]
    asks: list[Callable[[], object]] = [
        lambda: people.get(house.c, BAD),
        lambda: people.checkpoints(house.c, BAD, {}),
        lambda: people.ledger(house.c, BAD, {}),
        lambda: people.ask(house.c, BAD, "cancel", "me"),
    ]
    for ask in asks:
        with pytest.raises(Unreadable):
            ask()
    budget = money.budget(house.c)
    shapes.Budget.model_validate(json.loads(json.dumps(budget)))
    assert [act["run"] for act in budget["acts"] if act["kind"] == "unreadable"] == [BAD]


def test_a_list_entry_without_its_name_still_lists_the_run(house: House) -> None:
    [entry] = [item for item in house.c.store.ledger.query("RUNS") if str(item["sk"]).endswith(GOOD)]
    spoil(house, "RUNS", str(entry["sk"]), run=None)
    assert [run["name"] for run in people.list_runs(house.c, {})["runs"]] == [GOOD, BAD]


def test_a_spec_that_cannot_be_read_hides_the_spec_and_not_the_run(house: House) -> None:
    spoil(house, f"RUN#{BAD}", "SPEC", spec="{")
    assert people.get(house.c, BAD)["spec"] is None
    assert people.get(house.c, GOOD)["spec"] == {"name": GOOD, "checkpoint": {"keep": 3}}


def test_a_spec_without_what_the_sweep_needs_is_no_failure_of_the_sweep(store: Store) -> None:
    house = House()
    run = house.c.store.create(new_run(name=GOOD), {"name": GOOD}, "hash")
    upkeep = Upkeep(house.c, START, START)
    upkeep._beats[GOOD] = {1: agents.Beat(attempt=1, at=START, phase="train", checkpoint_at=START)}
    launched = decide(run, ev.Submitted(), START, house.c.policy).run
    with pytest.raises(Unreadable, match="SPEC"):
        upkeep.prune(launched)


def test_an_instance_whose_run_cannot_be_read_is_left_to_its_lease_and_a_stray_beside_it_is_ended(
    house: House,
) -> None:
    spoil(house, f"RUN#{BAD}", "RUN", run="broken")
    kept = house.instance(stage="test", run=BAD, attempt="1")
    stray = house.instance(stage="test", run=GOOD, attempt="1")
    report = house.sweep(HOUR)
    assert report.strays == [stray]
    assert house.states()[kept] == "running"
    assert not report.failed


def test_an_instance_with_an_odd_tag_is_a_stray_like_another(house: House) -> None:
    odd = house.instance(stage="test", run=GOOD, attempt="²")
    assert house.sweep(HOUR).strays == [odd]


def test_an_event_of_an_instance_whose_pointer_cannot_be_read_says_so(house: House) -> None:
    spoil(house, "INSTANCE#i-0bad", "INSTANCE", attempt=1)
    with pytest.raises(Unreadable):
        house.c.shell.on_instance(ev.InstanceState("i-0bad", "terminated"))


def test_a_heartbeat_that_cannot_be_read_is_as_if_there_was_none(house: House, said: list[str]) -> None:
    for attempt, at in ((1, START), (2, START)):
        house.c.records.heard(GOOD, agents.Beat(attempt=attempt, at=at, phase="train", step=7))
    for broken in ({"at": None}, {"at": "2026-11-20T10:00:00"}, {"metrics": "7"}, {"step": "many"}):
        house.c.poison._told.clear()
        spoil(house, f"RUN#{GOOD}", "BEAT#0001", **broken)
        assert list(house.c.records.beats(GOOD)) == [2]
    assert said == [f"RUN#{GOOD} / BEAT#0001"]
    assert people.get(house.c, GOOD)["step"] == 7


def test_results_and_a_line_of_the_timeline_that_cannot_be_read_hide_themselves_alone(house: House) -> None:
    house.c.records.left(GOOD, 1, {"prefix": "runs/good/results/0001/", "metrics": {"loss": 0.5}}, START)
    house.c.records.left(GOOD, 2, {"prefix": "runs/good/results/0002/"}, START)
    spoil(house, f"RUN#{GOOD}", "RESULT#0002", prefix=None)
    assert people.get(house.c, GOOD)["results"] == "runs/good/results/0001/"
    spoil(house, f"RUN#{GOOD}", "EVENT#00000000#00", at="long ago")
    shown = people.events(house.c, GOOD, {})
    assert shown["events"]
    assert all(line["message"] for line in shown["events"])


def test_an_unreadable_month_pays_for_nothing_and_stops_nothing_else(house: House, said: list[str]) -> None:
    house.sweep()
    spoil(house, f"LEDGER#{MONTH}", "MONTH", free="a lot")
    volume = house.volume()
    house.c.acts.record("x", News(Kind.LIMIT, "a mail", "a mail"), house.clock.now)
    report = house.sweep(HOUR)
    assert not report.failed
    assert {error.what for error in report.unreadable} == {f"LEDGER#{MONTH} / MONTH"}
    assert volume not in house.volumes()
    assert "a mail" in house.told()
    with pytest.raises(Unreadable):
        money.budget(house.c)
    with pytest.raises(Unreadable):
        money.set_limit(house.c, shapes.BudgetChange(limit_usd="30"), "me")
    assert f"LEDGER#{MONTH} / MONTH" in said


def test_a_runs_part_of_the_month_and_a_ledger_line_that_cannot_be_read_hide_themselves_alone(house: House) -> None:
    ledger = house.c.store.ledger
    for run in (BAD, GOOD):
        spoil(house, f"LEDGER#{MONTH}", f"RUN#{run}", run=run, reserved=Decimal(0), settled=Decimal(1))
    spoil(house, f"LEDGER#{MONTH}", f"RUN#{BAD}", settled="1")
    assert [part["run"] for part in money.budget(house.c)["runs"]] == [GOOD]
    spoil(house, f"LEDGER#{GOOD}", "LINE#0001#000001", entry="settled")
    assert ledger.lines(GOOD) == []


@pytest.mark.parametrize("broken", [{"stored": "x"}, {"stored": None}])
def test_storage_that_cannot_be_read_keeps_what_it_holds_of_the_month(house: House, broken: dict[str, Any]) -> None:
    house.sweep()
    before = house.c.store.ledger.month(MONTH)
    assert isinstance(house.c.storage.stored(), Stored)
    spoil(house, "STORAGE", "NEWEST", **broken)
    report = house.sweep(25 * HOUR)
    assert not report.failed
    assert {error.what for error in report.unreadable} == {"STORAGE / NEWEST"}
    assert house.c.store.ledger.month(MONTH) == before
    assert money.budget(house.c)["storage"] is None


def test_a_measurement_under_way_that_cannot_be_read_begins_anew(house: House, said: list[str]) -> None:
    spoil(house, "STORAGE", "SCAN", scan="x")
    house.sweep()
    assert house.c.storage.stored() is not None
    assert said == ["STORAGE / SCAN"]


def test_a_report_on_others_that_cannot_be_read_is_written_anew(house: House, said: list[str]) -> None:
    other = house.instance()
    house.sweep()
    spoil(house, "UNMANAGED", "REPORT", report={"month": MONTH})
    house.sweep(HOUR)
    report = house.c.unmanaged.report()
    assert report is not None
    assert [i.instance_id for i in report.instances] == [other]
    assert said == ["UNMANAGED / REPORT"]


def test_prices_that_cannot_be_read_are_asked_for_anew(house: House, said: list[str]) -> None:
    house.c.prices._keep("spot#c6i.xlarge", house.clock.now, {"us-east-1a": Decimal("0.07")})
    for broken in (
        {"at": "x"},
        {"at": "2026-11-20T10:00:00"},
        {"usd_hour": {"us-east-1a": "cheap"}},
        {"usd_hour": None},
    ):
        house.c.poison._told.clear()
        spoil(house, "PRICES", "spot#c6i.xlarge", **broken)
        assert ("c6i.xlarge", "us-east-1a") in house.c.prices.spot(["c6i.xlarge"], house.clock.now)
        assert house.c.store.ledger.get("PRICES", "spot#c6i.xlarge")["usd_hour"]["us-east-1a"] != "cheap"  # type: ignore[index]
    assert said == ["PRICES / spot#c6i.xlarge"]


@pytest.mark.parametrize(
    "broken", [{"kind": "gossip"}, {"kind": None}, {"subject": 7}, {"at": "then"}, {"message": None}]
)
def test_news_that_cannot_be_read_keeps_no_other_from_being_told(
    house: House, said: list[str], broken: dict[str, Any]
) -> None:
    house.c.acts.record("first", News(Kind.LIMIT, "first", "first"), START)
    [item] = house.c.outbox._waiting()
    spoil(house, "OUTBOX", str(item["sk"]), **broken)
    house.c.acts.record("second", News(Kind.LIMIT, "second", "second"), START + MINUTE)
    report = house.sweep()
    assert not report.failed
    house.sweep(HOUR)  # tells of the one that can't be told
    left = [i["sk"] for i in house.c.outbox._waiting()]
    assert left == [item["sk"]]
    assert said == [f"OUTBOX / {item['sk']}"]


def test_a_hundred_that_cannot_be_read_leave_room_for_those_that_can(house: House) -> None:
    for n in range(120):
        spoil(house, "OUTBOX", f"2026-11-01T00:00:{n:03d}#x", kind="gossip")
    house.c.poison.saw = lambda error: None  # type: ignore[method-assign]
    house.c.acts.record("news", News(Kind.LIMIT, "news", "news"), START)
    assert house.c.outbox.deliver(START) == 1


def test_one_mail_that_fails_keeps_no_other_from_being_told(house: House) -> None:
    for word in ("one", "two"):
        house.c.acts.record(word, News(Kind.LIMIT, word, word), START)
    box = house.c.outbox
    box._topic = "arn:aws:sns:us-east-1:123456789012:" + house.c.sns.create_topic(Name="t")["TopicArn"].split(":")[-1]
    answers(house.c.sns, "Publish", "InternalError")
    with pytest.raises(Exception, match="InternalError"):
        box.deliver(START)
    assert [i["message"] for i in box._waiting()] == ["one"]
    assert box.deliver(START) == 1


def test_what_sns_will_never_take_is_told_apart(house: House, said: list[str]) -> None:
    for word in ("one", "two"):
        house.c.acts.record(word, News(Kind.LIMIT, word, word), START)
    box = house.c.outbox
    box._topic = house.c.sns.create_topic(Name="t")["TopicArn"]
    answers(house.c.sns, "Publish", "InvalidParameter")
    assert box.deliver(START) == 1
    assert len(said) == 1


def test_an_act_that_cannot_be_read_hides_itself_alone(house: House) -> None:
    for word in ("one", "two"):
        house.c.acts.record(word, News(Kind.LIMIT, word, word), START)
    spoil(house, "ACTS", "one", at=None)
    assert [act["message"] for act in money.budget(house.c)["acts"]][-1] == "two"


def test_to_raise_the_limit_resumes_what_can_be_read(house: House) -> None:
    spoil(house, f"RUN#{BAD}", "RUN", run="broken", live=BAD)
    assert money.set_limit(house.c, shapes.BudgetChange(limit_usd="30"), "me")["limit_usd"] == "30.000000"


def test_only_what_is_the_records_fault_is_the_records_fault(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that does not answer is a failure of the pass, which Lambda tries again, and no poison."""

    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    spoil(house, f"RUN#{BAD}", "RUN", live=BAD)
    monkeypatch.setattr(house.c.store, "load", away)
    report = house.sweep()
    assert report.failed[BAD] == "ConnectionError: no route"
    assert report.about[BAD] == {"run": BAD}
    assert not report.unreadable
