"""Opening what somebody else may write: no link is followed anywhere on the way, nothing but a regular file is opened, and no
open waits (a FIFO's would).

Paths are absolute and real from the root on (`Plan` sees to that), so a link on the way was put there by the job. Every part is
opened from the one before: a folder that is swapped for a link meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_ON_THE_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DESCRIPTORS = Path("/proc/self/fd")


@contextlib.contextmanager
def folder(path: Path) -> Iterator[int]:
    """The folder's descriptor. Raises OSError: not there, no folder, or a link on the way (ENOTDIR, ELOOP)."""
    opened = _open(path, _FOLDER)
    try:
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def file(path: Path) -> Iterator[int]:
    """The regular file's descriptor, for reading. Raises OSError as `folder` does, and for anything but a regular file."""
    opened = _open(path, _FILE)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(f"{path.name} is no regular file")
        yield opened
    finally:
        os.close(opened)


def read(path: Path, most: int) -> bytes:
    """The file's bytes. Raises OSError, also when it has more than `most`."""
    with file(path) as opened, os.fdopen(os.dup(opened), "rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(f"{path.name} has more than {most} bytes")
    return data


def name_of(opened: int, path: Path) -> Path:
    """A path under which an open file can be opened again, whatever its own path leads to by now."""
    return _DESCRIPTORS / str(opened) if _DESCRIPTORS.is_dir() else path


def link_on_the_way(path: Path, below: Path) -> Path | None:
    """The first part of `path` below `below` that is a link; None when there is none, or the path ends before."""
    current = below
    for part in path.relative_to(below).parts:
        current = current / part
        if current.is_symlink():
            return current
    return None


def _open(path: Path, flags: int) -> int:
    *way, last = path.parts[1:] or (".",)
    current = os.open(path.anchor, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in way:
            following = os.open(part, _ON_THE_WAY, dir_fd=current)
            os.close(current)
            current = following
        return os.open(last, flags, dir_fd=current)
    finally:
        os.close(current)
