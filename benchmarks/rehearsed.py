"""One warned interruption rehearsed at the pace of time: the pause of the training, the calls to a launch, the agent's share.

The rehearsal is `make rehearse`'s own with nothing shortened: EC2's two minutes, the boot, the heartbeats. Beside it the agents'
processes are watched from outside, in /proc, without the trainers that they start.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from spotrelay.rehearsal.conduct import Show
from spotrelay.rehearsal.ec2_processes import belonging
from spotrelay.rehearsal.rehearse import HOME, Options, rehearse
from spotrelay.rehearsal.watch import Watch

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
# Three times the steps of a rehearsal: the replacement is there before the end.
_LONGER = {"--total_timesteps 400000": "--total_timesteps 1200000"}
_USER, _SYSTEM, _STARTED = 10, 11, 18  # of the fields after the state
_OURS_S, _SETUP_S = 5.0, 180.0


@dataclass
class Share:
    """An agent's process, seen at some moments while its trainer trained: (monotonic s, processor s), the most memory in MB."""

    seen: list[tuple[float, float]] = field(default_factory=list)
    memory: float = 0.0

    @property
    def of_a_core(self) -> float:
        (began, before), (ended, after) = self.seen[0], self.seen[-1]
        return (after - before) / (ended - began)


class Beside(Show):
    """What a rehearsal shows, used to look at its agents."""

    def __init__(self, home: Path) -> None:
        self._home, self._looked = home, 0.0
        self.shares: dict[int, Share] = {}

    def look(self, run: Mapping[str, Any], watch: Watch, total: int | None) -> None:
        now = time.monotonic()
        if now - self._looked < 1:
            return
        self._looked = now
        agents = sorted((numbers[_STARTED], pid, numbers) for pid in self._agents() if (numbers := _numbers(pid)))
        begun = sum(watch.last(number) > 0 for number in (1, 2))  # what an agent does before it trains is not counted
        for _, pid, numbers in agents:
            if pid in self.shares or len(self.shares) < begun:
                self._look_at(pid, numbers, now)

    def _agents(self) -> list[int]:
        return [pid for pid in belonging(self._home, below=True) if _is_agent(pid)]

    def _look_at(self, pid: int, numbers: list[int], now: float) -> None:
        share = self.shares.setdefault(pid, Share())
        share.seen.append((now, (numbers[_USER] + numbers[_SYSTEM]) / _TICKS))
        with contextlib.suppress(OSError):  # it has just ended
            status = (_PROC / f"{pid}/status").read_text()
            share.memory = max(share.memory, int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def _numbers(pid: int) -> list[int] | None:
    """The fields of /proc/PID/stat after the state (proc(5)); None when it has ended."""
    try:
        return [int(field) for field in (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()[1:]]
    except OSError:
        return None


def _is_agent(pid: int) -> bool:
    try:
        argv = (_PROC / f"{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"python" in argv[0] and len(argv) > 1 and argv[1].endswith(b"/agent")


def figures(quick: bool) -> list[Figure]:
    """Quick: at a tenth of the time's pace, as `make rehearse`; pause and share say nothing of a real instance then."""
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        home = Path(folder)
        beside = Beside(home)
        scale, overrides = (0.1, None) if quick else (1.0, _LONGER)
        report = rehearse(Options(home=home, time_scale=scale, overrides=overrides), beside)
    if not report["ok"]:
        raise RuntimeError(f"the rehearsal failed: {report}")
    (run,) = report["runs"]
    found = [
        Figure("relaunch", "AWS calls from warning to launch answered", run["relaunch_calls"], 4.0),
        Figure("lost", "steps lost in a warned interruption", run["steps_lost"], 0.0),
    ]
    if quick:
        return [*found, Figure("setup", "a rehearsal, once installed, s", report["seconds"], _SETUP_S)]
    shares = [share for share in beside.shares.values() if len(share.seen) > 30]
    details = {
        "shares": [share.of_a_core for share in shares],
        "windows_s": [s.seen[-1][0] - s.seen[0][0] for s in shares],
    }
    return [
        *found,
        Figure(
            "pause",
            "pause of the training in a warned interruption, save and restore included, s",
            run["downtime_s"],
            _OURS_S,
        ),
        Figure(
            "processor",
            "agent's share of a core while training, %",
            100 * statistics.mean(details["shares"]),
            1.0,
            details=details,
        ),
        Figure("memory", "agent's memory at most, MB", max(share.memory for share in shares), 80.0),
    ]
