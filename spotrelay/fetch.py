"""Fetching a run's results into a folder: each file whole or not at all, and none outside of the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from spotrelay.client import Client

_PAGE = 100
_CHUNK = 1024 * 1024
_EXPIRED = 403


class FetchError(Exception):
    """A file that can't be fetched; the message says which and why."""


@dataclass(frozen=True)
class Found:
    """A result. `before` is the path that comes before it in the list, from which it can be listed again."""

    attempt: int
    path: str
    bytes: int
    url: str
    before: str | None


def found(api: Client, run: str, attempt: int | None) -> Iterator[Found]:
    """Every result of the attempt, or of the newest that has left any."""
    cursor: str | None = None
    while True:
        page = api.get("runs", run, "results", attempt=attempt, limit=_PAGE, cursor=cursor)
        for each in page["files"]:
            yield Found(page["attempt"], each["path"], each["bytes"], each["url"], cursor)
            cursor = each["path"]
        if page["cursor"] is None:
            return
        cursor, attempt = page["cursor"], page["attempt"]


def fetch(api: Client, run: str, file: Found, folder: Path, came: Callable[[int], None]) -> Path:
    """Fetch one; `came` is told of bytes as they come. A URL that is too old is asked for anew. Raises FetchError."""
    target = _within(folder, file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        status = _download(file.url, partial, came)
        if status == _EXPIRED:
            page = api.get("runs", run, "results", attempt=file.attempt, limit=1, cursor=file.before)
            status = _download(page["files"][0]["url"], partial, came)
        if status != 200:
            raise FetchError(f"{file.path}: S3 answers {status}.")
        size = partial.stat().st_size
        if size != file.bytes:
            raise FetchError(f"{file.path}: {size} bytes came, and it has {file.bytes}.")
        partial.replace(target)
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise FetchError(f"{file.path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _within(folder: Path, path: str) -> Path:
    """Where the file goes. A trainer has named it: it may lead nowhere else."""
    target = Path(os.path.normpath(folder / path))
    if not target.is_relative_to(os.path.normpath(folder)) or target == folder:
        raise FetchError(f"{path!r} would leave {folder}: it is not fetched.")
    return target


def _download(url: str, target: Path, came: Callable[[int], None]) -> int:
    """The status of the answer; the file is there when it is 200."""
    with urllib3.PoolManager() as pool:
        answer: Any = pool.request("GET", url, preload_content=False, timeout=urllib3.Timeout(connect=10, read=60))
        try:
            if answer.status == 200:
                with target.open("wb") as stream:
                    for chunk in answer.stream(_CHUNK, decode_content=False):
                        stream.write(chunk)
                        came(len(chunk))
            return int(answer.status)
        finally:
            answer.release_conn()
