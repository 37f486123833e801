"""docs/observability.md names every metric, line and alarm there is, and the alarms fire for what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from chalicelib.core.figures import Name
from spotrelay.deploying import template
from spotrelay.deploying.finish import RETRIES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/observability.md").read_text()
SOURCES = [ROOT / "app.py", *(ROOT / "chalicelib").glob("*.py")]


@pytest.fixture(scope="module")
def alarms() -> dict[str, dict[str, Any]]:
    made = template.load()["Resources"].values()
    found = (r["Properties"] for r in made if r["Type"] == "AWS::CloudWatch::Alarm")
    return {alarm["AlarmName"]["Fn::Sub"].removeprefix("spot-relay-${Stage}-"): alarm for alarm in found}


def test_every_metric_is_described_with_its_unit() -> None:
    described = dict(re.findall(r"^\| `(\w+)` \| (Seconds|Count) \|", TEXT, re.MULTILINE))
    assert described == {name.value: name.unit for name in Name}


def test_every_line_is_described() -> None:
    said = set()
    for source in SOURCES:
        said |= set(re.findall(r"logger\.(?:info|warning|error|exception)\(\s*\"([^\"]+)\"", source.read_text()))
    table = TEXT[TEXT.index("| message |") : TEXT.index("CloudWatch Logs Insights")]
    described = set(
        re.findall(r"`([a-z][a-z' ]+)`", " ".join(row.split("|")[1] for row in table.splitlines() if "|" in row))
    )
    assert described == said


def test_every_alarm_is_described_and_in_the_cost_table(alarms: dict[str, Any]) -> None:
    assert set(re.findall(r"^\| `…-([a-z-]+)` \|", TEXT, re.MULTILINE)) == set(alarms)
    cost = (ROOT / "docs/deploy.md").read_text()
    assert f"| CloudWatch alarms (ten are free) | {len(alarms)} |" in cost


def test_a_sweep_that_always_fails_raises_its_alarm_and_so_does_one_pass_with_its_retries(
    alarms: dict[str, Any],
) -> None:
    alarm = alarms["sweep-errors"]
    minutes, tries = alarm["Period"] / 60, 1 + RETRIES
    assert alarm["Threshold"] <= minutes, "a failing pass a minute is enough, should a retry never come"
    assert alarm["Threshold"] <= tries
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"


def test_a_sweep_that_never_runs_raises_an_alarm_though_there_is_no_number(alarms: dict[str, Any]) -> None:
    alarm = alarms["sweep-missing"]
    assert (alarm["MetricName"], alarm["TreatMissingData"]) == ("Invocations", "breaching")
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 15 * 60


def test_every_alarm_tells_somebody(alarms: dict[str, Any]) -> None:
    assert all(alarm["AlarmActions"] for alarm in alarms.values())
