"""Which names are checkpoints, and of which step."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import matching
import patterns
from patterns import Entry


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("rl_model_10000_steps.zip", 10000),
        ("ppo_v2_5000000_steps.zip", 5000000),
        ("checkpoint-500", 500),
        ("epoch=0-step=10.ckpt", 10),
        ("epoch=3-step=1200-v1.ckpt", 1200),
        ("epoch=1-val_loss=0.25-step=77.ckpt", 77),
        ("snapshot.pt", None),
        ("last.ckpt", None),
        ("step_12", 12),
        ("step-000012.pt", 12),
        ("global_step400", 400),
        ("ckpt_00020000", 20000),
        ("ckpt_7.npz", 7),
        ("model_300.pt", 300),
    ],
)
def test_known_names_tell_their_step(name, step):
    assert patterns.match(name) == Entry(name, step)


@pytest.mark.parametrize(
    "name",
    [
        ".tmp_100",
        ".step_100",
        "step_100.tmp",
        "checkpoint-500.partial",
        "~step_5",
        "tmp-checkpoint-500",
        "README.md",
        "progress.jsonl",
        "rl_model_replay_buffer_10000_steps.pkl",
        "hparams.yaml",
    ],
)
def test_other_and_temporary_names_are_no_checkpoints(name):
    assert patterns.match(name) is None


def test_steps_are_compared_as_numbers():
    names = ["checkpoint-1000", "checkpoint-500", "checkpoint-9"]
    assert [entry.step for entry in patterns.checkpoints(names)] == [9, 500, 1000]


def test_a_name_without_a_step_counts_only_where_no_name_has_one():
    assert patterns.checkpoints(["last.ckpt", "epoch=0-step=10.ckpt"]) == [Entry("epoch=0-step=10.ckpt", 10)]
    assert patterns.checkpoints(["last.ckpt"]) == [Entry("last.ckpt", None)]


def test_the_users_own_pattern_replaces_the_known_ones():
    pattern = patterns.compile_pattern(r"^weights\.(?P<step>\d+)$")
    assert patterns.checkpoints(["weights.3", "step_9"], matching.BoundedPattern(pattern)) == [Entry("weights.3", 3)]


@pytest.mark.parametrize("pattern", ["(", "step_\\d+"])
def test_a_pattern_without_step_is_refused(pattern):
    with pytest.raises(patterns.PatternError):
        patterns.compile_pattern(pattern)


def test_what_sb3_saves_beside_a_model_belongs_to_it():
    names = [
        "m_10_steps.zip",
        "m_replay_buffer_10_steps.pkl",
        "m_vecnormalize_10_steps.pkl",
        "m_replay_buffer_20_steps.pkl",
    ]
    assert patterns.companions("m_10_steps.zip", names) == [
        "m_replay_buffer_10_steps.pkl",
        "m_vecnormalize_10_steps.pkl",
    ]
