"""What a run leaves: checking that the metrics have the keys a success needs, and uploading everything."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import beneath
import scan
from failures import Failure
from store import Bucket

_MOST_READ = 1024 * 1024
_MOST_BYTES, _MOST_KEYS, _DEEPEST = 32 * 1024, 200, 20  # of 64 KiB, 200 and 20 that the controller takes


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
        document: Any = json.loads(beneath.read(path, _MOST_READ), parse_constant=str)
    except FileNotFoundError:
        return Verdict(None, (), required, f"{path.name} was not written")
    except (OSError, ValueError, RecursionError) as error:
        return Verdict(None, (), required, f"{path.name} can't be read ({error})")
    if not isinstance(document, dict):
        return Verdict(None, (), required, f"{path.name} is no JSON object")
    missing = tuple(key for key in required if not _has(document, key))
    # The report travels in one request: very large metrics stay in the bucket.
    small = document if _fits(document) else None
    return Verdict(small, tuple(sorted(_sendable(key) for key in document)[:_MOST_KEYS]), missing)


def _sendable(key: str) -> str:
    return key.encode("utf-8", "replace").decode()[:200]


def _fits(document: dict[str, Any]) -> bool:
    """Whether the controller takes it: size, keys, and how deep it is nested."""
    left: list[tuple[Any, int]] = [(document, 1)]
    while left:
        each, depth = left.pop()
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        if inside and depth > _DEEPEST:
            return False
        left += [(one, depth + 1) for one in inside]
    try:
        size = len(json.dumps(document, ensure_ascii=False).encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return len(document) <= _MOST_KEYS and max(size, len(json.dumps(document))) <= _MOST_BYTES


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
    files = scan.look(directory, scan.names_in(directory))
    for file in files:
        if not _is_key(file.path):
            continue
        try:
            with scan.opened(directory, file) as descriptor:
                bucket.upload(beneath.name_of(descriptor, directory / file.path), prefix + file.path)
        except scan.Changed:
            continue
    return len(files)


def _is_key(path: str) -> bool:
    """Whether S3 can have a key that ends so: bytes that are no UTF-8 can't be written into one."""
    try:
        return len(path.encode()) <= 800
    except UnicodeEncodeError:
        return False


def within(root: Path, relative: str) -> Path:
    """A path of the spec under the repository's root. Raises Failure when it leads out of it, through a link for example."""
    path = root / relative
    if os.path.commonpath([root.resolve(), path.resolve()]) != str(root.resolve()):
        raise Failure("command", f"{relative!r} leads out of the repository: name a folder inside.")
    return path
