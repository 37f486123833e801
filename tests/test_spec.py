"""What a person may ask for, and what they are told when it is wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.contracts.spec import RunSpec, SpecError, canonical_hash, dump, parse

SMALL: dict[str, Any] = {
    "name": "cloud_prod_001",
    "source": {"repo": "https://github.com/OWNER/REPO.git"},
    "command": "python train.py --out {results}",
}
WHOLE: dict[str, Any] = {
    **SMALL,
    "source": {"repo": "https://github.com/OWNER/REPO.git", "ref": "main", "token": "github-token"},
    "workdir": "ml",
    "docker": True,
    "setup": None,
    "command": "./run_docker.sh train --total_timesteps 5000000 --run_id {run} --output_dir {results}",
    "inputs": [{"from": "datasets/0a1b", "to": "ml/scenarios/datasets/dataset_v1"}],
    "env": {},
    "secrets": {"WANDB_API_KEY": "wandb"},
    "checkpoint": {
        "dir": "ml/models/runs/{run}/checkpoints",
        "pattern": r"model_(?P<step>\d+)\.pt",
        "resume": "--resume {checkpoint.rel}",
        "on_notice": "SIGTERM",
        "keep": 3,
    },
    "results": {
        "dir": "results",
        "metrics": "metrics.json",
        "require": ["collision_rate", "reward_trend", "scenarios"],
    },
    "progress": {"total_steps": 5000000, "metrics": "progress.jsonl"},
    "resources": {"instance_types": ["c6i.xlarge", "c5.xlarge"], "disk_gb": 50, "market": "spot"},
    "limits": {"cost_usd": 11, "duration": "30h", "attempts": 50, "attempts_without_progress": 3},
    "notify": [],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small spec with one value set."""
    document: dict[str, Any] = json.loads(json.dumps(SMALL))
    *parents, last = path.split(".")
    at = document
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = value
    return document


def wrong(document: object, **options: bool) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        parse(document, **options)
    return {f.field: f.message for f in refused.value.fields}


def test_the_whole_spec_is_understood() -> None:
    spec = parse(WHOLE)
    assert spec.limits.duration == timedelta(hours=30)
    assert spec.limits.cost_usd == Decimal(11)
    assert spec.inputs[0].from_ == "datasets/0a1b"


def test_five_mistakes_are_named_at_once() -> None:
    document = {
        **SMALL,
        "name": "Cloud Prod",
        "comand": "typo",
        "limits": {"duration": "30", "cost_usd": "eleven"},
        "resources": {"instance_types": ["c6i.xlarge", "t3.large"]},
    }
    found = wrong(document)
    assert sorted(found) == ["comand", "limits.cost_usd", "limits.duration", "name", "resources.instance_types[1]"]
    assert "did you mean 'command'" in found["comand"]
    assert "90m" in found["limits.duration"]
    assert "burstable" in found["resources.instance_types[1]"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", "../../etc", "a-z"),
        ("source.repo", "https://user:hunter2secret@github.com/O/R.git", "source.token"),
        ("source.repo", "/etc", "https://"),
        ("source.repo", "file:///etc", "https://"),
        ("source.repo", "--upload-pack=touch x", "https://"),
        ("source.ref", "--help", "branch"),
        ("source.ref", "a b", "branch"),
        ("source.token", "ghp_" + "x" * 200, "name of a stored secret"),
        ("workdir", "/root", "under the repository's root"),
        ("checkpoint.dir", "../elsewhere", "under the repository's root"),
        ("checkpoint.dir", "runs/{results}", "{run}"),
        ("checkpoint.pattern", "(", "regular expression"),
        ("checkpoint.pattern", r"model_(\d+)", "step"),
        ("checkpoint.pattern", r"((?P<step>\d+)+)+$", "repeats"),
        ("checkpoint.pattern", r"(a|a)*(?P<step>\d+)$", "repeats"),
        ("checkpoint.keep", 1, "2"),
        ("checkpoint.on_notice", "SIGKILL", "SIGTERM"),
        ("checkpoint.resume", "--from {chekpoint}", "{checkpoint}"),
        ("results.dir", "a\x00b", "control"),
        ("command", "python train.py && echo done", "bash -c"),
        ("command", "python 'train.py", "words"),
        ("command", "", "empty"),
        ("command", "train --from {checkpoint}", "{run}"),
        ("env", {"SPOT_RELAY_RUN": "x"}, "ours"),
        ("env", {"a-b": "x"}, "match"),
        ("secrets", {"TOKEN": "a b"}, "name of a stored secret"),
        ("resources.instance_types", [], "at least 1"),
        ("resources.instance_types", ["c7g.xlarge"], "ARM"),
        ("resources.instance_types", ["huge"], "c6i.xlarge"),
        ("resources.instance_types", ["c5.large", "c5.large"], "twice"),
        ("resources.disk_gb", 5, "8"),
        ("limits.cost_usd", -1, "more than 0"),
        ("limits.cost_usd", "11.005", "cents"),
        ("limits.cost_usd", True, "amount"),
        ("limits.cost_usd", float("nan"), "USD"),
        ("limits.duration", 30, "24h"),
        ("limits.duration", "400d", "31d"),
        ("limits.attempts", "3", "integer"),
        ("notify", ["nobody"], "match"),
    ],
)
def test_a_wrong_value_is_answered_with_what_would_be_right(path: str, value: Any, said: str) -> None:
    found = wrong(changed(path, value))
    assert len(found) == 1
    (field, message), *_ = found.items()
    assert field.startswith(path)
    assert said in message


def test_a_token_in_an_address_is_not_repeated() -> None:
    with pytest.raises(SpecError) as refused:
        parse(changed("source.repo", "https://x-access-token:hunter2secret@github.com/O/R.git"))
    assert "hunter2secret" not in str(refused.value) + str(refused.value.fields)
    with pytest.raises(SpecError) as refused:
        parse(changed("source.token", "ghp_hunter2secret/+"))
    assert "hunter2secret" not in str(refused.value) + str(refused.value.fields)


def test_a_folder_as_repository_is_for_rehearsals_only() -> None:
    assert parse(changed("source.repo", "/some/checkout"), allow_local=True).source.repo == "/some/checkout"


def test_a_name_in_env_and_in_secrets_is_refused() -> None:
    document = {**SMALL, "env": {"KEY": "x"}, "secrets": {"KEY": "stored"}}
    assert list(wrong(document)) == ["secrets.KEY"]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(document: object) -> None:
    assert list(wrong(document)) == ["(the whole)"]


def test_the_same_spec_has_the_same_hash_however_it_is_written() -> None:
    plain = parse(SMALL)
    spelled = dict(reversed(list(dump(plain).items())))
    minutes = {**SMALL, "limits": {"duration": "1800m", "cost_usd": "$11.00"}}
    assert canonical_hash(plain) == canonical_hash(parse(spelled)) == canonical_hash(parse(minutes))
    assert canonical_hash(plain) != canonical_hash(parse({**SMALL, "docker": True}))


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
specs = st.fixed_dictionaries(
    {
        "name": names,
        "source": st.just(SMALL["source"]),
        "command": st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=30),
    },
    optional={
        "docker": st.booleans(),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                "cost_usd": st.decimals("0.01", "9999", places=2).map(str),
                "duration": st.integers(1, 31 * 24 * 60).map(lambda m: f"{m}m"),
                "attempts": st.integers(1, 1000),
            },
        ),
        "env": st.dictionaries(
            st.from_regex(r"[A-Z][A-Z0-9]{0,9}", fullmatch=True),
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
            max_size=3,
        ),
    },
)


@given(specs)
def test_what_is_dumped_is_the_same_spec_again(document: dict[str, Any]) -> None:
    spec = parse(document)
    again = parse(json.loads(json.dumps(dump(spec))))
    assert again == spec
    assert canonical_hash(again) == canonical_hash(spec)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda t: st.lists(t) | st.dictionaries(st.text(), t)
    )
)
def test_no_document_breaks_the_parser(document: object) -> None:
    try:
        assert isinstance(parse(document), RunSpec)
    except SpecError as refused:
        json.dumps([f.as_dict() for f in refused.fields])


@pytest.mark.parametrize(
    "place", ["runs/other/checkpoints", "agent", "./runs/other", "data/*", "d?", "a${b}", "/etc", "../x"]
)
def test_an_input_is_no_other_runs_and_names_one_place(place: str) -> None:
    """It goes into the policy of what the run's instance may read."""
    with pytest.raises(SpecError) as error:
        parse({**SMALL, "inputs": [{"from": place, "to": "data"}]})
    assert [e.field for e in error.value.fields] == ["inputs[0].from"]
