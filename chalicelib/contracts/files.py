"""The API's shapes about what a run has left in the bucket: results to fetch, and its log as text."""

from __future__ import annotations

from datetime import datetime

from chalicelib.contracts.api import Answer


class ResultFile(Answer):
    """`url` is signed: whoever has it may fetch the file until the list's `expires_at`."""

    path: str
    bytes: int
    url: str


class ResultList(Answer):
    """An attempt's results, by path. `attempt` is None while no attempt has left any."""

    attempt: int | None
    files: list[ResultFile]
    expires_at: datetime
    cursor: str | None


class LogText(Answer):
    """A piece of an attempt's log, in whole characters. `cursor` is where it ends, to go on from; `more`: there is more."""

    attempt: int | None
    text: str
    cursor: str | None
    more: bool
