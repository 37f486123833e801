"""A spec's file is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from spotrelay.specfile import SpecFileError, load, read


def test_a_mapping_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: a\nsource: {repo: b}\n")
    assert read(tmp_path / "run.yaml") == {"name": "a", "source": {"repo": "b"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "line 2: 'name' is there twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("- 1\n", "list"),
        ("", "NoneType"),
        ("a: [\n", "no YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "no YAML"),
        ("a: 1\n---\nb: 2\n", "no YAML"),
        ("a: " + "x" * 300_000, "at most"),
        ("[" * 5000, "no YAML"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpecFileError, match=said.replace("(", r"\(").replace("*", r"\*")):
        load(text.encode())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecFileError, match="nowhere"):
        read(tmp_path / "nowhere.yaml")
