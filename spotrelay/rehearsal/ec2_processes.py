"""Which processes belong to a rehearsed instance, and how to end them all, and only them.

A process belongs to an instance when `SPOT_RELAY_ROOT` in its environment is the instance's, or its `HOME` the instance's
folder, when it is in the session of the instance's first process, or when its parent belongs. One sign alone is not enough: a
trainer has a session and an environment of its own, and the agent above it may be killed; a job may clear its environment.
Reads Linux's /proc; elsewhere only the first process's group is known.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MARK, HOME = b"SPOT_RELAY_ROOT=", b"HOME="


@dataclass(frozen=True)
class Process:
    """A living process: its parent, its session, and the root of the instance that its environment names."""

    pid: int
    parent: int
    session: int
    root: str | None


def living() -> list[Process]:
    """Every living process of this machine but this one; environments of other users' processes can't be read."""
    found = []
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # gone between the listing and the reading
        if state in "ZX":
            continue
        environment: list[bytes] = []
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
        root = next((line[len(MARK) :] for line in environment if line.startswith(MARK)), None)
        # An instance's folder is the home of all that it starts, and its root lies in it (`ec2_machine`).
        home = next((line[len(HOME) :] for line in environment if line.startswith(HOME)), None)
        root = root or (home + b"/root" if home else None)
        found.append(Process(int(entry.name), int(parent), int(session), os.fsdecode(root) if root else None))
    return found


def belonging(
    root: Path | str, session: int | None = None, *, below: bool = False, among: list[Process] | None = None
) -> set[int]:
    """Living processes of the instance whose root folder is `root` (`below`: of every instance under that folder).

    `session` must be the id of a process that is not yet reaped, else the number could be someone else's by now.
    """
    among = living() if among is None else among
    prefix = f"{root}/"
    found = set()
    for process in among:
        marked = process.root == str(root) or (below and process.root is not None and process.root.startswith(prefix))
        if marked or (session is not None and process.session == session):
            found.add(process.pid)
    while children := {process.pid for process in among if process.parent in found} - found:
        found |= children
    return found


def kill_all(root: Path | str, session: int | None = None, *, below: bool = False, timeout_s: float = 10) -> int:
    """SIGKILL every process of the instance until none is left; how many there were. As when EC2 takes the machine: no
    process gets a signal it could handle. Raises RuntimeError when one outlives `timeout_s` seconds."""
    killed: set[int] = set()
    deadline = time.monotonic() + timeout_s
    if session is not None and not PROC.is_dir():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
    while alive := belonging(root, session, below=below):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= alive
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(alive)} of {root} can't be ended")
        time.sleep(0.01)
    return len(killed)
