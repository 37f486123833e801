"""docs/security.md says what the template says: who may do what."""

from __future__ import annotations

import pytest

from spotrelay.deploying import template, who_can


def test_the_table_of_who_may_do_what_is_the_templates() -> None:
    page = who_can.PAGE.read_text()
    assert who_can.inserted(page, who_can.table(template.load())) == page, "run make docs-tables"


def test_every_role_has_its_rows_and_another_template_another_table() -> None:
    ours = template.load()
    found = who_can.rows(ours)
    said = {who for row in found for who in row.who.split(", ")}
    roles = [name for name, r in ours["Resources"].items() if r["Type"] == "AWS::IAM::Role"]
    assert len(said) == len(roles)
    statement = ours["Resources"]["RunRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"][0]
    statement["Action"] = ["s3:GetObject", "s3:DeleteObject"]
    assert [str(row) for row in who_can.rows(ours)] != [str(row) for row in found]


def test_a_statement_of_another_shape_is_not_passed_over() -> None:
    ours = template.load()
    ours["Resources"]["RunRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"][0]["Effect"] = "Deny"
    with pytest.raises(ValueError, match="no Allow"):
        who_can.rows(ours)
    with pytest.raises(ValueError, match="the page has no"):
        who_can.inserted("nothing", "")
