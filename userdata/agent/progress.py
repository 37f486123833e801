"""Following the trainer's own progress file: one JSON object a line, with `step` and whatever else it measures.

Reads only what was appended since the last look; half a line waits for its other half.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import beneath

_MOST = 4 * 1024 * 1024
_MOST_METRICS = 50
_MOST_STEPS = 10**12  # what the controller takes


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
            self._path = next((path for path in self._candidates if not path.is_symlink() and path.is_file()), None)
        if self._path is None:
            return
        try:
            with beneath.file(self._path) as opened, os.fdopen(os.dup(opened), "rb") as stream:
                size = os.fstat(opened).st_size
                if size < self._offset:  # begun anew
                    self._offset, self._rest = 0, b""
                if size == self._offset:
                    return
                stream.seek(max(self._offset, size - _MOST))
                data = stream.read(_MOST)
        except OSError:
            return
        self._offset = size if len(data) == 0 else max(self._offset, size - _MOST) + len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_MOST:]
        for line in lines[-1000:]:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            document: Any = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(document, dict):
            return
        for name in ("step", "total_timesteps", "num_timesteps", "global_step"):
            value = document.get(name)
            if _is_number(value) and 0 <= value < _MOST_STEPS:
                self.step = int(value)
                break
        numbers = {
            key.encode("utf-8", "replace").decode()[:100]: float(value)
            for key, value in document.items()
            if _is_number(value)
        }
        self.metrics = dict(list(numbers.items())[:_MOST_METRICS])


def _is_number(value: Any) -> bool:
    """A number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)
