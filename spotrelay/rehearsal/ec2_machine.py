"""One rehearsed instance as a machine: a folder, a metadata service, a real process tree, a console.

Layout of its folder: `user-data`, `console.log`, `shims/`, `shims.log`, `root/` (its `SPOT_RELAY_ROOT`). Never
touches a process that is not its own.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import shlex
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spotrelay.rehearsal import ec2_shims
from spotrelay.rehearsal.ec2_imds import Metadata
from spotrelay.rehearsal.ec2_processes import Process, belonging, kill_all

CONSOLE_BYTES = 64 * 1024


def read_user_data(value: object) -> bytes:
    """User data as the instance gets it. moto hands out base64 or text, by the way the template came in;
    zipped user data is unzipped, as cloud-init does."""
    raw = str(value or "").encode()
    if not raw.startswith(b"#!"):
        with contextlib.suppress(binascii.Error):
            raw = base64.b64decode(raw, validate=True)
    return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw


class Machine:
    """An instance's processes. `instance` is moto's; `env` is what every process gets beside its own paths."""

    def __init__(self, instance: Any, folder: Path, metadata: Metadata, control: str, env: dict[str, str]) -> None:
        self.instance = instance
        self.folder = folder
        self.root = folder / "root"
        self.metadata = metadata
        self.env = env
        self.price: float | None = None
        self.launched_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.reason: tuple[str, str] | None = None
        self.poweroff: threading.Timer | None = None
        self.interruption: threading.Timer | None = None
        self.gone = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self.root.mkdir(parents=True, exist_ok=True)
        ec2_shims.install(folder / "shims", instance.id, control)

    def boot(self, *, fail: bool) -> None:
        """Run the user data in a session of its own; `fail`: a boot script that gives up at once."""
        script = b"#!/bin/sh\necho 'boot failure asked for by the rehearsal' >&2\nexit 1\n"
        user_data = script if fail else read_user_data(self.instance.user_data)
        path = self.folder / "user-data"
        path.write_bytes(user_data)
        problem = self._problem(user_data)
        if problem:
            self._say(problem)
            return
        address = self.metadata.start()
        shims = self.folder / "shims"
        env = {
            "PATH": ec2_shims.search_path(shims), "HOME": str(self.folder), "LANG": "C.UTF-8",
            "SPOT_RELAY_ROOT": str(self.root), "AWS_EC2_METADATA_SERVICE_ENDPOINT": address, **self.env,
        }  # fmt: skip
        # A login shell sets PATH anew from /etc/profile, which would uncover the real commands.
        (self.folder / ".profile").write_text(f"PATH={shlex.quote(env['PATH'])}\nexport PATH\n")
        # Named by its interpreter and not executed itself: a file just written can be "busy" in a process with threads.
        interpreter = user_data.split(b"\n", 1)[0][2:].decode().split()
        with self._lock, (self.folder / "console.log").open("ab") as console:
            if self.gone.is_set():
                return
            self._process = subprocess.Popen(
                [*interpreter, str(path)],
                cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def alive(self, among: list[Process]) -> list[int]:
        """Its living processes."""
        session = self._process.pid if self._process and self._process.returncode is None else None
        return sorted(belonging(self.root, session, among=among))

    def kill(self) -> None:
        """End everything at once, as EC2 does; returns when nothing is left. Asked twice, does nothing more."""
        for timer in (self.poweroff, self.interruption):
            if timer:
                timer.cancel()
        with self._lock:
            self.gone.set()
            process = self._process
            # Not reaped before, so that the session's number can't belong to another by now.
            session = process.pid if process and process.returncode is None else None
            kill_all(self.root, session)
            if process:
                process.wait()
        self.metadata.stop()
        self._remove_containers()

    def console(self) -> str:
        path = self.folder / "console.log"
        return path.read_bytes()[-CONSOLE_BYTES:].decode(errors="replace") if path.exists() else ""

    def _problem(self, user_data: bytes) -> str | None:
        if not user_data:
            return "no user data: nothing to run"
        if not user_data.startswith(b"#!"):
            return "the user data is not a script: it must begin with #!"
        absolute = ec2_shims.absolute_commands(user_data.decode(errors="replace"))
        if absolute:
            return f"not run: {', '.join(absolute)} would reach this machine; name commands without a path"
        return None

    def _say(self, line: str) -> None:
        with (self.folder / "console.log").open("a") as console:
            console.write(f"spot-relay rehearsal: {line}\n")

    def _remove_containers(self) -> None:
        """Containers are the engine's children, not ours, and would run on."""
        docker = ec2_shims.real_docker()
        if not docker or not any(command == "docker" for command, _ in ec2_shims.asked(self.folder)):
            return
        label = f"label={ec2_shims.DOCKER_LABEL}={self.instance.id}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            found = subprocess.run(
                [docker, "ps", "-aq", "--filter", label], capture_output=True, timeout=30, check=False
            )
            if found.stdout.split():
                command = [docker, "rm", "-f", *found.stdout.decode().split()]
                subprocess.run(command, capture_output=True, timeout=30, check=False)
