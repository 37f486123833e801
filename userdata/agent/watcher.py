"""Which checkpoint to publish next: follows a checkpoint directory until entries have stopped changing.

`look` is called every few seconds by the publishing thread while the trainer runs, and once more with `settled=True` after it
has ended, when nothing can change any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import patterns
import scan
from checkpoints import Manifest, Publisher
from clock import Clock
from failures import ManifestConflict
from scan import Changed, Signature

LOOK_S = 2


class Watcher:
    """Publishes the newest settled checkpoint, oldest steps never after newer ones."""

    def __init__(
        self,
        publisher: Publisher,
        pattern: patterns.Pattern | None,
        clock: Clock,
        step_now: Callable[[], int | None],
        published: Callable[[Manifest, float], None],
        say: Callable[[str], None],
    ) -> None:
        """`step_now`: the trainer's own step, for names that don't tell one. `published(manifest, seconds)`: seconds from
        first sight to whole in the bucket.
        """
        self._publisher, self._pattern, self._clock = publisher, pattern, clock
        self._step_now, self._published, self._say = step_now, published, say
        self._lock = threading.Lock()
        self._before: dict[str, Signature] = {}
        self._since: dict[str, float] = {}
        self._done: dict[str, Signature] = {}
        self.last_step: int | None = None

    def begin(self, restored_step: int | None) -> None:
        """What is there before the trainer starts is no news: the restored checkpoint, or files of the repository."""
        self.last_step = restored_step
        self._done = self._signatures()

    def appeared(self) -> bool:
        """Whether the directory exists, or has ever had a checkpoint."""
        return self._publisher.directory.is_dir()

    def look(self, settled: bool = False, final: bool = False, before_ns: int | None = None) -> Manifest | None:
        """Publish the newest entry that is new and has settled, if there is one. Raises what S3 raises.

        `before_ns` leaves out what was still being written then (Unix time): its writer died and may have left a half.
        """
        with self._lock:
            return self._look(settled, final, before_ns)

    def pending(self) -> bool:
        """Whether something new is there that isn't published yet."""
        return any(self._done.get(name) != files and files for name, files in self._signatures().items())

    def _look(self, settled: bool, final: bool, before_ns: int | None) -> Manifest | None:
        now = self._clock.monotonic()
        current = self._signatures()
        ready: list[str] = []
        for name, files in current.items():
            if not files or self._done.get(name) == files:
                continue
            if before_ns is not None and max(file.mtime_ns for file in files) >= before_ns:
                continue
            if self._before.get(name) != files:
                self._since.setdefault(name, now)
                if not settled:
                    continue
            ready.append(name)
        self._before = current
        chosen = self._newest(ready)
        if chosen is None:
            return None
        name, step = chosen
        files = current[name]
        try:
            manifest = self._publisher.publish(files, step, final)
        except (Changed, FileNotFoundError):
            return None
        except ManifestConflict as conflict:
            self._say(str(conflict))
            self._done[name] = files
            return None
        for other in ready:
            self._done[other] = current[other]  # older ones are passed by: only the newest can be the baton
        self.last_step = step
        self._published(manifest, self._clock.monotonic() - self._since.pop(name, now))
        return manifest

    def _newest(self, names: list[str]) -> tuple[str, int] | None:
        entries = patterns.checkpoints(names, self._pattern)
        if not entries:
            return None
        numbered = [entry for entry in entries if entry.step is not None]
        if numbered:
            newest = numbered[-1]
            step = newest.step or 0
            return (newest.name, step) if self.last_step is None or step > self.last_step else None
        # A name without a step: the trainer's own count if it has moved on, otherwise one more than the last.
        newest = max(entries, key=lambda entry: max(file.mtime_ns for file in self._before[entry.name]))
        after = 0 if self.last_step is None else self.last_step + 1
        return newest.name, max(self._step_now() or 0, after)

    def _signatures(self) -> dict[str, Signature]:
        directory = self._publisher.directory
        names = scan.names_in(directory)
        return {
            entry.name: scan.look(directory, [entry.name, *patterns.companions(entry.name, names)])
            for entry in patterns.checkpoints(names, self._pattern)
        }
