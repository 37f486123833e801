"""Following the trainer's own progress file: one JSON object a line, with `step` and whatever else it measures.

Reads only what was appended since the last look; half a line waits for its other half.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

_MOST = 4 * 1024 * 1024
_MOST_METRICS = 50


class Progress:
    """`step` is the last one written, None before the first; `metrics` the numbers beside it."""

    def __init__(self, *candidates: Path) -> None:
        self._candidates = candidates
        self._path: Path | None = None
        self._offset = 0
        self._rest = b""
        self.step: int | None = None
        self.metrics: dict[str, float] = {}

    def look(self) -> None:
        if self._path is None:
            self._path = next((path for path in self._candidates if path.is_file()), None)
        if self._path is None:
            return
        try:
            size = self._path.stat().st_size
            if size < self._offset:  # begun anew
                self._offset, self._rest = 0, b""
            if size == self._offset:
                return
            with self._path.open("rb") as stream:
                stream.seek(max(self._offset, size - _MOST))
                data = stream.read()
        except OSError:
            return
        self._offset = size if len(data) == 0 else max(self._offset, size - _MOST) + len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines[-1000:]:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            document: Any = json.loads(line)
        except ValueError:
            return
        if not isinstance(document, dict):
            return
        for name in ("step", "total_timesteps", "num_timesteps", "global_step"):
            value = document.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                self.step = int(value)
                break
        numbers = {
            str(key)[:100]: float(value)
            for key, value in document.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        }
        self.metrics = dict(list(numbers.items())[:_MOST_METRICS])
