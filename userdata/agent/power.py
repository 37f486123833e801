"""The dead-man's switch and the end: `shutdown`, by name only. The instance never outlives its lease by more than the grace."""

from __future__ import annotations

import math
import subprocess

GRACE_S = 300


def arm(lease_s: float) -> None:
    """(Re)arm the switch for the end of the lease plus the grace, in whole minutes, rounded down: nothing is paid for
    after that. A failure is no reason to stop: the switch armed before remains, and ends the instance earlier.
    """
    minutes = max(1, math.floor((lease_s + GRACE_S) / 60))
    _run("shutdown", "-P", f"+{minutes}")


def off() -> None:
    """Power off now: `-P`, since a halted instance stays billed."""
    if not _run("shutdown", "-P", "now"):
        _run("systemctl", "poweroff")


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
