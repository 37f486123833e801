"""The user's own pattern, matched in a process of its own with a bound on its time.

A regular expression can take longer than the universe lasts on a name of thirty letters, and Python's can't be interrupted in a
thread. Each name is asked for once; one that takes too long is no checkpoint, and that is said.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable

MATCH_S = 1.0
_MOST_KEPT = 10_000
# One answer a line, in the order of the names: the first that is missing is the one that took too long.
_HELPER = """
import json, re, sys
pattern, names = json.load(sys.stdin)
pattern = re.compile(pattern)
for name in names:
    found = pattern.search(name)
    print(json.dumps(found["step"] if found else None), flush=True)
"""


class BoundedPattern:
    """Gives, for a name, the text of the group `step`. Used by one thread at a time."""

    def __init__(self, pattern: re.Pattern[str], say: Callable[[str], None] = lambda text: None) -> None:
        self._pattern, self._say = pattern, say
        self._steps: dict[str, str | None] = {}

    def step(self, name: str) -> str | None:
        self.learn([name])
        return self._steps.get(name)

    def learn(self, names: Iterable[str]) -> None:
        """Have these matched, all that were not before with one process."""
        left = [name for name in dict.fromkeys(names) if name not in self._steps]
        if len(self._steps) + len(left) > _MOST_KEPT:
            self._steps.clear()
        while left:
            found, too_long = self._ask(left)
            self._steps.update(zip(left, found, strict=False))
            left = left[len(found) :]
            if too_long and left:
                slow = left.pop(0)
                self._steps[slow] = None
                self._say(
                    f"checkpoint.pattern took more than {MATCH_S:g} s on {slow[:100]!r}: it is no checkpoint then"
                )

    def _ask(self, names: list[str]) -> tuple[list[str | None], bool]:
        """Answers for the first names, and whether the time was over before the rest."""
        given = json.dumps([self._pattern.pattern, names])
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _HELPER],
                input=given.encode(),
                capture_output=True,
                timeout=MATCH_S + 1e-4 * len(names),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            return _answers(late.stdout or b""), True
        answers = _answers(done.stdout)
        return answers, len(answers) < len(names)


def _answers(written: bytes) -> list[str | None]:
    *whole, _ = written.split(b"\n")
    return [json.loads(line) for line in whole]
