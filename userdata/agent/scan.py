"""Looking at a checkpoint on disk: which files it has, whether they have stopped changing, and their hashes.

Reads only. Links are never followed and never part of a checkpoint: they could point outside of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 4 * 1024 * 1024
SAMPLE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """One file of an entry. `path` is relative to the checkpoint directory (POSIX), so it begins with the entry's name."""

    path: str
    bytes: int
    mtime_ns: int
    inode: int


class Changed(Exception):
    """A file changed while it was read: it will settle, and is published by a later look."""


Signature = tuple[Found, ...]


def look(directory: Path, names: list[str]) -> Signature:
    """The regular files under `names`, sorted by path. Two equal looks, a while apart: the files have settled."""
    found: list[Found] = []
    for name in names:
        found.extend(_walk(directory, name))
    return tuple(sorted(found, key=lambda each: each.path))


def _walk(directory: Path, relative: str) -> Iterator[Found]:
    try:
        status = os.lstat(directory / relative)
    except FileNotFoundError:
        return
    if stat.S_ISREG(status.st_mode):
        yield Found(relative, status.st_size, status.st_mtime_ns, status.st_ino)
    elif stat.S_ISDIR(status.st_mode):
        try:
            inside = sorted(entry.name for entry in (directory / relative).iterdir())
        except FileNotFoundError:
            return
        for name in inside:
            yield from _walk(directory, f"{relative}/{name}")


def names_in(directory: Path) -> list[str]:
    """Names in a directory without links; none when the directory isn't there (yet)."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if not entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def still(directory: Path, file: Found) -> bool:
    """Whether the file on disk is the one that was looked at."""
    try:
        status = os.lstat(directory / file.path)
    except FileNotFoundError:
        return False
    return (status.st_size, status.st_mtime_ns, status.st_ino) == (file.bytes, file.mtime_ns, file.inode)


def sha256(directory: Path, file: Found) -> str:
    """The file's hash, hex. Raises Changed if it isn't the file that was looked at, before or after reading."""
    digest = hashlib.sha256()
    read = 0
    try:
        with (directory / file.path).open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                read += len(chunk)
    except FileNotFoundError:
        raise Changed(file.path) from None
    if read != file.bytes or not still(directory, file):
        raise Changed(file.path)
    return digest.hexdigest()


def sample(directory: Path, file: Found) -> str:
    """A cheap fingerprint: size, beginning, middle and end.

    It decides only whether a full hash before the upload is worth its time (an unchanged file is copied inside S3).
    """
    digest = hashlib.sha256(str(file.bytes).encode())
    try:
        with (directory / file.path).open("rb") as stream:
            for offset in (0, file.bytes // 2, max(0, file.bytes - SAMPLE)):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE))
    except FileNotFoundError:
        raise Changed(file.path) from None
    return digest.hexdigest()
