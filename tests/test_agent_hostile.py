"""What a job leaves in its folders never leads the agent outside, never holds it up, and never takes a secret along."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import beneath
import checkpoints
import matching
import patterns
import results
import scan
from checkpoints import Publisher
from ending import Ending
from failures import Failure, ManifestConflict, TornCheckpoint
from logs import Shipper
from progress import Progress
from redact import Redactor

SECRET = 'pass/word+"1\\2=ü'
PEM = "-----BEGIN KEY-----\nb3BlbnNzaC1rZXkt\nAAAABG5vbmUAAAAE\n-----END KEY-----\n"


class Store(dict):
    """A bucket in memory, with the words of `store.Bucket` that are needed here."""

    def put(self, key, body, content_type=""):
        self[key] = body

    def put_new(self, key, body, content_type, metadata=None):
        return self.setdefault(key, body) is body

    def upload(self, path, key):
        self[key] = Path(path).read_bytes()

    def download(self, key, path):
        if key not in self:
            error = Exception(key)
            error.response = {"Error": {"Code": "NoSuchKey"}}
            raise error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self[key])

    def copy(self, source, key, size):
        return False


Store.get = lambda self, key: dict.get(self, key)  # type: ignore[method-assign]


# -- I8: secrets ---------------------------------------------------------------------------------------------------------


def redactor(*values):
    made = Redactor()
    for value in values:
        made.add(value)
    return made


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s,
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
        lambda s: base64.b64encode(f"x-access-token:{s}".encode()).decode(),
        lambda s: base64.b64encode(f"ab{s}:more of it".encode()).decode(),
        lambda s: urllib.parse.quote(s),
        lambda s: urllib.parse.quote(s, safe=""),
        lambda s: urllib.parse.urlencode({"token": s}),
        lambda s: json.dumps({"token": s}),
        lambda s: s.encode().hex(),
    ],
)
def test_a_secret_is_found_in_the_forms_in_which_programs_print_it(form):
    text = f"before {form(SECRET)} after"
    said = redactor(SECRET)(text)
    assert "[secret]" in said
    assert SECRET not in said
    assert form(SECRET)[6:-6] not in said
    assert redactor(SECRET).bytes(text.encode()).decode() == said


def test_a_key_of_many_lines_is_found_line_by_line():
    said = redactor(PEM)("> b3BlbnNzaC1rZXkt\n> AAAABG5vbmUAAAAE\n")
    assert said == "> [secret]\n> [secret]\n"


def test_a_document_is_redacted_keys_included():
    body = {"message": f"it was {SECRET}", "metrics": {SECRET: 1.0, "list": [{"a": SECRET}]}, "code": None, "ok": True}
    assert redactor(SECRET).document(body) == {
        "message": "it was [secret]",
        "metrics": {"[secret]": 1.0, "list": [{"a": "[secret]"}]},
        "code": None,
        "ok": True,
    }


@given(
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.integers(0, 200),
    st.sampled_from(["tokentoken", "aaaaaaa", "abcabcab"]),
)
def test_no_cut_goes_through_a_secret(before, after, at, secret):
    redact = redactor(secret)
    data = before + secret.encode() + after
    cut = redact.cut(data, min(at, len(data)))
    parts = redact.bytes(data[:cut]) + redact.bytes(data[cut:])
    assert secret.encode() not in parts.replace(b"[secret]", b"")


def ship(tmp_path, chunks, redact):
    """Everything that reaches the bucket of a log that grows chunk by chunk."""
    log, store = tmp_path / "log", Store()
    log.touch()
    shipper = Shipper(log, store, "logs/", redact)
    for chunk in chunks:
        with log.open("ab") as stream:
            stream.write(chunk)
        shipper.ship(datetime.now(UTC))
    shipper.ship(datetime.now(UTC), everything=True)
    return b"".join(store[key] for key in sorted(store)), store


def test_a_secret_is_not_cut_in_two_by_a_part_of_the_log(tmp_path):
    line = b"x" * (1024 * 1024 - 5) + b"very-secret-value" + b"y" * 100
    whole, store = ship(
        tmp_path, [line, b"\nvery-sec", b"ret-value and more\n", b"very-secret-value"], redactor("very-secret-value")
    )
    assert len(store) >= 2
    assert whole.count(b"[secret]") == 3
    assert b"very-sec" not in whole
    assert b"ret-value" not in whole


# -- links, pipes, devices -------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    (folder / "checkpoints").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "step_9").write_text("not yours")
    (outside / "private").write_text("not yours")
    return folder


def spoil(work):
    """A checkpoint folder with everything in it that is no file."""
    place = work / "checkpoints/step_5"
    place.mkdir()
    (place / "model").write_text("m")
    outside = work.parent / "outside"
    (place / "link").symlink_to(outside / "private")
    (place / "folder").symlink_to(outside)
    (place / "loop").symlink_to(place)
    (place / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(place / "pipe")
    os.mkfifo(work / "checkpoints/step_6")
    (work / "checkpoints/step_7").symlink_to(outside / "step_9")
    os.link(place / "model", place / "second")
    return place


def test_only_regular_files_are_published_and_nothing_waits(work):
    spoil(work)
    store, began = Store(), time.monotonic()
    publisher = Publisher(store, "r", 1, work / "checkpoints")
    found = scan.look(work / "checkpoints", scan.names_in(work / "checkpoints"))
    manifest = publisher.publish(found, 5)
    assert [file.path for file in manifest.files] == ["step_5/model", "step_5/second"]
    assert not [key for key, body in store.items() if b"not yours" in body]
    assert time.monotonic() - began < 5


def test_a_file_swapped_for_a_link_or_a_pipe_after_the_look_is_not_opened(work):
    place = work / "checkpoints/step_5"
    for swap in (lambda path: path.symlink_to(work.parent / "outside/private"), os.mkfifo):
        place.mkdir(exist_ok=True)
        (place / "model").unlink(missing_ok=True)
        (place / "model").write_text("not yours")
        found = scan.look(work / "checkpoints", ["step_5"])
        (place / "model").unlink()
        swap(place / "model")
        for act in (scan.sha256, scan.sample):
            with pytest.raises(scan.Changed):
                act(work / "checkpoints", found[0])
        with pytest.raises(scan.Changed):
            Publisher(Store(), "r", 1, work / "checkpoints").publish(found, 5)


def test_a_folder_swapped_for_a_link_leads_nowhere(work):
    found = scan.look(work.parent / "outside", ["step_9"])
    (work / "checkpoints").rmdir()
    (work / "checkpoints").symlink_to(work.parent / "outside")
    assert scan.names_in(work / "checkpoints") == []
    assert scan.look(work / "checkpoints", ["step_9"]) == ()
    with pytest.raises(scan.Changed), scan.opened(work / "checkpoints", found[0]):
        pass
    (work / "results").symlink_to(work.parent / "outside")
    store = Store()
    assert results.upload(store, "p/", work / "results") == 0
    assert store == {}


def test_metrics_and_progress_are_read_from_regular_files_only(work):
    os.mkfifo(work / "metrics.json")
    (work / "progress.jsonl").symlink_to("/dev/zero")
    began = time.monotonic()
    assert results.verify(work / "metrics.json", ["loss"]).metrics is None
    progress = Progress(work / "progress.jsonl", work / "metrics.json")
    progress.look()
    assert progress.step is None
    with pytest.raises(OSError, match="no regular file"), beneath.file(work / "metrics.json"):
        pass
    assert time.monotonic() - began < 2


def test_a_tree_without_an_end_is_left_at_some_depth(work):
    script = "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')\n"
    place = work / "checkpoints/step_5"
    place.mkdir()
    (place / "model").write_text("m")
    subprocess.run([sys.executable, "-c", script], cwd=place, check=True)
    assert [file.path for file in scan.look(work / "checkpoints", ["step_5"])] == ["step_5/model"]
    subprocess.run(["rm", "-rf", str(place)], check=True)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", os.fsdecode(b"\xff"), "tab\there"])
def test_a_name_that_could_not_be_restored_is_not_published(work, name):
    place = work / "checkpoints/step_5"
    place.mkdir()
    (place / name).write_text("x")
    store = Store()
    with pytest.raises(ManifestConflict, match="not published"):
        Publisher(store, "r", 1, work / "checkpoints").publish(scan.look(work / "checkpoints", ["step_5"]), 5)
    assert store == {}


# -- manifests that lie ------------------------------------------------------------------------------------------------------


def manifest_of(*paths, body=b"evil"):
    import hashlib

    files = [{"path": p, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for p in paths]
    return json.dumps({"step": 5, "attempt": 1, "parent": None, "final": True, "files": files}).encode()


@pytest.mark.parametrize(
    "paths",
    [
        ("../evil",),
        ("step_5/../../evil",),
        ("/tmp/evil",),
        ("a//b",),
        ("./a",),
        (".",),
        ("",),
        ("a\0b",),
        ("a\\b",),
        ("a", "a/b"),
        ("a", "a"),
        ("x" * 300,),
        ("x/" * 500 + "x",),
        ("MANIFEST.json",),
    ],
    ids=repr,
)
def test_a_manifest_that_leads_out_writes_nothing_anywhere(work, paths):
    before = sorted(str(p) for p in work.parent.rglob("*"))
    store = Store({"c/MANIFEST.json": manifest_of(*paths), **{f"c/{p}": b"evil" for p in paths}})
    with pytest.raises(TornCheckpoint):
        checkpoints.restore(store, "c/", work / "checkpoints")
    assert sorted(str(p) for p in work.parent.rglob("*")) == before


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=40))
def test_a_path_that_is_safe_stays_inside(path):
    if checkpoints.is_safe(path):
        assert os.path.normpath(f"/base/{path}") == f"/base/{path}"


def test_restoring_replaces_a_link_and_never_writes_through_it(work):
    outside = work.parent / "outside"
    (work / "checkpoints/step_5").symlink_to(outside)
    (work / "checkpoints/.restore-0001-000000000005").symlink_to(outside)
    store = Store({"c/MANIFEST.json": manifest_of("step_5/private"), "c/step_5/private": b"evil"})
    checkpoints.restore(store, "c/", work / "checkpoints")
    assert (outside / "private").read_text() == "not yours"
    assert (work / "checkpoints/step_5/private").read_bytes() == b"evil"
    assert not (work / "checkpoints/step_5").is_symlink()


# -- patterns, numbers, reports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", [r"(.*.*)*.*(?P<step>\d+)X$", r"(a+)+(?P<step>\d+)$", ".*" * 8 + r"(?P<step>\d+)X$"]
)
def test_a_pattern_that_explodes_costs_a_second_and_one_name(pattern):
    said = []
    bounded = matching.BoundedPattern(re.compile(pattern), said.append)
    began = time.monotonic()
    names = ["a" * 200 + "!", "b1X", "a12"]
    patterns.checkpoints(names, bounded)
    assert time.monotonic() - began < 10
    assert len(said) >= 1
    assert "took more than" in said[0]
    began = time.monotonic()
    patterns.checkpoints(names, bounded)
    assert time.monotonic() - began < 0.5, "what is known is not asked again"


def test_a_bounded_pattern_matches_what_the_pattern_matches():
    bounded = matching.BoundedPattern(re.compile(r"^w\.(?P<step>\d+)$"))
    names = ["w.1", "w.x", os.fsdecode(b"w.\xff"), "w.22", "w.²"]
    assert [entry.step for entry in patterns.checkpoints(names, bounded)] == [1, 22]


@pytest.mark.parametrize("name", ["step_9999999999999", "step_" + "9" * 200])
def test_a_step_that_the_controller_would_refuse_is_no_checkpoint(name):
    assert patterns.match(name) is None
    assert patterns.match("step_000000000000000012") == patterns.Entry("step_000000000000000012", 12)


def test_numbers_that_no_float_holds_are_left_out(tmp_path):
    path = tmp_path / "progress.jsonl"
    lines = [
        '{"step": 5, "loss": 1.5}',
        f'{{"step": 1{"0" * 400}, "a": 1{"0" * 400}}}',
        '{"step": -3}',
        '{"step": NaN}',
        "[" * 3000,
    ]
    path.write_text("\n".join(lines) + "\n")
    progress = Progress(path)
    progress.look()
    assert progress.step == 5


@pytest.mark.parametrize(
    "document",
    [{f"k{n}": 1 for n in range(500)}, {"a": "x" * 40_000}, {"a": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]}],
    ids=["many", "long", "deep"],
)
def test_metrics_that_the_controller_would_refuse_stay_in_the_bucket(tmp_path, document):
    (tmp_path / "metrics.json").write_text(json.dumps({"loss": 1, **document}))
    verdict = results.verify(tmp_path / "metrics.json", ["loss"])
    assert (verdict.metrics, verdict.missing) == (None, ())
    assert len(json.dumps(verdict.found)) < 50_000


def test_a_message_is_no_longer_than_the_controller_takes():
    body = Ending(1, "exit_code", "x" * 5000 + os.fsdecode(b"\xff")).body(None)
    assert len(body["message"]) == 2000
    assert json.dumps(body).encode()


def test_a_path_of_the_spec_through_a_link_is_refused_in_a_sentence(work):
    (work / "data").symlink_to(work.parent / "outside")
    with pytest.raises(Failure, match="leads out of the repository"):
        results.within(work, "data/sub")
    assert beneath.link_on_the_way(work / "data/sub", work) == work / "data"
    assert beneath.link_on_the_way(work / "checkpoints/new/one", work) is None


def test_a_stream_without_a_line_is_read_in_bounded_parts(tmp_path):
    path = tmp_path / "progress.jsonl"
    with path.open("wb") as stream:
        stream.truncate(64 * 1024 * 1024)
    progress = Progress(path)
    for _ in range(3):
        progress.look()
    assert len(progress._rest) <= 4 * 1024 * 1024
