"""What simulated months overspend: a thousand runs each, with interruptions, outages of the controller, faults at AWS calls."""

from __future__ import annotations

from benchmarks.figure import Figure
from tests.sim.month import live


def figures(quick: bool) -> list[Figure]:
    months = [live(seed, 200 if quick else 1000) for seed in range(1, 2 if quick else 6)]
    worst = max(month.overspend_usd for month in months)
    return [
        Figure(
            "overspend",
            f"overspent in the worst of {len(months)} simulated months, USD",
            float(worst),
            0.0,
            details={"months": [month.text() for month in months]},
        )
    ]
