"""How the proof of least privilege judges, and that its page is of this template; the proof itself is a make target."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chalicelib.slices import slice_in
from chalicelib.sweep import SLICE
from spotrelay.deploying import ROOT, template
from spotrelay.privileges import report, walk
from spotrelay.privileges.decisions import Decision, Reader, refusal, used
from spotrelay.privileges.kept import Kept
from spotrelay.privileges.removal import without
from spotrelay.privileges.results import Broken
from spotrelay.privileges.statements import Attachment, Statement

READ = Statement("arn:aws:iam::1:policy/relay", True, "Read", ("s3:GetObject", "s3:ListBucket"), ("api", "sweep"))
HELD = Attachment("arn:aws:iam::1:policy/relay", "api", ("s3:GetObject",))


def decided(role: str, action: str, allowed: bool, sid: str = "Read") -> Decision:
    return Decision(role, action, "*", sid if allowed else "", allowed)


def test_a_refusal_counts_for_the_part_that_would_have_allowed_it() -> None:
    others = [decided("run", "s3:GetObject", False), decided("api", "s3:PutObject", False)]
    assert refusal(READ, [*others, decided("api", "s3:GetObject", True)]) is None
    assert refusal(READ, [*others, decided("sweep", "s3:ListBucket", False)]) == decided(
        "sweep", "s3:ListBucket", False
    )
    assert refusal(HELD, [decided("sweep", "s3:GetObject", False)]) is None


def test_an_action_is_used_when_this_very_statement_allowed_it() -> None:
    made = [decided("api", "s3:GetObject", True), decided("api", "s3:ListBucket", True, "Other")]
    assert used(READ, made) == {"s3:GetObject"}


def test_decisions_are_read_once_and_only_whole(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    reader = Reader(file)
    assert reader.new() == []
    line = json.dumps({"role": "r", "action": "a", "resource": "*", "sid": "s", "allowed": True})
    file.write_text(f"{line}\n{line[:10]}")
    assert len(reader.new()) == 1
    file.write_text(f"{line}\n{line}\n")
    assert len(reader.new()) == 1
    assert reader.new() == []


def test_a_statement_is_taken_out_and_no_other() -> None:
    document = {"Version": "1", "Statement": [{"Sid": "A"}, {"Sid": "B"}]}
    assert without(document, "A") == {"Version": "1", "Statement": [{"Sid": "B"}]}
    with pytest.raises(ValueError, match="not one statement 'C'"):
        without(document, "C")


def test_a_result_is_kept_until_what_it_rests_on_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept.jsonl"
    result = Broken(READ, decided("api", "s3:GetObject", False), "", ("s3:ListBucket",), 1.5)
    Kept(file).add(result)
    assert Kept(file).of(READ) == result
    assert Kept(file).of(HELD) is None
    monkeypatch.setattr("spotrelay.privileges.kept.fingerprint", lambda: "of another template")
    assert Kept(file).of(READ) is None


@pytest.mark.parametrize(
    ("refused", "status", "unused", "said"),
    [
        (decided("api", "s3:GetObject", False), "", (), None),
        (None, "FAILED", (), None),
        (None, "SUCCEEDED", (), "nothing broke"),
        (decided("api", "s3:GetObject", False), "", ("s3:ListBucket",), "nobody called s3:ListBucket"),
    ],
)
def test_a_statement_that_is_not_needed_is_named(
    refused: Decision | None, status: str, unused: tuple[str, ...], said: str | None
) -> None:
    result = Broken(READ, refused, status, unused, 1.0)
    found = report.wrong(result)
    assert (said in found) if said and found else found is said
    assert ("not needed" in report.page([result])) == bool(said)


def test_the_page_has_every_statement_of_the_template() -> None:
    page = (ROOT / "docs/least-privilege.md").read_text()
    resources = template.load()["Resources"].values()
    documents = [r["Properties"]["PolicyDocument"] for r in resources if r["Type"] == "AWS::IAM::ManagedPolicy"]
    documents += [
        policy["PolicyDocument"]
        for r in resources
        if r["Type"] == "AWS::IAM::Role"
        for policy in r["Properties"]["Policies"]
    ]
    statements = [s["Fn::If"][1] if "Fn::If" in s else s for document in documents for s in document["Statement"]]
    assert sorted(s["Sid"] for s in statements) == sorted(report.sids(page))
    assert "each is needed." in page


def test_the_walk_gives_the_sweep_more_than_one_invocation_takes() -> None:
    at = datetime(2026, 11, 26, tzinfo=UTC)
    given = slice_in(walk.large_slice(at))
    assert given
    assert (given.at, given.listening) == (at, at)
    assert len(given.runs) > SLICE
