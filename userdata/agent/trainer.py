"""The user's command as a process of its own: started without privileges, signalled as a whole, waited for as a whole.

A signal goes to every process of its session and to every container on the instance. It has ended when all of those have:
a shell wrapper without a trap dies at once while its child still saves.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clock import Clock
from failures import Failure

TRAINING_USER = "relay"
_PR_SET_CHILD_SUBREAPER = 36
_DOCKER_TIMEOUT = 20


def become_subreaper() -> None:
    """Orphans of the trainer become children of the agent instead of init's, so that they can be found and waited for."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def training_user() -> pwd.struct_passwd | None:
    """The user that the boot script made for training; None in a rehearsal, where none is made."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(TRAINING_USER)
    except KeyError:
        return None


def uid() -> int | None:
    """The training user's number, if there is one."""
    user = training_user()
    return user.pw_uid if user else None


def privileges(docker: bool) -> dict[str, Any]:
    """What Popen needs to run something as the training user.

    Not `runuser`: it stays as a parent that, signalled with its group, kills the trainer two seconds into its save.
    """
    user = training_user()
    if user is None:
        return {}
    groups: list[int] = []
    if docker:
        import grp

        with contextlib.suppress(KeyError):
            groups.append(grp.getgrnam("docker").gr_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups}


def own(path: Path) -> None:
    """Give a folder with all it holds to the training user, without following links."""
    user = training_user()
    if user is None:
        return
    os.lchown(path, user.pw_uid, user.pw_gid)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                os.lchown(os.path.join(folder, name), user.pw_uid, user.pw_gid)  # noqa: PTH118


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    zombie: bool


def _processes() -> list[_Process]:
    """All processes, from /proc: one short read each. Empty where there is no /proc."""
    found: list[_Process] = []
    with contextlib.suppress(FileNotFoundError):
        for folder in Path("/proc").iterdir():
            name = folder.name
            if not name.isdigit():
                continue
            try:
                text = (folder / "stat").read_bytes()
            except OSError:
                continue
            # The name in parentheses may hold anything, blanks and parentheses too: fields count from the last one.
            fields = text[text.rindex(b")") + 2 :].split()
            found.append(_Process(int(name), int(fields[1]), int(fields[3]), fields[0] in (b"Z", b"X")))
    return found


class Trainer:
    """One started command. `exit_code` is the shell convention's: 128 + n when signal n ended it."""

    def __init__(self, process: subprocess.Popen[bytes], clock: Clock, docker: bool, mark: Path | None = None) -> None:
        self._process = process
        self._clock = clock
        self._docker = docker
        self._session = process.pid
        self._mark = mark
        if mark:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(f"{process.pid}\n")

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        output: IO[bytes],
        clock: Clock,
        docker: bool = False,
        mark: Path | None = None,
    ) -> Trainer:
        """Start `argv`. Raises Failure(command) when it can't be run at all.

        `mark` is a file that names its process group while it lives: should the agent be killed, the boot script ends it,
        since nobody would publish what it trains then.
        """
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **privileges(docker),
            )
        except FileNotFoundError:
            if not cwd.is_dir():
                raise Failure(
                    "command", f"The folder {cwd.name!r} (workdir) isn't in the repository: correct workdir."
                ) from None
            raise Failure(
                "command",
                f"The command {argv[0]!r} was not found: commit it to the repository, or install it in setup.",
                127,
            ) from None
        except PermissionError:
            raise Failure(
                "command",
                f"The command {argv[0]!r} may not be executed: make it executable (git update-index --chmod=+x).",
                126,
            ) from None
        except OSError as error:
            raise Failure(
                "command", f"The command {argv[0]!r} can't be started: {error.strerror}. Does it lack a #! line?", 126
            ) from None
        return cls(process, clock, docker, mark)

    @property
    def exit_code(self) -> int | None:
        """The code of the command itself; None while it runs. Its children may still be running."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def died_of_signal(self) -> bool:
        """Whether a signal ended the command that it did not handle."""
        return (self._process.poll() or 0) < 0

    def ended(self) -> bool:
        """Whether the command, everything it started, and all containers have ended."""
        over = self._process.poll() is not None and not self._members() and not self._containers()
        if over and self._mark:
            self._mark.unlink(missing_ok=True)  # its number may be another's from now on
        return over

    def signal(self, number: signal.Signals) -> None:
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        containers = self._containers()
        if containers:
            self._run_docker("kill", "-s", number.name, *containers)

    def wait(self, seconds: float) -> bool:
        """Wait until everything has ended, at most `seconds`. Says whether it has."""
        until = self._clock.monotonic() + seconds
        while not self.ended():
            left = until - self._clock.monotonic()
            if left <= 0:
                return False
            self._clock.sleep(min(left, 1.0 if self._docker else 0.1))
        return True

    def kill(self) -> None:
        """End what is left. A fork between the listing and the signal is caught by the next round."""
        for _ in range(20):
            self.signal(signal.SIGKILL)
            if self.wait(0.5):
                return

    def _members(self) -> list[int]:
        """Living processes of the trainer: its session, and descendants that left it (reparented to the agent)."""
        everything = _processes()
        if not everything:
            return self._members_without_proc()
        me, my_session = os.getpid(), os.getsid(0)
        by_pid = {process.pid: process for process in everything}
        members: list[int] = []
        for process in everything:
            if process.pid == me or not (
                process.session == self._session or self._strayed(process, by_pid, my_session)
            ):
                continue
            if process.zombie:
                # An orphan that became ours and ended: only collecting it frees its pid. The leader is Popen's to collect.
                if process.parent == me and process.pid != self._process.pid:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
                continue
            members.append(process.pid)
        return members

    def _strayed(self, process: _Process, by_pid: Mapping[int, _Process], my_session: int) -> bool:
        if process.session == my_session:
            return False  # the agent's own helpers
        seen = 0
        current: _Process | None = process
        while current is not None and seen < 64:
            if current.parent == os.getpid():
                return True
            current, seen = by_pid.get(current.parent), seen + 1
        return False

    def _members_without_proc(self) -> list[int]:
        try:
            os.killpg(self._session, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [-self._session]  # kill() of a negative pid reaches the whole group

    def _containers(self) -> list[str]:
        return self._run_docker("ps", "-q").split() if self._docker else []

    def _run_docker(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["docker", *arguments], capture_output=True, text=True, timeout=_DOCKER_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout if done.returncode == 0 else ""


def environment(extra: Iterable[tuple[str, str]], home: Path) -> dict[str, str]:
    """The command's environment: the agent's own without anything of AWS's or git's, plus what the run asks for."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "GIT_CONFIG_", "SPOT_RELAY_")) and name != "PYTHONPATH"
    }
    user = training_user()
    return {
        **kept,
        "HOME": str(home),
        **({"USER": user.pw_name} if user else {}),
        "PYTHONUNBUFFERED": "1",
        **dict(extra),
    }
