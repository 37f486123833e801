"""Whether GitHub takes a token, and until when. The token goes into a header and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.awsrequest import AWSRequest
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session

# Costs nothing of the token's rate limit.
URL = "https://api.github.com/rate_limit"
EXPIRY_HEADER = "github-authentication-token-expiration"
_TIMEOUT_S = 10


@dataclass(frozen=True)
class Answer:
    """`asked` is false when GitHub gave no answer; no `expires_at` on a valid token means that it never expires."""

    asked: bool
    valid: bool | None = None
    expires_at: datetime | None = None


def ask(token: str, url: str = URL) -> Answer:
    headers = {"authorization": f"Bearer {token}", "accept": "application/vnd.github+json", "user-agent": "spot-relay"}
    http = URLLib3Session(timeout=_TIMEOUT_S)
    try:
        response = http.send(AWSRequest(method="GET", url=url, headers=headers).prepare())
    except (HTTPClientError, ValueError):
        # A token with a line break in it makes no header; what it says must not end up in an error.
        return Answer(asked=False)
    finally:
        http.close()
    if response.status_code == 401:
        return Answer(asked=True, valid=False)
    if response.status_code != 200:
        return Answer(asked=False)
    return Answer(asked=True, valid=True, expires_at=expiry(response.headers.get(EXPIRY_HEADER)))


def expiry(header: str | None) -> datetime | None:
    """GitHub writes `2026-03-01 12:00:00 UTC`, or `2026-03-01 12:00:00 +0200`."""
    if not header:
        return None
    text = header.strip().replace("UTC", "+0000")
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)
    except ValueError:
        return None
