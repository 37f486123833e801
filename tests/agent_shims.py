"""Stand-ins for privileged commands, put in front of PATH by every test that runs the boot script or the agent.

Each only writes down how it was called. Without them such a test would power off the machine it runs on.
"""

from __future__ import annotations

import os
from pathlib import Path

PRIVILEGED = (
    "shutdown",
    "poweroff",
    "reboot",
    "halt",
    "apt-get",
    "systemctl",
    "useradd",
    "usermod",
    "groupadd",
    "iptables",
    "mount",
    "umount",
    "runuser",
    "docker",
)


def make(folder: Path) -> tuple[dict[str, str], Path]:
    """A copy of the environment with the stand-ins first in PATH and no AWS settings, and the file of their calls."""
    shims, calls = folder / "shims", folder / "calls.txt"
    shims.mkdir()
    calls.touch()
    for name in PRIVILEGED:
        path = shims / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{calls}"\n')
        path.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SPOT_RELAY_"))}
    env["PATH"] = f"{shims}{os.pathsep}{env['PATH']}"
    return env, calls
