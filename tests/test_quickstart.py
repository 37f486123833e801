"""The example trains for real, and an interruption leaves no trace in what it learns."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chalicelib.contracts.spec import parse
from spotrelay.specfile import read

EXAMPLE = Path(__file__).parent.parent / "examples/quickstart"
TOTAL = 60000


class Job:
    """A copy of the example's work: a dataset and a folder to train in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("generate", "--dataset_dir", "dataset")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(EXAMPLE / "train.py"), *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def training(self, out: str, *more: str) -> list[str]:
        given = ("--dataset_dir", "dataset", "--emulator_params", str(EXAMPLE / "emulator_params.json"))
        fixed = ("--total_timesteps", str(TOTAL), "--run_id", out, "--output_dir", out)
        return ["train", *given, *fixed, *more]

    def checkpoints(self, out: str) -> list[Path]:
        folder = self.folder / f"models/runs/{out}/checkpoints"
        return sorted(folder.glob("step_*"), key=lambda p: int(p.name.removeprefix("step_")))

    def interrupt(self, out: str, number: signal.Signals) -> str:
        """Train slowly until the second checkpoint is there, then signal. Gives the output."""
        command = self.command(*self.training(out, "--pace", "0.4"))
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 30
            while len(self.checkpoints(out)) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            process.send_signal(number)
            said, _ = process.communicate(timeout=30)
        assert process.returncode == (143 if number is signal.SIGTERM else -9)
        return said


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(tmp_path_factory.mktemp("quickstart"))
    job.run(*job.training("whole"))
    return job


def outcome(job: Job, out: str) -> tuple[bytes, bytes]:
    return (job.folder / out / "metrics.json").read_bytes(), (job.folder / out / "weights.npy").read_bytes()


def steps(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"^step (\d+) ", text, re.MULTILINE)]


def test_it_learns(job: Job) -> None:
    lines = [json.loads(line) for line in (job.folder / "whole/progress.jsonl").read_text().splitlines()]
    assert lines[0]["collision_rate"] > 0.9
    assert lines[-1]["collision_rate"] < 0.1
    metrics = json.loads(outcome(job, "whole")[0])
    assert metrics["reward_trend"] > 0
    assert len(metrics["scenarios"]) == 16


def test_interrupted_with_a_signal_it_resumes_to_the_byte_and_repeats_no_step(job: Job) -> None:
    before = job.interrupt("warned", signal.SIGTERM)
    last = job.checkpoints("warned")[-1]
    after = job.run(*job.training("warned", "--resume", str(last)))
    assert outcome(job, "warned") == outcome(job, "whole")
    assert steps(before) + steps(after) == list(range(5000, TOTAL + 1, 5000))


def test_killed_it_resumes_to_the_byte_from_its_last_checkpoint(job: Job) -> None:
    job.interrupt("killed", signal.SIGKILL)
    job.run(*job.training("killed", "--resume", str(job.checkpoints("killed")[-1])))
    assert outcome(job, "killed") == outcome(job, "whole")


def test_another_seed_learns_something_else(job: Job) -> None:
    job.run(*job.training("other", "--seed", "2"))
    assert outcome(job, "other") != outcome(job, "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--dataset_dir", "nowhere"), "train.py generate"),
        (("--resume", "nowhere"), "no checkpoint"),
        (("--total_timesteps", "60001"), "multiples"),
        (("--total_timesteps", "0"), "more than 0"),
        (("--checkpoint_every", "0"), "more than 0"),
        (("--emulator_params", "nowhere.json"), "emulator parameters"),
    ],
)
def test_wrong_input_is_said_in_a_sentence(job: Job, change: tuple[str, str], said: str) -> None:
    assert said in job.run(*job.training("bad", *change), code=2)


def test_a_checkpoint_of_another_seed_is_refused(job: Job) -> None:
    checkpoint = str(job.checkpoints("whole")[0])
    assert "--seed 1" in job.run(*job.training("bad", "--resume", checkpoint, "--seed", "3"), code=2)


def test_its_spec_is_accepted() -> None:
    assert parse(read(EXAMPLE / "run.yaml")).name == "quickstart"
