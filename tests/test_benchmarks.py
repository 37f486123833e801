"""`make bench` measures; its cheap parts run here, so that they do not rot, and docs/performance.md has a row for each figure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks import costs, passes, publishing, shipped
from benchmarks.figure import Figure
from chalicelib.telemetry import logger

ROOT = Path(__file__).parent.parent
DEPLOY = (ROOT / "docs/deploy.md").read_text("utf-8")


@pytest.fixture
def log_level() -> Iterator[None]:
    level = logger.log_level
    yield
    logger.setLevel(level)


def test_each_figure_has_its_row_in_the_documents_and_none_is_left_over() -> None:
    made = re.findall(r'Figure\(\s*"(\w+)"', "".join(p.read_text("utf-8") for p in (ROOT / "benchmarks").glob("*.py")))
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/performance.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(made)
    assert len(set(made)) == len(made)


def test_a_figure_is_kept_at_its_bound() -> None:
    assert Figure("a", "at most", 4, 4).ok
    assert not Figure("a", "at most", 4.1, 4).ok
    assert Figure("a", "at least", 0.9, 0.9, least=True).ok
    assert not Figure("a", "at least", 0.89, 0.9, least=True).ok


def test_a_pass_over_many_runs_keeps_to_its_calls() -> None:
    calls, growth = passes.figures(200)
    assert calls.ok, calls
    assert growth.reached > 0


def test_an_import_is_timed_from_what_ships() -> None:
    import_, size = shipped.figures(1)
    assert 0.5 < import_.reached < 5
    assert size.ok, size


@pytest.mark.usefixtures("log_level")
def test_the_controller_costs_what_it_may_and_what_the_documents_say() -> None:
    idle, hour = costs.figures()
    assert hour.details["calls"]["dynamodb.UpdateItem"] == 120, "a heartbeat each half minute"
    assert hour.details["usd"]["API Gateway"] == "0.000420"
    assert hour.reached < 0.0012, "its processor time is this machine's"
    (units,) = re.findall(r"^\| DynamoDB, read units [^|]*\| (\d+) \|", DEPLOY, re.MULTILINE)
    assert idle.details["read units"] * 720 <= Decimal(units), "docs/deploy.md says what an idle month reads at most"
    assert idle.details["write units"] == 0


def test_a_checkpoint_is_sent_as_boto3_sends_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_QUICK", (32, 1))
    (figure,) = publishing.figures(quick=True)
    assert figure.reached > 0
    assert "32 MiB" in figure.what
