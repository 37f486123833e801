"""The trainer is signalled as a whole and waited for as a whole."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import trainer as training
from clock import Clock
from failures import Failure

SAVES = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
def save(*_):
    time.sleep(1.5)
    (out / "saved").write_text("whole")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
(out / "ready").touch()
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def start(tmp_path):
    training.become_subreaper()
    started = []
    output = (tmp_path / "log").open("wb")

    def begin(argv, **options):
        job = training.Trainer.start(argv, tmp_path, {"PATH": os.environ["PATH"]}, output, Clock(), **options)
        started.append(job)
        return job

    yield begin
    for job in started:
        job.kill()
    output.close()


def wait_for(path):
    until = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize("detached", ["", "setsid "])
def test_a_child_that_saves_is_waited_for_though_its_wrapper_died(start, tmp_path, detached):
    (tmp_path / "train.py").write_text(SAVES)
    script = tmp_path / "run.sh"
    script.write_text(f'#!/bin/sh\n{detached}"{sys.executable}" train.py "$PWD" &\nwait\n')
    script.chmod(0o755)
    job = start(["./run.sh"])
    wait_for(tmp_path / "ready")
    job.signal(signal.SIGTERM)
    time.sleep(0.3)
    assert job.exit_code == 128 + signal.SIGTERM
    assert not job.ended()
    assert job.wait(10)
    assert (tmp_path / "saved").read_text() == "whole"


def test_what_ignores_the_signal_is_killed(start):
    job = start([sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
    time.sleep(0.3)
    job.signal(signal.SIGTERM)
    assert not job.wait(0.3)
    job.kill()
    assert job.exit_code == 128 + signal.SIGKILL


def test_a_file_names_its_process_group_while_anything_of_it_lives(start, tmp_path):
    mark = tmp_path / "state/trainer"
    job = start(["/bin/sh", "-c", "sleep 0.5 & exit 0"], mark=mark)
    assert os.getpgid(int(mark.read_text())) == int(mark.read_text())
    assert job.wait(10)
    assert not mark.exists()


def test_an_exit_code_is_kept(start):
    job = start(["/bin/sh", "-c", "exit 7"])
    assert job.wait(5)
    assert job.exit_code == 7


def test_a_command_that_is_not_there_says_what_to_do(start):
    with pytest.raises(Failure, match="not found: commit it") as caught:
        start(["./no-such-command"])
    assert (caught.value.reason, caught.value.code) == ("command", 127)


def test_a_command_that_may_not_be_executed_says_what_to_do(start, tmp_path):
    (tmp_path / "run.sh").write_text("true\n")
    with pytest.raises(Failure, match="make it executable"):
        start(["./run.sh"])


def test_containers_are_signalled_and_waited_for(start, tmp_path, monkeypatch):
    shims = tmp_path / "shims"
    shims.mkdir()
    docker = shims / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n'
        f"case $1 in ps) [ -e {tmp_path}/stopped ] || echo c0ffee ;; kill) touch {tmp_path}/stopped ;; esac\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    job = start(["/bin/true"], docker=True)
    assert not job.wait(0.2)
    job.signal(signal.SIGTERM)
    assert job.wait(5)
    assert "kill -s SIGTERM c0ffee" in (tmp_path / "calls").read_text()


def test_the_command_sees_nothing_of_the_agents_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "secret")
    assert "secret" not in training.environment([("A", "b")], tmp_path).values()
