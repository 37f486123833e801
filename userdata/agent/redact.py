"""Takes secret values out of whatever the agent says: log, reports, metrics (I8). Pure.

A value is looked for as it is, line by line, and in the forms in which programs print it: base64 (wherever it begins in a
longer text), percent-encoded, escaped as in JSON, in hex. What a program does to a secret beyond that is not found.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

HIDDEN = "[secret]"
# Shorter values would blank out ordinary text, and are no secrets anyway; what is left of an encoded one may be less telling.
_LEAST, _LEAST_ENCODED = 6, 8


class Redactor:
    """Every part of it may be used from several threads; a value that was added is never taken back."""

    def __init__(self) -> None:
        self._needles: tuple[str, ...] = ()
        self._bytes: tuple[bytes, ...] = ()

    @property
    def longest(self) -> int:
        """Bytes of the longest form that is looked for; 0 when there is none."""
        return max(map(len, self._bytes), default=0)

    def add(self, value: str) -> None:
        needles = sorted({*self._needles, *forms(value)}, key=len, reverse=True)
        self._needles = tuple(needles)
        self._bytes = tuple(needle.encode("utf-8", "surrogateescape") for needle in needles)

    def __call__(self, text: str) -> str:
        for needle in self._needles:
            text = text.replace(needle, HIDDEN)
        return text

    def bytes(self, data: bytes) -> bytes:
        for needle in self._bytes:
            data = data.replace(needle, HIDDEN.encode())
        return data

    def document(self, value: Any) -> Any:
        """The same JSON document with every text redacted, keys included."""
        if not self._needles:
            return value
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(str(key)): self.document(inside) for key, inside in value.items()}
        if isinstance(value, list):
            return [self.document(inside) for inside in value]
        return value

    def cut(self, data: bytes, at: int) -> int:
        """The last place up to `at` where `data` may be cut without a secret on both sides of the cut."""
        moved = True
        while moved:
            moved = False
            for needle in self._bytes:
                found = data.find(needle, max(0, at - len(needle) + 1), at + len(needle) - 1)
                if found >= 0 and found < at < found + len(needle):
                    at, moved = found, True
                    break
        return at


def forms(value: str) -> Iterator[str]:
    """What to look for, so that the value is found."""
    for each in {value, *value.splitlines()}:
        # A secret of several lines is printed line by line: each is looked for by itself.
        if len(each.strip()) >= _LEAST:
            yield each.strip()
    if len(value) < _LEAST:
        return
    raw = value.encode("utf-8", "surrogateescape")
    encoded = {urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value), urllib.parse.quote(value), raw.hex()}
    encoded |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    for offset in range(3):
        # Base64 turns three bytes into four letters: the letters that other bytes have a share in are left out.
        text = base64.b64encode(b"\0" * offset + raw).decode().rstrip("=")
        inner = text[(offset * 8 + 5) // 6 : len(text) - (1 if (offset + len(raw)) % 3 else 0)]
        encoded |= {inner, inner.replace("+", "-").replace("/", "_")}
    yield from (each for each in encoded if len(each) >= _LEAST_ENCODED)
