"""The agent's calls to the controller: POST, JSON, signed with the instance role.

Throttles, 5xx, lost connections and a 409 with code `retry` are tried again with growing, jittered pauses; every other
refusal of the controller's own is an answer and is raised as Refused. What refuses in front of it (a signature that has
expired, a role that IAM does not know yet) says nothing about the attempt and is tried again too.
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
from imds import ImdsError, patiently

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_NOT_SIGNED_S = 120  # a role that is new is known everywhere by then


class Refused(Exception):
    """The controller refused; asking again would change nothing."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message


class Unreachable(Exception):
    """No answer within the time given."""


class Gone(Exception):
    """The wait was broken off by the caller."""


class _NotSigned(Exception):
    """The instance role's credentials can't be had at the moment."""


def instance_role(clock: Clock, timeout: float = 2) -> Credentials:
    """The instance role's credentials; they renew themselves. AWS_EC2_METADATA_SERVICE_ENDPOINT is honoured.

    `timeout` is for one request, in seconds. Raises ImdsError when the metadata service gives none for a while.
    """
    config = {"ec2_metadata_service_endpoint": os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")}
    given = {name: value for name, value in config.items() if value}

    def load() -> Credentials:
        # botocore tries again at once, and takes one token that is late for a service without tokens.
        fetcher = InstanceMetadataFetcher(timeout=timeout, num_attempts=5, config=given)
        try:
            credentials = InstanceMetadataProvider(iam_role_fetcher=fetcher).load()
        except Exception as error:  # whatever it makes of an answer that is none
            raise ImdsError(f"The metadata service gives no credentials that can be read: {error}.") from error
        if credentials is None:
            raise ImdsError("The metadata service gives no credentials: has the instance a profile?")
        return credentials

    return patiently(load, clock)


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
        denied_until: float | None = None
        pause = _FIRST_PAUSE
        while True:
            asked_pause = 0.0
            try:
                status, answer = self._post(f"{self._base}/{route}", body)
                said = answer if isinstance(answer, dict) else {}
                if 200 <= status < 300 and isinstance(answer, dict):
                    return answer
                error = said.get("error")
                error = error if isinstance(error, dict) else {}
                code, message = str(error.get("code", "")), str(error.get("message", ""))
                if code and not (status >= 500 or status == 429 or (status == 409 and code == "retry")):
                    raise Refused(status, code, message)
                if status in (401, 403):
                    denied_until = denied_until or self._clock.monotonic() + self._clock.scaled(_NOT_SIGNED_S, 15)
                    until = min(until, denied_until)
                asked_pause = float(said.get("retry_in_s") or error.get("retry_in_s") or 0)
                last = f"{status} {message or said.get('message') or said.get('Message') or ''}".rstrip()
            except (HTTPClientError, _NotSigned) as failure:
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
        try:
            # All three at once: were they renewed in between, the signature would be of neither.
            frozen = self._credentials.get_frozen_credentials()
        except Exception as error:  # botocore hands on whatever the renewal met
            raise _NotSigned(f"the instance role's credentials can't be renewed: {error}") from error
        SigV4Auth(frozen, "execute-api", self._region).add_auth(request)
        response = self._http.send(request.prepare())
        try:
            return response.status_code, json.loads(response.content or b"null")
        except ValueError:
            return response.status_code, None
