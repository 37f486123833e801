"""`make bench` measures; its cheap part runs here, so that it does not rot."""

from __future__ import annotations

from benchmarks import passes, shipped


def test_a_pass_over_many_runs_keeps_to_its_calls() -> None:
    calls, growth = passes.figures(200)
    assert calls.ok, calls
    assert growth.reached > 0


def test_an_import_is_timed_from_what_ships() -> None:
    import_, size = shipped.figures(1)
    assert 0.5 < import_.reached < 5
    assert size.ok, size
