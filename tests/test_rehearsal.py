"""The whole of it, for real: deployed, trained, interrupted, resumed, and proven; and the proof refuses what is no resume."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from spotrelay import bundle
from spotrelay.rehearsal.conduct import Show
from spotrelay.rehearsal.ec2_processes import belonging
from spotrelay.rehearsal.rehearse import Options, rehearse

pytestmark = pytest.mark.alone

# Half as long as `make rehearse`: the same job, half the steps, a little faster.
SHORT = {"--total_timesteps 400000": "--total_timesteps 200000", "--pace 1": "--pace 0.8"}


class Lines(Show):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(home: Path, *scenarios: str) -> tuple[dict[str, Any], str]:
    lines = Lines()
    report = rehearse(Options(scenarios, seed=3, home=home, overrides=SHORT), lines)
    assert json.loads((home / "report.json").read_text()) == report
    assert not belonging(home, below=True), "processes are left"
    return report, "\n".join(lines.lines)


def test_warned_and_unwarned_the_run_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    report, said = run(tmp_path, "warned", "unwarned")
    assert report["ok"], said
    warned, unwarned = report["runs"]
    assert warned["steps_lost"] == 0
    assert warned["relaunch_calls"] <= 4
    assert unwarned["steps_lost"] <= 10000
    for each in (warned, unwarned):
        assert each["status"] == "SUCCEEDED"
        assert each["attempts"][1]["from_step"] > 0
    assert report["instances_left"] == []
    assert report["ledger"]["reserved_usd"] == "0.000000"


def test_an_agent_that_restores_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, _ = bundle.build()
    monkeypatch.setattr(bundle, "build", lambda: _forgetful(body))
    report, said = run(tmp_path, "unwarned")
    assert not report["ok"]
    assert "its first step was 5000" in " ".join(report["problems"]), said


def _forgetful(body: bytes) -> tuple[bytes, str]:
    """The agent, but what it is told to restore is left where it is."""
    import hashlib

    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "relay.py":
                assert b"return self._restore_one(plan, each)" in content
                content = content.replace(b"return self._restore_one(plan, each)", b"return None")
            new.writestr(name, content)
    return changed.getvalue(), hashlib.sha256(changed.getvalue()).hexdigest()
