"""The HTTP API from Python: every call signed (SigV4), errors as exceptions that carry the API's own words."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError, HTTPClientError
from botocore.httpsession import URLLib3Session

# The statuses of a run that are an end.
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
# Every route may be called twice: a repeat changes nothing (DESIGN, I7). A cold start or a throttle is over in a moment.
_PASSING = (429, 500, 502, 503, 504)
_TRIES, _FIRST_PAUSE_S = 4, 0.2


class ApiRefused(Exception):
    """The API answered with an error: `status`, and its `error` as {"code", "message", "fields", …}."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('message') or error.get('Message') or 'no message'} ({status})")
        self.status, self.error = status, dict(error)


class ApiUnreachable(Exception):
    """No answer came."""


class Client:
    """One deployment's API. `url` has no slash at its end. What passes by itself (5xx, throttles) is tried four times."""

    def __init__(self, session: boto3.Session, url: str) -> None:
        self._session, self.url = session, url
        self._http = URLLib3Session(timeout=65, max_pool_connections=8)

    def get(self, *path: str, **query: str | int | None) -> Any:
        return self._call("GET", path, query)[1]

    def post(self, *path: str, body: object = None, **query: str | int | None) -> Any:
        return self._call("POST", path, query, body)[1]

    def create(self, *path: str, body: object) -> tuple[bool, Any]:
        """POST; and whether it made what is answered, which was not there before."""
        status, answer = self._call("POST", path, {}, body)
        return status == 201, answer

    def put(self, *path: str, body: object) -> Any:
        return self._call("PUT", path, {}, body)[1]

    def _call(
        self, method: str, path: tuple[str, ...], query: Mapping[str, Any], body: object = None
    ) -> tuple[int, Any]:
        for tried in range(1, _TRIES + 1):
            try:
                return self._once(method, path, query, body)
            except ApiRefused as refused:
                if refused.status not in _PASSING or tried == _TRIES:
                    raise
            time.sleep(_FIRST_PAUSE_S * 2 ** (tried - 1) * (0.5 + random.random()))
        raise AssertionError("unreachable")

    def _once(
        self, method: str, path: tuple[str, ...], query: Mapping[str, Any], body: object = None
    ) -> tuple[int, Any]:
        url = "/".join([self.url, *(quote(part, safe="") for part in path)])
        given = {name: value for name, value in query.items() if value is not None}
        if given:
            url += "?" + urlencode(given)
        data = json.dumps(body).encode() if body is not None else None
        request = AWSRequest(method=method, url=url, data=data, headers={"content-type": "application/json"})
        credentials = self._session.get_credentials()
        if credentials is None:
            raise ApiUnreachable("There are no AWS credentials here: run `aws configure`, or set AWS_PROFILE.")
        SigV4Auth(credentials, "execute-api", self._session.region_name).add_auth(request)
        try:
            response = self._http.send(request.prepare())
        except (HTTPClientError, ConnectionError) as error:
            raise ApiUnreachable(f"{self.url} gives no answer: {error}") from error
        try:
            answer = json.loads(response.content or b"null")
        except ValueError:
            answer = {"message": response.text[:500]}
        if response.status_code >= 400:
            shaped = isinstance(answer, dict)
            raise ApiRefused(response.status_code, answer.get("error", answer) if shaped else {"message": str(answer)})
        return response.status_code, answer
