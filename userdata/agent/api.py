"""The agent's calls to the controller: POST, JSON, signed with the instance role.

Throttles, 5xx, lost connections and a 409 with code `retry` are tried again with growing, jittered pauses; every other
refusal is an answer and is raised as Refused.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, InstanceMetadataProvider
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import InstanceMetadataFetcher
from clock import Clock

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0


class Refused(Exception):
    """The controller refused; asking again would change nothing."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message


class Unreachable(Exception):
    """No answer within the time given."""


class Gone(Exception):
    """The wait was broken off by the caller."""


def instance_role() -> Credentials:
    """The instance role's credentials; they renew themselves. AWS_EC2_METADATA_SERVICE_ENDPOINT is honoured."""
    config = {"ec2_metadata_service_endpoint": os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")}
    fetcher = InstanceMetadataFetcher(timeout=2, num_attempts=5, config={k: v for k, v in config.items() if v})
    credentials = InstanceMetadataProvider(iam_role_fetcher=fetcher).load()
    if credentials is None:
        raise Unreachable("The metadata service gives no credentials: has the instance a profile?")
    return credentials


class Api:
    """One attempt's routes. Thread-safe: each call makes its own request."""

    def __init__(
        self,
        base: str,
        run: str,
        attempt: int,
        credentials: Credentials,
        region: str,
        clock: Clock,
        jitter: Callable[[], float] = random.random,
        redact: Callable[[Any], Any] = lambda body: body,
    ) -> None:
        """`redact` takes secrets out of every body that is sent."""
        self._base = f"{base}/attempts/{run}/{attempt}"
        self._credentials, self._region = credentials, region
        self._clock, self._jitter, self._redact = clock, jitter, redact
        self._http = URLLib3Session(timeout=35, max_pool_connections=4)

    def claim(self, body: dict[str, Any], patience: float, broken_off: Callable[[], bool] = lambda: False) -> Any:
        return self._call("claim", body, patience, broken_off)

    def heartbeat(self, body: dict[str, Any], patience: float) -> Any:
        return self._call("heartbeat", body, patience)

    def exit(self, body: dict[str, Any], patience: float) -> Any:
        return self._call("exit", body, patience)

    def _call(
        self, route: str, body: dict[str, Any], patience: float, broken_off: Callable[[], bool] = lambda: False
    ) -> Any:
        """The answer's JSON. `patience`: seconds to keep trying. Raises Refused, Unreachable, Gone."""
        until = self._clock.monotonic() + patience
        pause = _FIRST_PAUSE
        while True:
            asked_pause = 0.0
            try:
                status, answer = self._post(f"{self._base}/{route}", body)
                if 200 <= status < 300:
                    return answer
                error = answer.get("error") if isinstance(answer, dict) else None
                error = error if isinstance(error, dict) else {}
                code, message = str(error.get("code", "")), str(error.get("message", ""))
                if not (status >= 500 or status == 429 or (status == 409 and code == "retry")):
                    raise Refused(status, code, message)
                if isinstance(answer, dict):
                    retry_in = answer.get("retry_in_s") or error.get("retry_in_s") or 0
                    asked_pause = float(retry_in)
                last = f"{status} {message}"
            except HTTPClientError as failure:
                last = str(failure)
            wait = max(asked_pause, self._clock.scaled(pause, 0.05) * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE)
            if self._clock.monotonic() + wait > until:
                raise Unreachable(f"The controller gave no answer to {route}: {last}")
            if broken_off():
                raise Gone(route)
            self._clock.sleep(wait)

    def _post(self, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = AWSRequest(
            method="POST",
            url=url,
            data=json.dumps(self._redact(body)).encode(),
            headers={"content-type": "application/json"},
        )
        SigV4Auth(self._credentials, "execute-api", self._region).add_auth(request)
        response = self._http.send(request.prepare())
        try:
            return response.status_code, json.loads(response.content or b"null")
        except ValueError:
            return response.status_code, None
