"""What the trainers really do, seen from outside: the progress file of every instance, followed as it grows."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spotrelay.rehearsal.ec2_control import HostControl, HostError

POLL_S = 0.05


@dataclass
class Trained:
    """The steps an attempt trained, each with the time (monotonic, seconds) at which it was written, or was seen after that."""

    instance_id: str
    steps: list[int] = field(default_factory=list)
    seen_at: list[float] = field(default_factory=list)
    offset: int = 0
    rest: bytes = b""

    @property
    def last(self) -> int:
        return self.steps[-1] if self.steps else 0


class Watch:
    """Follows the attempts of one run until `stop`. `trained` is by attempt number."""

    def __init__(self, control: HostControl, run: str, progress: list[str]) -> None:
        """`progress`: where the file may be, relative to the repository's root."""
        self._control, self._run, self._progress = control, run, progress
        self.trained: dict[int, Trained] = {}
        self.instances: dict[int, dict[str, Any]] = {}
        self._folders: dict[int, Path] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def start(self) -> Watch:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def last(self, attempt: int) -> int:
        return self.trained[attempt].last if attempt in self.trained else 0

    def _follow(self) -> None:
        listed = 0.0
        while not self._stopping.wait(POLL_S):
            if time.monotonic() - listed > 0.3:
                listed = time.monotonic()
                self._list()
            for number, folder in list(self._folders.items()):
                self._read(self.trained[number], folder)

    def _list(self) -> None:
        try:
            found = self._control.instances()
        except HostError:
            return
        for instance in found:
            if instance["tags"].get("spot-relay:run") != self._run:
                continue
            number = int(instance["tags"]["spot-relay:attempt"])
            self.instances[number] = dict(instance)
            if number not in self.trained or self.trained[number].instance_id != instance["id"]:
                self.trained[number] = Trained(instance["id"])
                self._folders[number] = Path(instance["folder"]) / "root/home/ubuntu/work"

    def _read(self, trained: Trained, work: Path) -> None:
        path = next((work / name for name in self._progress if (work / name).is_file()), None)
        if path is None:
            return
        with path.open("rb") as stream:
            stream.seek(trained.offset)
            data = stream.read()
            # Whoever looks late says when the last line came all the same.
            late = max(0.0, time.time() - os.fstat(stream.fileno()).st_mtime)
        trained.offset += len(data)
        *lines, trained.rest = (trained.rest + data).split(b"\n")
        written_at = time.monotonic() - late
        for line in lines:
            try:
                step = json.loads(line).get("step")
            except (ValueError, AttributeError):
                continue
            if isinstance(step, int):
                trained.steps.append(step)
                trained.seen_at.append(written_at)
