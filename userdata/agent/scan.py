"""Looking at a checkpoint on disk: which files it has, whether they have stopped changing, and their hashes.

Reads only. Links are never followed and never part of a checkpoint: they could point outside of it. Nor are FIFOs, sockets and
devices: only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import beneath

_DEEPEST = 64
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
SAMPLE = 64 * 1024
_CHUNK = 4 * 1024 * 1024  # large: between two the hash waits for its turn among the threads that send


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


def _walk(directory: Path, name: str) -> Iterator[Found]:
    left = [PurePosixPath(name)]
    while left:
        relative = left.pop()
        try:
            with beneath.folder(directory / relative.parent) as above:
                status = os.stat(relative.name, dir_fd=above, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield Found(str(relative), status.st_size, status.st_mtime_ns, status.st_ino)
            elif stat.S_ISDIR(status.st_mode) and len(relative.parts) < _DEEPEST:
                with beneath.folder(directory / relative) as inside:
                    left += [relative / each for each in os.listdir(inside)]  # noqa: PTH208 - of a descriptor
        except OSError:
            continue  # gone, or swapped for something else meanwhile: then it is looked at anew


def names_in(directory: Path) -> list[str]:
    """Names in a directory without links; none when the directory isn't there (yet), or a link leads to it."""
    try:
        with beneath.folder(directory) as opened, os.scandir(opened) as entries:
            return sorted(entry.name for entry in entries if not entry.is_symlink())
    except OSError:
        return []


@contextlib.contextmanager
def opened(directory: Path, file: Found) -> Iterator[int]:
    """The descriptor of the very file that was looked at. Raises Changed when another is there by now, or none."""
    try:
        with beneath.file(directory / file.path) as descriptor:
            if _stamp(os.fstat(descriptor)) != _stamp_of(file):
                raise Changed(file.path)
            yield descriptor
    except OSError as error:
        if error.errno in _GONE or error.errno is None:
            raise Changed(file.path) from None
        raise


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _stamp_of(file: Found) -> tuple[int, int, int]:
    return file.bytes, file.mtime_ns, file.inode


def still(directory: Path, file: Found) -> bool:
    """Whether the file on disk is the one that was looked at."""
    try:
        with opened(directory, file):
            return True
    except Changed:
        return False


def sha256(directory: Path, file: Found) -> str:
    """The file's hash, hex. Raises Changed if it isn't the file that was looked at, before or after reading."""
    digest, read, buffer = hashlib.sha256(), 0, memoryview(bytearray(min(_CHUNK, file.bytes + 1)))
    with opened(directory, file) as descriptor, os.fdopen(os.dup(descriptor), "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
            read += count
    if read != file.bytes or not still(directory, file):
        raise Changed(file.path)
    return digest.hexdigest()


def sample(directory: Path, file: Found) -> str:
    """A cheap fingerprint: size, beginning, middle and end.

    It decides only whether a full hash before the upload is worth its time (an unchanged file is copied inside S3).
    """
    digest = hashlib.sha256(str(file.bytes).encode())
    with opened(directory, file) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
        for offset in (0, file.bytes // 2, max(0, file.bytes - SAMPLE)):
            stream.seek(offset)
            digest.update(stream.read(SAMPLE))
    return digest.hexdigest()
