"""The instance's metadata service (IMDSv2): its tags, its region and what EC2 announces about its end.

AWS_EC2_METADATA_SERVICE_ENDPOINT names another server, as in every AWS SDK.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from clock import Clock

_T = TypeVar("_T")

_TOKEN_TTL = 21600
_TAG = "spot-relay:"
_LIKE = {  # what a tag looks like; anything else is an answer of somebody else's
    "stage": r"[A-Za-z0-9_-]+",
    "run": r"[a-z0-9][a-z0-9_-]{0,62}",
    "attempt": r"[1-9][0-9]{0,8}",
    "api": r"https?://[A-Za-z0-9.:/_%\[\]-]+",
    "bucket": r"[a-z0-9][a-z0-9.-]+",
}
_REGION = r"[a-z]{2}(-[a-z]+)+-[0-9]+"


class ImdsError(Exception):
    """The metadata service could not be asked (which says nothing about a notice)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the instance learns from its tags. `run` and `attempt` name its place, `api` has no slash at the end."""

    stage: str
    run: str
    attempt: int
    api: str
    bucket: str


def parse_time(text: str) -> datetime:
    """ISO 8601, in UTC."""
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def patiently(ask: Callable[[], _T], clock: Clock) -> _T:
    """Ask five times within 8 s, as the service may be slow or throttled while an instance boots. Raises ImdsError."""
    for pause in (0.5, 1, 2, 4, None):
        try:
            return ask()
        except ImdsError:
            if pause is None:
                raise
            clock.sleep(clock.scaled(pause))
    raise AssertionError("unreachable")


class Imds:
    """One connection per question: the service is on the link, and a kept connection would only age."""

    def __init__(self, clock: Clock, endpoint: str | None = None, timeout: float = 2.0) -> None:
        given = endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
        parts = urllib.parse.urlsplit(given)
        self._host, self._port = parts.hostname or "169.254.169.254", parts.port or 80
        self._clock = clock
        self._timeout = timeout
        self._token = ""
        self._token_until = 0.0

    def get(self, path: str) -> str | None:
        """The text at `/latest/<path>`, or None for 404. Raises ImdsError."""
        status, body = self._ask("GET", f"/latest/{path}", {"X-aws-ec2-metadata-token": self._fresh_token()})
        if status == 401:
            self._token_until = 0.0
            status, body = self._ask("GET", f"/latest/{path}", {"X-aws-ec2-metadata-token": self._fresh_token()})
        if status == 404:
            return None
        if status != 200:
            raise ImdsError(f"The metadata service answered {status} for {path}.")
        return body

    def identity(self) -> Identity:
        """Raises ImdsError, also when a tag is missing or is not what such a tag looks like."""

        def tag(name: str) -> str:
            value = (self.get(f"meta-data/tags/instance/{_TAG}{name}") or "").strip()
            if not value:
                raise ImdsError(f"The instance has no tag {_TAG}{name}.")
            if not re.fullmatch(_LIKE[name], value):
                raise ImdsError(f"The instance's tag {_TAG}{name} can't be {value[:100]!r}.")
            return value

        return Identity(tag("stage"), tag("run"), int(tag("attempt")), tag("api").rstrip("/"), tag("bucket"))

    def region(self) -> str:
        """Raises ImdsError: what is signed for another region than the instance's is refused everywhere."""
        known = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if known:
            return known
        found = (self.get("meta-data/placement/region") or "").strip()
        if not re.fullmatch(_REGION, found):
            raise ImdsError(f"The metadata service tells no region: {found[:100]!r}.")
        return found

    def ends_at(self) -> datetime | None:
        """When EC2 takes the instance back (UTC), once it has said so."""
        text = self.get("meta-data/spot/instance-action")
        if not text:
            return None
        try:
            return parse_time(str(json.loads(text)["time"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ImdsError(f"The notice can't be read: {text[:200]!r}.") from error

    def rebalance(self) -> bool:
        """Whether EC2 sees a raised risk. It may come no earlier than the notice."""
        return self.get("meta-data/events/recommendations/rebalance") is not None

    def _fresh_token(self) -> str:
        if self._clock.monotonic() >= self._token_until:
            status, body = self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL)}
            )
            if status != 200:
                raise ImdsError(f"The metadata service gave no token: {status}.")
            if not re.fullmatch(r"[\x21-\x7e]+", body):  # no header could carry it
                raise ImdsError(f"The metadata service gave no token, but {body[:100]!r}.")
            self._token, self._token_until = body, self._clock.monotonic() + _TOKEN_TTL / 2
        return self._token

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, urllib.parse.quote(path, safe="/:"), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise ImdsError(f"The metadata service can't be reached: {error}.") from error
        finally:
            connection.close()
