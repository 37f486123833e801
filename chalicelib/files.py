"""The routes about what a run has left in the bucket: its results by signed URLs, and its log, piece by piece.

Whatever is large goes from S3 to the person and not through a Lambda.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from chalicelib import people
from chalicelib.bucket import run_prefix
from chalicelib.contracts.errors import ApiError
from chalicelib.controller import Controller

_VALID = timedelta(minutes=15)  # a Lambda's own credentials, which sign, hold longer
_MOST_PATH = 1024  # bytes in a key of S3
# An answer of a Lambda has 6 MB at most, and JSON writes a control character in six. An agent sends parts of up to 1 MiB, and
# small ones every 20 seconds: each costs a request.
_PIECE, _PARTS, _TAIL = 256 * 1024, 50, 64 * 1024
_PART = re.compile(r"([0-9]{12})\.log")
_CURSOR = re.compile(r"([0-9]{1,4})-([0-9]{1,12})-([0-9]{1,9})")
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


def results(c: Controller, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Of the newest attempt that has left any, or of `attempt`. `limit` bounds, `cursor` (a path) goes on."""
    people.load(c, name)
    limit, attempt, after = people.page_size(query, 100), _attempt(query), query.get("cursor") or ""
    if len(after.encode()) > _MOST_PATH:
        raise ApiError.wrong_field("cursor", after, "is none that was answered; begin without one")
    attempt = attempt or c.bucket.newest(name, "results")
    answer: dict[str, Any] = {"attempt": attempt, "files": [], "cursor": None}
    answer["expires_at"] = (c.clock() + _VALID).isoformat()
    if attempt is None:
        return answer
    prefix = f"{run_prefix(name)}results/{attempt:04d}/"
    found, more = c.bucket.listed(prefix, after, limit)
    answer["files"] = [
        {"path": path, "bytes": size, "url": c.bucket.signed(prefix + path, _VALID)} for path, size in found
    ]
    return answer | {"cursor": found[-1][0] if more and found else None}


def logs(c: Controller, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Of the newest attempt that has written any, or of `attempt`; from its beginning, from `cursor`, or (`tail`) near its
    end."""
    people.load(c, name)
    attempt, cursor, tail = _attempt(query), query.get("cursor") or "", query.get("tail", "false")
    if tail not in ("true", "false"):
        raise ApiError.wrong_field("tail", tail, "must be true or false")
    part = at = 0
    if cursor:
        read = _CURSOR.fullmatch(cursor)
        if not read:
            raise ApiError.wrong_field("cursor", cursor, "is none that was answered; begin without one")
        attempt, part, at = (int(group) for group in read.groups())
    attempt = attempt or c.bucket.newest(name, "logs")
    if attempt is None:
        return {"attempt": None, "text": "", "cursor": None, "more": False}
    prefix = f"{run_prefix(name)}logs/{attempt:04d}/"
    if tail == "true" and not cursor:
        part, at = _near_the_end(c, prefix)
    text, part, at, more = _piece(c, prefix, part, at)
    return {"attempt": attempt, "text": text, "cursor": f"{attempt}-{part}-{at}", "more": more}


def _piece(c: Controller, prefix: str, part: int, at: int) -> tuple[str, int, int, bool]:
    """The text from byte `at` of a part on, where it ends (part and byte), and whether there is more."""
    # Just before the part itself: it may have grown by nothing, but it is the one to go on in.
    found, more = c.bucket.listed(prefix, f"{part:012d}", _PARTS)
    pieces: list[str] = []
    left = _PIECE
    for name, size in found:
        number = _number(name)
        begin = at if number == part else 0
        if number is None or begin >= size:
            continue
        if left <= 0:
            return "".join(pieces), part, at, True
        data = c.bucket.read(prefix + name, begin, left)
        if begin + len(data) < size:
            data = _whole_characters(data)
        pieces.append(data.decode("utf-8", "replace"))
        part, at, left = number, begin + len(data), left - len(data)
        if at < size:
            return "".join(pieces), part, at, True
    return "".join(pieces), part, at, more and bool(pieces)


def _near_the_end(c: Controller, prefix: str) -> tuple[int, int]:
    """The part in which the last 64 KiB begin, and the byte: a line's beginning, or the part's."""
    parts = [(number, size) for name, size in c.bucket.all_listed(prefix) if (number := _number(name)) is not None]
    left = _TAIL
    for number, size in reversed(parts):
        if size >= left:
            begin = size - left
            data = c.bucket.read(f"{prefix}{number:012d}.log", begin, left)
            return number, begin + (data.find(b"\n") + 1 if begin else 0)
        left -= size
    return 0, 0


def _whole_characters(data: bytes) -> bytes:
    """Without the beginning of a character whose rest is not there."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # where a character begins (RFC 3629, section 3)
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return data[:-back] if length > back else data
    return data


def _number(name: str) -> int | None:
    read = _PART.fullmatch(name)
    return int(read[1]) if read else None


def _attempt(query: Mapping[str, str]) -> int | None:
    given = query.get("attempt")
    if not given:
        return None
    if not _NUMBER.fullmatch(given):
        raise ApiError.wrong_field("attempt", given, "must be an attempt's number, 1 to 9999")
    return int(given)
