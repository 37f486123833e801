"""Two threads that carry things off the instance: progress and logs, and checkpoints as they settle.

Apart, because an upload of gigabytes must not hold up the log. Trouble with S3 is said and tried again at the next round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from clock import Clock
from logs import Shipper
from progress import Progress
from pulse import Pulse
from watcher import LOOK_S, Watcher

SHIP_S = 20


class Courier:
    def __init__(
        self, shipper: Shipper, progress: Progress, pulse: Pulse, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._shipper, self._progress, self._pulse, self._clock = shipper, progress, pulse, clock
        self._stopping = threading.Event()
        self._watcher: Watcher | None = None
        self._wake = threading.Event()
        self._next_ship = 0.0
        self._threads = [
            threading.Thread(target=self._every, args=(self._tell,), name="courier", daemon=True),
            threading.Thread(target=self._every, args=(self._publish,), name="publisher", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._watcher = None
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)

    def watch(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def unwatch(self) -> None:
        """No new look begins; one that is under way ends by itself (the watcher's lock keeps them apart)."""
        self._watcher = None

    def ship(self, everything: bool = False) -> None:
        self._shipper.ship(self._clock.now(), everything)

    def _every(self, act: Callable[[], None]) -> None:
        while not self._stopping.wait(self._clock.scaled(LOOK_S, 0.2)):
            try:
                act()
            except Exception as error:
                self._say(f"{act.__name__.strip('_')} failed, tried again soon: {error!r}")

    def _tell(self) -> None:
        self._progress.look()
        if self._progress.step is not None:
            self._pulse.tell(step=self._progress.step, metrics=self._progress.metrics)
        now = self._clock.monotonic()
        if now >= self._next_ship:
            self._next_ship = now + self._clock.scaled(SHIP_S, 1.0)
            self.ship()

    def _publish(self) -> None:
        watcher = self._watcher
        if watcher is not None:
            watcher.look()
