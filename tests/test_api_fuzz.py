"""The deployed API against its own description: random requests, signed, find no 5xx and no answer that is not described.

`make test` tries a few of each operation, always the same; `make fuzz-api` many more, by the seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chalicelib.contracts import openapi
from spotrelay.rehearsal.stage import STAGE, Stage

EXAMPLES = int(os.environ.get("API_EXAMPLES", "5"))
RANDOM = "API_EXAMPLES" in os.environ
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SPEC = {
    "name": "fuzzed",
    "source": {"repo": "https://github.com/OWNER/REPO.git"},
    "command": "python train.py",
    "checkpoint": {"dir": "checkpoints", "resume": "--resume {checkpoint}"},
    "resources": {"instance_types": ["c6i.xlarge"]},
}


class Signed(requests.auth.AuthBase):
    """Signs as boto3 does."""

    def __init__(self, credentials: Any, region: str) -> None:
        self._credentials, self._region = credentials, region

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        kind = {"content-type": request.headers["content-type"]} if "content-type" in request.headers else {}
        signed = AWSRequest(method=request.method, url=request.url, data=request.body, headers=kind)
        SigV4Auth(self._credentials, "execute-api", self._region).add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        return request


class Fuzzed:
    """A stage with one run, whose instance does nothing: the agent's calls are ours."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.control.boot(fail=True)
        run = stage.api.post("runs", body=SPEC)
        instance = run["attempts"][0]["instance_id"]
        role = f"arn:aws:iam::{stage.emulator.account_id}:role/spot-relay-{STAGE}-instance"
        given = stage.client("sts").assume_role(RoleArn=role, RoleSessionName=instance)["Credentials"]
        session = type(stage.emulator.session())(
            given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], stage.emulator.region
        )
        region = stage.emulator.region
        self.people = Signed(stage.emulator.session().get_credentials(), region)
        self.agent = Signed(session.get_credentials(), region)
        described = stage.api.get("openapi.json")
        assert described == openapi.document()
        self.schema = schemathesis.openapi.from_dict(described)
        self.http = requests.Session()
        self.http.trust_env = False

    def call(self, case: Case, ours: bool) -> None:
        """Send it, to the run that is there or to one that is not, and check the answer."""
        if ours:
            self._nearly_right(case)
        parameters = dict(case.path_parameters or {})
        if ours and "run" in parameters:
            parameters |= {"run": SPEC["name"]} | ({"attempt": 1} if "attempt" in parameters else {})
            case.path_parameters = parameters
        auth = self.agent if "attempt" in parameters else self.people
        answer = case.call(base_url=self.stage.api.url, session=self.http, auth=auth, timeout=30)
        if answer.status_code == 403 and "error" not in answer.json():
            return  # API Gateway's own refusal, which the emulator gives another type than AWS does
        case.validate_response(answer, checks=CHECKS)

    def _nearly_right(self, case: Case) -> None:
        """A spec or an amount with at most one thing wrong gets further than a random one. A plan launches nothing."""
        if case.operation.label == "POST /runs":
            case.query = {"plan": "true"}
            given = dict(case.body) if isinstance(case.body, dict) else {}
            one = sorted(given, key=lambda name: (name in SPEC, len(str(given[name]))))[:1]
            case.body = {**SPEC, "name": "another", **{name: given[name] for name in one}}
        if case.operation.label == "PUT /budget" and isinstance(case.body, dict):
            case.body = {**case.body, "limit_usd": len(str(case.body)) * 5}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    home = Path(__file__).parents[1] / ".rehearsal/cache"
    with Stage(tmp_path_factory.mktemp("fuzz"), home, 0.1) as stage:
        yield Fuzzed(stage)


ODD: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no JSON": ("POST", "/runs", {"data": b"{"}, 400),
    "no text": ("POST", "/runs", {"data": b"\xff\xfe"}, 400),
    "half a character": ("POST", "/runs", {"data": b'{"name": "\\ud800"}'}, 400),
    "no number": ("PUT", "/budget", {"data": b'{"limit_usd": NaN}'}, 400),
    "a number without end": ("PUT", "/budget", {"data": b'{"limit_usd": 1e999999999}'}, 400),
    "too deep": ("POST", "/runs", {"data": b"[" * 60_000}, 400),
    "too large": ("POST", "/runs", {"data": b" " * 70_000}, 413),
    "another kind of body": ("POST", "/runs", {"data": b"a: b", "headers": {"content-type": "text/yaml"}}, 415),
    "a name without end": ("GET", "/runs/" + "x" * 3000, {}, 404),
    "a name of nothing": ("GET", "/runs/%00", {}, 404),
    "an odd digit": ("GET", "/runs", {"params": {"limit": "\u00b2"}}, 400),
    "a cursor of nobody's": ("GET", "/runs", {"params": {"cursor": "MjAyNi0xMS0yMFQxMDowMDowMCMjIyM="}}, 400),
    "a cursor that is none": ("GET", "/runs/fuzzed/events", {"params": {"cursor": "\u00b2#1"}}, 400),
    "metrics that the table has no numbers for": (
        "POST",
        "/attempts/fuzzed/1/heartbeat",
        {"json": {"phase": "train", "metrics": {"": 1e-300, "a": 10**60, "b": [[[[{}]]]], "c": -0.0}}},
        200,
    ),
}


def _serves(route: str, path: str) -> bool:
    parts = list(zip(route.split("/"), path.split("/"), strict=False))
    return route.count("/") == path.count("/") and all(a == b or a.startswith("{") for a, b in parts)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_requests_are_answered_as_described(fuzzed: Fuzzed, odd: tuple[str, str, dict[str, Any], int]) -> None:
    method, path, given, status = odd
    auth = fuzzed.agent if path.startswith("/attempts") else fuzzed.people
    headers = {"content-type": "application/json", **given.pop("headers", {})}
    url = fuzzed.stage.api.url + path
    answer = fuzzed.http.request(method, url, auth=auth, headers=headers, timeout=30, **given)
    assert answer.status_code == status, answer.text
    route = next(r for r in openapi.ROUTES if r.method == method and _serves(r.path, path))
    described = fuzzed.schema.raw_schema["paths"][route.path][method.lower()]["responses"]
    assert str(status) in described
    assert answer.headers["content-type"].startswith("application/json")
    if status not in (200, 415):
        assert set(answer.json()["error"]) >= {"code", "message", "fields"}


# Cancelling is tried last: from then on the run has ended.
ROUTES = sorted(openapi.ROUTES, key=lambda route: route.operation in ("exitAttempt", "cancelRun"))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_every_answer_is_described(fuzzed: Fuzzed, route: openapi.Route, mode: GenerationMode) -> None:
    operation = fuzzed.schema[route.path][route.method]
    if mode is GenerationMode.NEGATIVE and not (route.body or route.query or "{" in route.path):
        pytest.skip("there is nothing that could be wrong with it")

    @settings(
        max_examples=EXAMPLES,
        derandomize=not RANDOM,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), ours=st.sampled_from([True, True, False]))
    def described(case: Case, ours: bool) -> None:
        fuzzed.call(case, ours)

    described()
