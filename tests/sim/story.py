"""What happened in a world, in plain sentences: kept cheaply while it lives, written out when an invariant breaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

LINES = 40


@dataclass
class Story:
    """`tell(at, run, text)` adds a line; a run of None means that it concerns everything."""

    lines: list[tuple[datetime, str | None, str]] = field(default_factory=list)

    def tell(self, at: datetime, run: str | None, text: str) -> None:
        self.lines.append((at, run, text))

    def of(self, run: str | None, most: int = LINES) -> str:
        """The last lines about a run, and about everything since it began, oldest first; with None those about all runs."""
        found: list[str] = []
        later = ""
        begins = next((at for at, about, _ in self.lines if about == run), None)
        for at, about, text in reversed(self.lines):
            if begins is not None and at < begins:
                break
            if run is None or about in (None, run):
                same, later = _alike(text) == _alike(later), text
                if same:
                    continue  # of many saves in a row the last is told
                found.append(f"{at:%d %b %H:%M:%S}  {about or '-'}: {text}")
                if len(found) == most:
                    break
        return "\n".join(reversed(found))


class InvariantBroken(AssertionError):
    """A world in which something was true that never may be. `rule` is the invariant's name (I1 to I9)."""

    def __init__(self, rule: str, run: str | None, what: str, story: str) -> None:
        super().__init__(f"{rule} is broken: {what}\nThe story of {run or 'the world'}:\n{story}")
        self.rule, self.run, self.what = rule, run, what

    def add(self, text: str) -> None:
        self.args = (f"{self.args[0]}\n{text}",)


def _alike(text: str) -> str:
    """The same for two lines of which one is enough."""
    said, publishes, step = text.partition(" publishes step ")
    return said + publishes if step.isdecimal() else text
