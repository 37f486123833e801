"""The job that a rehearsal runs: a checkout made into a repository, its spec pointed at it, and what it should end with."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chalicelib.contracts import templates
from chalicelib.contracts.spec import RunSpec, parse
from spotrelay.specfile import read

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/quickstart"
_STEPS_PER_CHECKPOINT = 10000  # the quickstart's own; its --pace is seconds between checkpoints
_GIT = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal@localhost", "-c", "init.defaultBranch=main")


class JobError(Exception):
    """The job can't be rehearsed; the message says what to change."""


@dataclass(frozen=True)
class Reference:
    """How an uninterrupted run of the same job ends: SHA-256 of each file it leaves among its results."""

    files: Mapping[str, str]
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    document: Mapping[str, Any]
    spec: RunSpec
    repo: Path
    ours: bool  # the quickstart: its uninterrupted end can be known in seconds

    def named(self, name: str, lasts_s: float | None = None) -> dict[str, Any]:
        """The spec under another name; `lasts_s` is how long the quickstart is then made to train, at least."""
        command = str(self.document["command"])
        steps = re.search(r"--total_timesteps (\d+)", command)
        if self.ours and lasts_s is not None and steps:
            pace = lasts_s * _STEPS_PER_CHECKPOINT / int(steps[1])
            command = re.sub(r"--pace \S+", f"--pace {pace:g}", command)
        return {**self.document, "name": name, "command": command}


def prepare(folder: Path, run: Path | None, repo: Path | None, overrides: Mapping[str, str] | None = None) -> Job:
    """Copy the checkout, commit all of it, and point the spec at it. Raises JobError, SpecFileError, SpecError.

    `overrides` replaces texts in the command, to make a rehearsal shorter.
    """
    ours = run is None
    checkout = (repo or (EXAMPLE if ours else (run or EXAMPLE).parent)).resolve()
    if not checkout.is_dir():
        raise JobError(f"REPO={checkout} is no folder: name the checkout that the spec's paths are relative to.")
    document = read(run or EXAMPLE / "run.yaml")
    target = folder / "repository"
    _commit(checkout, target)
    source = {"repo": str(target), "ref": "main"}
    given = document.get("source")
    if isinstance(given, dict):
        # The token is for the real repository; this one is a folder.
        source = {**{k: v for k, v in given.items() if k not in ("repo", "ref", "token")}, **source}
    document = {**document, "source": source}
    for old, new in (overrides or {}).items():
        document["command"] = str(document["command"]).replace(old, new)
    return Job(document, parse(document, allow_local=True), target, ours)


def reference(job: Job, folder: Path) -> Reference:
    """Run the quickstart to its end without an interruption, at full speed. Raises JobError."""
    shutil.copytree(job.repo, folder, ignore=shutil.ignore_patterns(".git"))
    values = {"run": job.spec.name, "attempt": "1", "results": str(folder / "results"), "results.rel": "results"}
    argv = templates.render_argv(job.spec.command, None, values)
    pace = argv.index("--pace")
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    for command in (["bash", "-eu", "-c", job.spec.setup or "true"], argv[:pace] + argv[pace + 2 :]):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise JobError(f"The uninterrupted run failed: {(done.stderr or done.stdout)[-500:]}")
    results = folder / "results"
    files = {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"
    }
    return Reference(files, json.loads((results / "metrics.json").read_text("utf-8")))


def _commit(checkout: Path, target: Path) -> None:
    """What git knows of the checkout, uncommitted changes included, as one commit; everything when git knows nothing."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        capture_output=True,
        check=False,
    )
    names = [name for name in tracked.stdout.decode().split("\0") if name] if tracked.returncode == 0 else []
    if not names:
        shutil.copytree(checkout, target, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__"))
    for name in names:
        source = checkout / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    for arguments in (
        ["init", "-q"],
        ["add", "-A", "-f"],
        ["commit", "-q", "--allow-empty", "-m", "the rehearsed job"],
    ):
        done = subprocess.run(["git", *_GIT, *arguments], cwd=target, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise JobError(f"git {arguments[0]} failed: {done.stderr.strip()}")
