"""Results of a proof that was broken off, kept for as long as the policies are the same.

Whether the code still makes the calls is seen anew each time: the walk with everything allowed is always walked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spotrelay.deploying import template
from spotrelay.privileges.decisions import Decision
from spotrelay.privileges.results import Broken
from spotrelay.privileges.statements import Part


class Kept:
    """One line of JSON for each result, in the order they came."""

    def __init__(self, path: Path) -> None:
        self._path, self._of = path, fingerprint()

    def of(self, part: Part) -> Broken | None:
        """The result of this part that was found before; None when there is none that still holds."""
        for line in self._path.read_text("utf-8").splitlines() if self._path.exists() else []:
            kept: dict[str, Any] = json.loads(line)
            if (kept["of"], kept["name"]) == (self._of, part.name):
                refused = Decision(**kept["refused"]) if kept["refused"] else None
                return Broken(part, refused, kept["status"], tuple(kept["unused"]), kept["seconds"])
        return None

    def add(self, result: Broken) -> None:
        line = {
            "of": self._of,
            "name": result.part.name,
            "refused": asdict(result.refused) if result.refused else None,
            "status": result.status,
            "unused": result.unused,
            "seconds": result.seconds,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def fingerprint() -> str:
    """The same as long as the template's roles and policies are."""
    resources = template.load()["Resources"]
    ours = {name: each for name, each in resources.items() if each["Type"].startswith("AWS::IAM::")}
    return hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
