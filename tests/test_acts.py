"""What is done in the account is written down once, on the timeline too, with one notification that says why."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from chalicelib import people
from chalicelib.acts import Acts
from chalicelib.contracts.api import EventList
from chalicelib.core import events as ev
from chalicelib.core.news import Kind, News
from chalicelib.outbox import Outbox
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import START, new_run
from tests.hooks import answers, cancelled
from tests.test_whole_pass import House

STRAY = News(Kind.ENDED, "Spot Relay: a stray is ended", "The instance i-1 is ended: nobody has it.", "cloud_prod_001")


@pytest.fixture
def acts(store: Store) -> Acts:
    return Acts(store._client, TABLE, store.ledger)


def boxed(store: Store) -> list[str]:
    return [item["message"] for item in Outbox(store._client, TABLE, lambda: None, "")._waiting()]


def test_an_act_is_written_down_with_its_news_once(acts: Acts, store: Store) -> None:
    assert acts.record("i-1", STRAY, START)
    for minutes in (1, 2):
        assert not acts.record("i-1", STRAY, START + timedelta(minutes=minutes))
    [act] = acts.recent()
    assert act == {"at": START.isoformat(), "kind": "ended", "message": STRAY.message, "run": "cloud_prod_001"}
    assert boxed(store) == [STRAY.message]


def test_an_act_is_on_the_timeline_of_its_run_in_its_place_and_pages_pass_it(acts: Acts, store: Store) -> None:
    run = store.create(new_run(), {}, "hash")
    acts.record("i-0abcdef0123456789", STRAY, START + timedelta(minutes=1), run)
    acts.record("i-0abcdef0123456789", STRAY, START + timedelta(minutes=2), run)
    events, _ = store.timeline(run.name)
    assert [(e["reason"], e["message"]) for e in events] == [("submitted", "Accepted."), ("stray", STRAY.message)]
    first, cursor = store.timeline(run.name, limit=1)
    rest, _ = store.timeline(run.name, limit=5, after=cursor or "")
    assert first + rest == events


def test_two_acts_are_two_places_on_the_timeline(acts: Acts, store: Store) -> None:
    run = store.create(new_run(), {}, "hash")
    for name in ("i-0abcdef0123456781", "i-0abcdef0123456782"):
        acts.record(name, STRAY, START, run)
    assert len(store.timeline(run.name)[0]) == 3


def test_the_newest_acts_are_shown_first(acts: Acts) -> None:
    for n in range(5):
        acts.record(f"v-{4 - n}", News(Kind.ENDED, "s", str(n)), START + timedelta(minutes=n))
    assert [a["message"] for a in acts.recent(3)] == ["4", "3", "2"]


@pytest.mark.parametrize(
    "answer", ["ThrottlingException", cancelled("TransactionConflict", "None"), cancelled("ThrottlingError")], ids=str
)
def test_an_act_that_could_not_be_written_down_is_not_taken_for_done(acts: Acts, store: Store, answer: str) -> None:
    answers(store._client, "TransactWriteItems", answer)
    with pytest.raises(ClientError):
        acts.record("i-1", STRAY, START)
    assert (acts.recent(), boxed(store)) == ([], [])
    assert acts.record("i-1", STRAY, START)


def test_acts_are_kept_ninety_days(acts: Acts, store: Store) -> None:
    acts.record("i-1", STRAY, START)
    item = store.ledger.get("ACTS", "i-1")
    assert item
    assert item["expires"] == int((START + timedelta(days=90)).timestamp())


def test_a_runs_events_show_what_the_sweep_did_to_its_instance(store: Store) -> None:
    house = House()
    run = house.c.store.create(new_run(), {}, "hash")
    house.c.shell.tell(run.name, ev.CancelAsked("me"))
    twin = house.instance(stage="test", run=run.name, attempt="1")
    assert house.sweep(timedelta(minutes=2)).strays == [twin]
    house.sweep().check()
    shown = EventList.model_validate(json.loads(json.dumps(people.events(house.c, run.name, {}))))
    assert [(e.reason, e.message, e.at) for e in shown.events][-2:] == [
        ("user", "Cancelled by request.", START),
        ("stray", f"The instance {twin} is ended: no live attempt of {run.name} has it.", START + timedelta(minutes=2)),
    ]
    assert [act["run"] for act in house.c.acts.recent()] == [run.name]
    paged, query = [], {"limit": "1"}
    while True:
        page = people.events(house.c, run.name, query)
        paged += page["events"]
        if page["cursor"] is None:
            break
        query = {"limit": "1", "cursor": page["cursor"]}
    assert paged == people.events(house.c, run.name, {})["events"], "each line once, page by page"
