"""What people ask of a run's results and log, without HTTP. S3 is moto's."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib import files
from chalicelib.contracts import files as shapes
from chalicelib.contracts.errors import ApiError
from chalicelib.store import Store
from tests.controlled import BUCKET, SPEC, Deployed

NAME = str(SPEC["name"])
PIECE, TAIL = 256 * 1024, 64 * 1024


@pytest.fixture
def stage(store: Store) -> Deployed:
    stage = Deployed(store)
    stage.submit()
    return stage


def put(stage: Deployed, path: str, body: bytes) -> None:
    stage.s3.put_object(Bucket=BUCKET, Key=f"runs/{NAME}/{path}", Body=body)


def write(stage: Deployed, *parts: bytes, attempt: int = 1) -> None:
    """Parts of a log, as an agent sends them."""
    offset = 0
    for part in parts:
        put(stage, f"logs/{attempt:04d}/{offset:012d}.log", part)
        offset += len(part)


def results(stage: Deployed, **query: str) -> dict[str, Any]:
    answer = files.results(stage.c, NAME, query)
    shapes.ResultList.model_validate(json.loads(json.dumps(answer)))
    return answer


def log(stage: Deployed, **query: str) -> dict[str, Any]:
    answer = files.logs(stage.c, NAME, query)
    shapes.LogText.model_validate(json.loads(json.dumps(answer)))
    return answer


def pieces(stage: Deployed, **query: str) -> Iterator[str]:
    while True:
        answer = log(stage, **query)
        yield answer["text"]
        if not answer["more"]:
            return
        query = {"cursor": answer["cursor"]}


def test_a_run_that_has_left_nothing_says_so(stage: Deployed) -> None:
    assert (results(stage)["attempt"], results(stage)["files"]) == (None, [])
    assert log(stage) == {"attempt": None, "text": "", "cursor": None, "more": False}


def test_results_are_the_newest_attempts_and_fetched_by_a_url_that_ends(stage: Deployed) -> None:
    put(stage, "results/0001/metrics.json", b"old")
    put(stage, "results/0002/metrics.json", b"new")
    put(stage, "results/0002/plots/a b.png", b"picture")
    answer = results(stage)
    assert [(each["path"], each["bytes"]) for each in answer["files"]] == [("metrics.json", 3), ("plots/a b.png", 7)]
    url = urllib.parse.urlsplit(answer["files"][1]["url"])
    asked = dict(urllib.parse.parse_qsl(url.query))
    assert urllib.parse.unquote(url.path).endswith(f"runs/{NAME}/results/0002/plots/a b.png")
    assert (asked["X-Amz-Algorithm"], asked["X-Amz-Expires"]) == ("AWS4-HMAC-SHA256", "900")
    assert [each["bytes"] for each in results(stage, attempt="1")["files"]] == [3]


def test_results_come_page_by_page(stage: Deployed) -> None:
    for n in range(5):
        put(stage, f"results/0001/{n}", b"x")
    found, query = list[str](), {"limit": "2"}
    while True:
        answer = results(stage, **query)
        found += [each["path"] for each in answer["files"]]
        if answer["cursor"] is None:
            break
        query = {"limit": "2", "cursor": answer["cursor"]}
    assert found == ["0", "1", "2", "3", "4"]


def test_a_log_is_followed_as_it_grows(stage: Deployed) -> None:
    write(stage, b"one\n", b"two\n")
    first = log(stage)
    assert (first["attempt"], first["text"], first["more"]) == (1, "one\ntwo\n", False)
    assert log(stage, cursor=first["cursor"])["text"] == ""
    write(stage, b"one\n", b"two\n", b"three\n")
    again = log(stage, cursor=first["cursor"])
    assert again["text"] == "three\n"
    write(stage, b"of the second\n", attempt=2)
    assert log(stage)["text"] == "of the second\n"
    assert log(stage, attempt="1")["text"] == "one\ntwo\nthree\n"
    assert log(stage, cursor=again["cursor"])["text"] == ""


def test_a_long_log_comes_in_pieces_of_whole_characters(stage: Deployed) -> None:
    large = ("äöü€😀" * 60_000).encode()
    write(stage, b"a" + large, b"the end\n")
    found = list(pieces(stage))
    assert len(found) > 2
    assert max(len(piece.encode()) for piece in found) <= PIECE + len(b"the end\n")
    assert "".join(found) == ("a" + large.decode() + "the end\n")


def test_many_small_parts_are_read_by_and_by(stage: Deployed) -> None:
    write(stage, *(b"line %d\n" % n for n in range(120)))
    found = list(pieces(stage))
    assert len(found) == 3
    assert "".join(found) == "".join(f"line {n}\n" for n in range(120))


def test_the_tail_begins_with_a_line_near_the_end(stage: Deployed) -> None:
    lines = [b"%06d\n" % n for n in range(30_000)]
    write(stage, b"".join(lines[:15_000]), b"".join(lines[15_000:29_999]), lines[29_999])
    text = "".join(pieces(stage, tail="true"))
    assert b"".join(lines).decode().endswith(text)
    assert TAIL - 7 <= len(text) <= TAIL
    assert text.startswith("0")
    assert "".join(pieces(stage, tail="true", attempt="2")) == ""


def test_what_is_no_part_of_a_log_is_passed_over(stage: Deployed) -> None:
    put(stage, "logs/0001/000000000000.logged", b"x")
    for n in range(60):
        put(stage, f"logs/0001/000000000000.a{n}", b"x")
    assert log(stage)["more"] is False


@pytest.mark.parametrize(
    ("ask", "query"),
    [
        (files.logs, {"attempt": "0"}),
        (files.logs, {"attempt": "first"}),
        (files.logs, {"cursor": "1-2"}),
        (files.logs, {"cursor": "../../x"}),
        (files.logs, {"tail": "yes"}),
        (files.results, {"attempt": "10000"}),
        (files.results, {"limit": "0"}),
        (files.results, {"cursor": "x" * 2000}),
    ],
)
def test_a_wrong_query_names_the_field(stage: Deployed, ask: Any, query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as error:
        ask(stage.c, NAME, query)
    assert error.value.status == 400
    assert [f["field"] for f in error.value.fields] == list(query)


@pytest.mark.parametrize("ask", [files.logs, files.results])
def test_what_does_not_exist_is_404(stage: Deployed, ask: Any) -> None:
    with pytest.raises(ApiError) as error:
        ask(stage.c, "nobody", {})
    assert error.value.status == 404


@given(st.text(min_size=1), st.integers(1, 40))
@settings(max_examples=200)
def test_no_character_is_cut(text: str, at: int) -> None:
    data = text.encode("utf-8", "replace")
    whole = files._whole_characters(data[:at])
    assert data.decode().startswith(whole.decode())
    assert len(data[:at]) - len(whole) < 4
