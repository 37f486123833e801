"""A thousand runs over a month, from one seed: every invariant holds at everything that happens, and nothing is overspent."""

from __future__ import annotations

import os

import pytest

from tests.conftest import TRIED
from tests.sim.month import live

SEEDS = range(1, 1 + int(os.environ.get("MONTHS", "1")))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_thousand_runs_live_through_a_month_and_nothing_is_overspent(seed: int) -> None:
    outcome = live(seed)
    TRIED["months"] = {*TRIED.get("months", ()), outcome.text()}
    assert outcome.overspend_usd == 0
    assert outcome.spent_usd > 50
    assert outcome.interruptions > 100
    assert outcome.ended["SUCCEEDED"] > 600
