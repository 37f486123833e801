"""A spec that means harm is refused by its field, quickly, and without repeating what may be a secret."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.contracts.secretlike import hide, kind
from chalicelib.contracts.spec import RunSpec, SpecError, parse
from spotrelay.specfile import SpecFileError, load
from tests.test_spec import SMALL, changed, wrong

GITHUB = "ghp_" + "a1B2" * 9
FINE_GRAINED = "github_pat_" + "11ABCDEFG0" * 6
AWS = "AKIA" + "ABCDEFGH12345678"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA"
DIRECTORIES = (
    "workdir",
    "checkpoint.dir",
    "results.dir",
    "results.metrics",
    "progress.metrics",
    "inputs.to",
    "inputs.from",
)
OUTSIDE = (
    "../up",
    "a/../../b",
    "a/..",
    "/etc",
    "//etc",
    "~root",
    "a\0b",
    "a\nb",
    "..\\up",
    "a/...",
    "a./b",
    "a/b.",
    "",
    "a/" + "b" * 256,
    "a" * 2000,
)


def with_path(field: str, value: str) -> dict[str, Any]:
    if field.startswith("inputs."):
        entry = {"from": "data", "to": "data", field.removeprefix("inputs."): value}
        return {**SMALL, "inputs": [entry]}
    return changed(field, value)


@pytest.mark.parametrize("field", DIRECTORIES)
@pytest.mark.parametrize("value", OUTSIDE, ids=repr)
def test_a_path_that_leads_out_is_refused_by_its_field(field: str, value: str) -> None:
    assert list(wrong(with_path(field, value))) == [field.replace("inputs.", "inputs[0].")]


@pytest.mark.parametrize("field", DIRECTORIES)
@pytest.mark.parametrize(
    "value", ["$(touch x)", "`touch x`", "a;b", "a b", "a'b\"c", "-rf", "&& true", "ünïcode"], ids=repr
)
def test_shell_text_in_a_path_is_text(field: str, value: str) -> None:
    if field == "inputs.from" and "$" in value:
        assert list(wrong(with_path(field, value))) == ["inputs[0].from"]
    else:
        assert parse(with_path(field, value))


@pytest.mark.parametrize("value", ["*", "runs/*", "data/?", "data/${aws:username}"])
def test_a_wildcard_never_gets_into_a_policy(value: str) -> None:
    assert "'*'" in wrong(with_path("inputs.from", value))["inputs[0].from"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("setup", "x" * 16385),
        ("command", "x" * 16385),
        ("source.repo", "https://github.com/" + "x" * 2048),
        ("source.ref", "x" * 256),
        ("inputs", [{"from": "a", "to": f"b{n}"} for n in range(51)]),
        ("env", {f"A{n}": "x" for n in range(101)}),
        ("env", {"A" * 257: "x"}),
        ("env", {"A": "x" * 8193}),
        ("env", {"A": "a\0b"}),
        ("secrets", {f"A{n}": "x" for n in range(11)}),
        ("checkpoint.pattern", r"(?P<step>\d+)" + "x" * 200),
        ("checkpoint.resume", "x" * 4097),
        ("results.require", ["x"] * 101),
        ("results.require", ["x" * 201]),
        ("results.require", ["a\0"]),
        ("resources.instance_types", [f"c{n}.large" for n in range(21)]),
        ("notify", [f"a{n}@example.org" for n in range(11)]),
        ("notify", ["a@" + "b" * 260 + ".org"]),
        ("name", "x" * 64),
        ("source.repo", "https://github.com:99999/O/R"),
        ("source.repo", "git@-oProxyCommand:O/R"),
        ("source.repo", "ext::sh -c touch% x"),
        ("aws_credentials", "yes"),
    ],
)
def test_every_field_has_a_bound(path: str, value: Any) -> None:
    fields = list(wrong(changed(path, value)))
    assert fields
    assert all(field.startswith(path) for field in fields)


@pytest.mark.parametrize(
    "secret", [GITHUB, FINE_GRAINED, AWS, KEY, "gho_" + "x" * 36, "hf_" + "x" * 34], ids=lambda s: s[:8]
)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("env", "env.TOKEN"),
        ("setup", "setup"),
        ("command", "command"),
        ("source.token", "source.token"),
        ("source.ref", "source.ref"),
        ("checkpoint.resume", "checkpoint.resume"),
        ("results.require", "results.require[0]"),
        ("tokn", "tokn"),
    ],
)
def test_a_secret_in_a_spec_is_refused_and_never_repeated(path: str, field: str, secret: str) -> None:
    value: Any = {"env": {"TOKEN": f"a {secret}"}, "results.require": [secret]}.get(path, f"x {secret}")
    value = secret if path == "source.token" else value
    with pytest.raises(SpecError) as refused:
        parse(changed(path, value))
    assert [f.field for f in refused.value.fields] == [field]
    told = str(refused.value) + json.dumps([f.as_dict() for f in refused.value.fields])
    assert secret.splitlines()[0] not in told
    if path in ("env", "setup", "command"):
        assert "under secrets:" in told


def test_a_secret_as_a_key_is_not_repeated_either() -> None:
    for document in (changed("env", {GITHUB: "x"}), changed(GITHUB, 1), changed("secrets", {GITHUB: "github-token"})):
        with pytest.raises(SpecError) as refused:
            parse(document)
        assert GITHUB not in str(refused.value) + json.dumps([f.as_dict() for f in refused.value.fields])


def test_the_name_that_aws_gave_to_a_secret_is_enough() -> None:
    found = wrong(changed("env", {"AWS_SECRET_ACCESS_KEY": "whatever"}))
    assert "aws_credentials" in found["env.AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(
    "text", ["desk_lamp", "task-1234567890123456789012", "sk-learn", "AKIA", "ghp_short", "a hf_model"]
)
def test_ordinary_text_is_no_secret(text: str) -> None:
    assert kind(text) is None
    assert hide(text) == text


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=60), st.sampled_from(DIRECTORIES))
def test_whatever_a_path_is_it_stays_inside_or_is_refused(value: str, field: str) -> None:
    try:
        spec = parse(with_path(field, value))
    except SpecError as refused:
        json.dumps([f.as_dict() for f in refused.fields])
        return
    assert isinstance(spec, RunSpec)
    parts = value.split("/")
    assert not value.startswith("/")
    assert ".." not in parts
    assert "\0" not in value


@pytest.mark.parametrize(
    "document",
    [
        {**SMALL, **{f"k{n}": n for n in range(9000)}},
        {**SMALL, "x" * 60_000: 1},
        {**SMALL, "env": {f"a-{n}": "x" for n in range(5000)}},
        {**SMALL, "command": "a " * 8000},
        {**SMALL, "command": '"' * 8001},
        {**SMALL, "checkpoint": {"pattern": "(?P<step>" * 20 + ")" * 20}},
        {**SMALL, "checkpoint": {"pattern": "(" * 90 + ")" * 90}},
        {**SMALL, "checkpoint": {"pattern": r"(?P<step>\d+){1,65535}"}},
    ],
    ids=["keys", "long-key", "env", "words", "quotes", "groups", "deep", "counted"],
)
def test_what_is_refused_is_refused_quickly_and_shortly(document: dict[str, Any]) -> None:
    began = time.process_time()
    said = ""
    try:
        parse(document)
    except SpecError as refused:
        said = str(refused) + json.dumps([f.as_dict() for f in refused.fields])
    assert len(said) < 64 * 1024
    assert time.process_time() - began < 2


LAUGHS = "a: &a [x,x]\n" + "".join(f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: " + "[" * 100_000,
        "{" * 100_000,
        "a: &a\n  <<: *a\n",
        "x: 1\n" * 60_000,
        "- " * 60_000,
        "a: " + "1" * 200_000,
    ],
    ids=["laughs", "lists", "mappings", "merge", "same-key", "nested", "number"],
)
def test_yaml_that_grows_is_refused_quickly(text: str) -> None:
    began = time.process_time()
    with pytest.raises(SpecFileError):
        load(text.encode())
    assert time.process_time() - began < 5
