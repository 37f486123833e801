"""The table: one version wins, the money moves with the run or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from chalicelib.codec import plain, run_from
from chalicelib.core import events as ev
from chalicelib.core.decide import decide
from chalicelib.core.model import PriceSource, Rates, Reason, Run, Usage
from chalicelib.store import Conflict, Exists, OverLimit, Store
from tests.conftest import TABLE
from tests.core_world import POLICY, START, World, new_run
from tests.hooks import counted


def launch(store: Store, run: Run) -> Run:
    after = decide(run, ev.Submitted(), START, POLICY).run
    return store.save(run, after, START, POLICY, (ev.Note(Reason.STARTED, "Launched.", 1),))


def test_a_run_in_the_middle_of_everything_comes_back_as_it_was() -> None:
    world = World()
    world.tell(ev.Submitted())
    world.train(1)
    world.warn(1)
    world.claim(2, ready=False)
    world.lose(1)
    world.claim(2, published=((1, 40),))
    assert run_from({"run": plain(world.run), "version": world.run.version}, world.run.name) == world.run


def test_a_saved_run_is_loaded_with_its_spec(store: Store) -> None:
    run = store.create(new_run(), {"name": "cloud_prod_001"}, "abc")
    assert store.load("cloud_prod_001") == run
    assert store.spec("cloud_prod_001") == ({"name": "cloud_prod_001"}, "abc")
    assert store.load("another") is None


def test_a_name_is_taken_once(store: Store) -> None:
    store.create(new_run(), {}, "abc")
    with pytest.raises(Exists):
        store.create(new_run(), {}, "abc")


def test_of_two_writers_one_wins(store: Store) -> None:
    run = store.create(new_run(), {}, "abc")
    launch(store, run)
    with pytest.raises(Conflict):
        launch(store, run)


def test_a_launch_reserves_its_lease_and_settling_gives_the_rest_back(store: Store) -> None:
    run = launch(store, store.create(new_run(), {}, "abc"))
    lease = run.attempts[0].lease
    assert lease
    assert store.ledger.month("2026-11")["reserved"] == lease.reserved
    token = run.attempts[0].launch.token if run.attempts[0].launch else ""
    refused = decide(run, ev.LaunchRefused(1, token, ev.Refusal.FATAL, "No."), START, POLICY).run
    refused = store.save(run, refused, START, POLICY)
    used = Usage(START, START + timedelta(minutes=6), Rates(Decimal("0.1"), Decimal(0), Decimal(0)), PriceSource.CAP)
    settled = decide(refused, ev.Settled(1, lease.seq, used), START, POLICY).run
    store.save(refused, settled, START, POLICY)
    month = store.ledger.month("2026-11")
    assert (month["reserved"], month["settled"]) == (0, Decimal("0.01"))
    assert month["free"] == Decimal("19.99")


def test_a_reservation_the_month_does_not_cover_changes_nothing(store: Store) -> None:
    run = store.create(new_run(), {}, "abc")
    poor = Store(store._client, TABLE, Decimal("0.10"))
    with pytest.raises(OverLimit, match="month"):
        launch(poor, run)
    assert store.load(run.name) == run
    assert poor.ledger.month("2026-11")["reserved"] == 0


def test_a_reservation_the_run_does_not_cover_changes_nothing(store: Store) -> None:
    limits = replace(new_run().limits, cost_usd=Decimal("0.10"))
    run = store.create(new_run(limits=limits), {}, "abc")
    with pytest.raises(OverLimit, match="run"):
        launch(store, run)


def test_an_instance_leads_back_to_its_run(store: Store) -> None:
    run = launch(store, store.create(new_run(), {}, "abc"))
    launched = run.attempts[0].launch
    assert launched
    after = decide(run, ev.Launched(1, launched.token, "i-1", "pool"), START, POLICY).run
    store.save(run, after, START, POLICY)
    assert store.run_on("i-1") == run.name
    assert store.run_on("i-2") is None


def test_only_runs_with_something_left_to_do_are_live(store: Store) -> None:
    run = store.create(new_run(), {}, "abc")
    assert list(store.live()) == [run.name]
    after = decide(run, ev.CancelAsked("me"), START, POLICY).run
    store.save(run, after, START, POLICY)
    assert list(store.live()) == []


def test_the_timeline_is_in_order(store: Store) -> None:
    launch(store, store.create(new_run(), {}, "abc"))
    assert [e["message"] for e in store.timeline("cloud_prod_001")[0]] == ["Accepted.", "Launched."]


def test_a_change_that_moves_nothing_but_the_run_costs_half(store: Store) -> None:
    """DynamoDB charges a transaction's writes twice; a heartbeat's new step is the run's most frequent change."""
    run = store.create(new_run(), {"name": "x"}, "hash")
    asked = counted(store._client, ["PutItem", "TransactWriteItems"])
    saved = store.save(run, replace(run, refusals=1), START, POLICY)
    assert asked == ["PutItem"]
    assert store.load(run.name) == saved
    with pytest.raises(Conflict):
        store.save(run, replace(run, refusals=2), START, POLICY)
    assert store.load(run.name) == saved
