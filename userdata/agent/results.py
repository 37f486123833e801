"""What a run leaves: checking that the metrics have the keys a success needs, and uploading everything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scan
from store import Bucket

_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """`found`: the keys there are; `missing`: those required that are not. `problem`: why there are none."""

    metrics: dict[str, Any] | None
    found: tuple[str, ...]
    missing: tuple[str, ...]
    problem: str = ""


def verify(path: Path, required: Iterable[str]) -> Verdict:
    """The metrics file against the required keys. A dot reaches into an object: `eval.reward`."""
    required = tuple(required)
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Verdict(None, (), required, f"{path.name} was not written")
    except (OSError, ValueError) as error:
        return Verdict(None, (), required, f"{path.name} can't be read ({error})")
    if not isinstance(document, dict):
        return Verdict(None, (), required, f"{path.name} is no JSON object")
    missing = tuple(key for key in required if not _has(document, key))
    # The report travels in one request: very large metrics stay in the bucket.
    small = document if len(json.dumps(document)) <= _MOST_BYTES else None
    return Verdict(small, tuple(sorted(str(key) for key in document)), missing)


def _has(document: dict[str, Any], key: str) -> bool:
    if key in document:
        return document[key] is not None
    current: Any = document
    for part in key.split("."):
        if not isinstance(current, dict) or part not in current:
            return False
        current = current[part]
    return current is not None


def upload(bucket: Bucket, prefix: str, directory: Path) -> int:
    """Every regular file under `directory`; links are left out. Gives how many."""
    if not directory.is_dir():
        return 0
    files = scan.look(directory, scan.names_in(directory))
    for file in files:
        try:
            bucket.upload(directory / file.path, prefix + file.path)
        except FileNotFoundError:
            continue
    return len(files)


def within(root: Path, relative: str) -> Path:
    """A path of the spec under the repository's root. Raises ValueError when it leads out of it."""
    path = root / relative
    if os.path.commonpath([root.resolve(), path.resolve()]) != str(root.resolve()):
        raise ValueError(f"{relative!r} leads out of the repository.")
    return path
