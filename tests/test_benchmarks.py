"""`make bench` measures; its cheap part runs here, so that it does not rot."""

from __future__ import annotations

from benchmarks import imports, passes


def test_a_pass_over_many_runs_keeps_to_its_calls() -> None:
    calls, growth = passes.figures(200)
    assert calls.ok, calls
    assert growth.reached > 0


def test_imports_are_timed_against_the_least_there_could_be() -> None:
    (figure,) = imports.figures(1)
    assert 0.5 < figure.reached < 5
