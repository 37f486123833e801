"""The rehearsal's own bill tells when the ledger is wrong; and strays go while a real run trains beside them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from spotrelay.rehearsal import bill
from spotrelay.rehearsal.bill import Life, Priced
from spotrelay.rehearsal.rehearse import Options, Setting, grouped, rehearse
from tests.test_rehearsal import Lines

pytestmark = pytest.mark.alone

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
POOL = ("c6i.xlarge", "us-east-1a")
PRICES = {POOL: [Priced(NOON - timedelta(hours=6), Decimal("3.6"))]}
BESIDE = bill.GP3_USD_GB_MONTH * 50 / 720 + bill.ADDRESS_USD_HOUR  # November has 720 hours


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def life(seconds: float, **changes: Any) -> Life:
    """An instance that was launched at noon, ran two seconds later, and began to shut down after so many seconds."""
    lived = Life("i-1", *POOL, True, NOON, after(2), after(seconds), "Client.InstanceInitiatedShutdown")
    return replace(lived, **changes)


def line(start: float, end: float, **changes: Any) -> dict[str, Any]:
    settled = {"entry": "settled", "attempt": 1, "seq": 1, "seconds": end - start, "source": "spot_history"}
    rates = {"instance": "3.6", "disk": "0.005556", "address": "0.005"}
    times = {"start": after(start).isoformat(), "end": after(end).isoformat()}
    return {**settled, **times, "rates_usd_hour": rates, "usd": "0.100000", **changes}


def usd(bills: dict[str, Decimal]) -> Decimal:
    return round(sum(bills.values(), Decimal(0)), 9)


def test_an_instance_is_billed_by_the_second_from_when_it_runs() -> None:
    assert usd(bill.billed(life(102), [], PRICES, 50)) == round((Decimal("3.6") + BESIDE) * 100 / 3600, 9)


def test_a_minute_is_billed_at_least_and_nothing_for_what_never_ran() -> None:
    assert usd(bill.billed(life(12), [], PRICES, 50)) == round((Decimal("3.6") + BESIDE) * 60 / 3600, 9)
    assert bill.billed(life(12, running=None), [], PRICES, 50) == {}


def test_what_ec2_takes_back_in_its_first_hour_costs_disk_and_address_only() -> None:
    taken = life(102, reason="Server.SpotInstanceTermination")
    assert usd(bill.billed(taken, [], PRICES, 50)) == round(BESIDE * 100 / 3600, 9)
    later = life(3602, reason="Server.SpotInstanceTermination")
    assert usd(bill.billed(later, [], PRICES, 50)) == round(Decimal("3.6") + BESIDE, 9)


def test_a_slice_costs_the_highest_price_in_force_during_it() -> None:
    peak = {POOL: [*PRICES[POOL], Priced(after(80), Decimal("7.2")), Priced(after(81), Decimal("3.6"))]}
    expected = (Decimal("3.6") * 60 + Decimal("7.2") * 40 + BESIDE * 100) / 3600
    assert usd(bill.billed(life(102), [after(62)], peak, 50)) == round(expected, 9)


def test_a_bill_over_the_months_border_is_split_there_by_the_calendar_that_was_in_force() -> None:
    turn = datetime(2026, 12, 1, tzinfo=UTC)
    found = bill.billed(life(102), [], PRICES, 50, turn - after(62))
    december = bill.GP3_USD_GB_MONTH * 50 / 744 + bill.ADDRESS_USD_HOUR
    assert found == {
        "2026-11": (Decimal("3.6") + BESIDE) * 60 / 3600,
        "2026-12": (Decimal("3.6") + december) * 40 / 3600,
    }


def test_a_cent_of_difference_in_any_month_is_told() -> None:
    ours = {"2026-11": Decimal("0.10"), "2026-12": Decimal("0.20")}
    assert bill.compared(ours, {"2026-11": "0.109999", "2026-12": "0.200000"}) == []
    assert "2026-11" in " ".join(bill.compared(ours, {"2026-11": "0.110000", "2026-12": "0.200000"}))
    assert "2026-12" in " ".join(bill.compared(ours, {"2026-11": "0.300000"}))


def test_lines_that_do_not_sum_to_what_is_settled_are_told() -> None:
    lines = [line(0, 100), line(100, 100, entry="credit", usd="-0.040000")]
    assert bill.lines_wrong({"lines": lines, "settled_usd": "0.060000"}) == []
    assert "sum to" in bill.lines_wrong({"lines": lines, "settled_usd": "0.060001"})[0]
    assert "still reserved" in bill.lines_wrong({"lines": [line(0, 9, entry="reserved")], "settled_usd": "0.1"})[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (line(-5, 100), "lived from"),
        (line(0, 110), "lived from"),
        (line(0, 100, rates_usd_hour={"instance": "3.5"}), "the highest price then was 3.6"),
    ],
)
def test_a_line_outside_of_the_instances_life_or_at_another_price_is_told(wrong: dict[str, Any], said: str) -> None:
    assert bill.slices_wrong([line(0, 101)], life(101), PRICES) == []
    assert said in bill.slices_wrong([wrong], life(101), PRICES)[0]


def test_seconds_counted_twice_or_not_at_all_are_told() -> None:
    assert bill.seconds_wrong([line(0, 70), line(70, 100)], life(100)) == []
    assert "130.0 s" in bill.seconds_wrong([line(0, 60), line(30, 100)], life(100))[0]
    assert "70.0 s" in bill.seconds_wrong([line(0, 70)], life(100))[0]


def test_the_hosts_record_says_when_an_instance_ran_and_began_to_end() -> None:
    instance = {
        "id": "i-1",
        "type": POOL[0],
        "az": POOL[1],
        "lifecycle": "spot",
        "reason": "Client.UserInitiatedShutdown",
    }
    changes = [("running", 2), ("shutting-down", 9), ("terminated", 12)]
    events = [
        {"detail_type": bill.STATE_CHANGE, "at": after(s).isoformat(), "detail": {"instance-id": "i-1", "state": state}}
        for state, s in changes
    ]
    found = bill.lives([{**instance, "launched_at": NOON.isoformat()}], events)
    assert found == {"i-1": life(9, reason="Client.UserInitiatedShutdown")}


def test_scenarios_that_need_another_pace_of_time_have_a_stage_of_their_own() -> None:
    groups = grouped(Options(("budget-end", "warned", "strays", "controller-down")))
    assert groups == {Setting(0.02, 100.0): ["budget-end", "controller-down"], Setting(0.1, 1.0): ["warned", "strays"]}


def test_strays_go_within_two_sweeps_and_the_run_beside_them_never_notices(tmp_path: Path) -> None:
    lines = Lines()
    report = rehearse(Options(("strays",), home=tmp_path, time_scale=0.05), lines)
    assert report["ok"], "\n".join(lines.lines)
    (run,) = report["runs"]
    assert run["status"] == "SUCCEEDED"
    assert abs(Decimal(run["cost_usd"]) - Decimal(run["billed_usd"])) < Decimal("0.01")
    assert "after 2 sweeps: the strays are gone, the others are not" in lines.lines
