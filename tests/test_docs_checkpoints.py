"""docs/checkpoints.md: each row names a test that there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (?!what|-)(.*) \|$", (ROOT / "docs/checkpoints.md").read_text("utf-8"), re.MULTILINE)
TESTS = {
    name
    for path in (ROOT / "tests").glob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


def test_each_row_names_tests_that_there_are() -> None:
    assert len(ROWS) > 12
    for row in ROWS:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= TESTS, row
