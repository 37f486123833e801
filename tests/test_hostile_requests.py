"""Requests that mean harm: a sentence and a 4xx, never a 500; nothing is stored, and nothing secret is logged."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import app as deployed
from chalicelib import people
from chalicelib.contracts import api
from chalicelib.contracts.api import ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.core import events as ev
from chalicelib.store import Store
from tests.controlled import SPEC, Deployed

CANARY = "canary-3f9c/secret"
RUN = str(SPEC["name"])


@pytest.fixture
def stage(store: Store, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    made = Deployed(store)
    monkeypatch.setattr(deployed, "controller", lambda: made.c)
    return made


ME = "arn:aws:iam::123456789012:user/me"
INSTANCE = "arn:aws:sts::123456789012:assumed-role/spot-relay-test-instance/i-00000001"


class Context:
    """What Lambda tells a function of itself."""

    function_name, function_version, memory_limit_in_mb, aws_request_id = "spot-relay-test", "1", 512, "1"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:spot-relay-test"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def call(
    method: str,
    resource: str,
    body: Any = None,
    *,
    raw: bytes | None = None,
    query: dict[str, str] | None = None,
    caller: str = ME,
    **path: str,
) -> tuple[int, dict[str, Any]]:
    """The request as API Gateway hands it to the function: path and query decoded, the caller established."""
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    context = {"httpMethod": method, "resourcePath": resource, "identity": {"userArn": caller, "sourceIp": "127.0.0.1"}}
    event = {
        "resource": resource,
        "path": resource,
        "httpMethod": method,
        "headers": {"content-type": "application/json"},
        "multiValueHeaders": {"content-type": ["application/json"]},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {k: [v] for k, v in query.items()} if query else None,
        "pathParameters": path or None,
        "stageVariables": None,
        "requestContext": {**context, "requestId": "1", "stage": "api"},
        "body": base64.b64encode(data).decode() if data is not None else None,
        "isBase64Encoded": data is not None,
    }
    answer = deployed.app(event, Context())
    return int(answer["statusCode"]), json.loads(answer["body"])


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (b"[" * 60_000, 400, "no JSON"),
        (b'{"a":' * 10_000, 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"9" * 6000, 400, "no JSON"),
        (b'{"name": "a", "name": "b"}', 400, "'name' is there twice"),
        (b'{"name": "' + b"x" * 70_000 + b'"}', 413, "65536"),
        (b"null", 400, "mapping"),
        (b"[]", 400, "mapping"),
        (json.dumps({"name": "\ud800"}).encode(), 400, "no JSON"),
    ],
)
def test_a_body_that_is_no_spec_is_a_sentence(stage: Deployed, raw: bytes, status: int, said: str) -> None:
    answered, body = call("POST", "/runs", raw=raw)
    assert answered == status
    assert said in body["error"]["message"]


@pytest.mark.parametrize(
    "name",
    ["..", "../../etc/passwd", "%2e%2e%2fbudget", "a" * 5000, "RUN#x", "a b", "É", "a\0b", "%", "x'; DROP TABLE", "²"],
)
@pytest.mark.parametrize("rest", ["", "/events", "/checkpoints", "/ledger"])
def test_what_was_never_a_runs_name_is_not_found(stage: Deployed, name: str, rest: str) -> None:
    status, body = call("GET", "/runs/{run}" + rest, run=name)
    assert (status, body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("attempt", ["0", "-1", "²", "1e3", "9" * 5000, "one", "../1"])
def test_what_is_no_attempt_is_refused(stage: Deployed, attempt: str) -> None:
    stage.submit()
    claim = "/attempts/{run}/{attempt}/claim"
    status, body = call("POST", claim, {"ready": False}, caller=INSTANCE, run=RUN, attempt=attempt)
    assert (status, body["error"]["code"]) == (404, "not_found")
    for name in ("../" + RUN, "a" * 5000):
        assert call("POST", claim, {"ready": False}, caller=INSTANCE, run=name, attempt="1")[0] == 404


@pytest.mark.parametrize(
    "caller",
    [
        ME,
        "",
        "unknown",
        INSTANCE + "\n",
        INSTANCE.replace("i-00000001", "../i-00000001"),
        INSTANCE.replace("-instance", "-run"),
    ],
)
def test_who_is_no_instance_of_ours_may_not_speak_for_an_attempt(stage: Deployed, caller: str) -> None:
    stage.submit()
    claim = "/attempts/{run}/{attempt}/claim"
    assert call("POST", claim, {"ready": False}, caller=caller, run=RUN, attempt="1")[0] == 403


CURSORS = [
    "x",
    "²",
    "1#²",
    "0" * 3000 + "#00",
    "=",
    base64.urlsafe_b64encode(b"2026-01-01T00:00:00#" + b"a" * 2000).decode(),
]


@pytest.mark.parametrize("path", ["/runs", "/runs/{run}/events", "/runs/{run}/checkpoints", "/runs/{run}/ledger"])
def test_every_list_bounds_its_pages_and_checks_its_cursor(stage: Deployed, path: str) -> None:
    stage.submit()
    wrong = [("cursor", cursor) for cursor in CURSORS]
    wrong += [("limit", limit) for limit in ("0", "²", "1e3", "-5", "100001", "x", "9" * 5000)]
    for name, value in wrong:
        status, body = call("GET", path, query={name: value}, **({"run": RUN} if "{run}" in path else {}))
        assert (status, body["error"]["fields"][0]["field"]) == (400, name), value


def test_checkpoints_and_ledger_come_in_pages(stage: Deployed) -> None:
    stage.training()
    for step in (10, 20, 30):
        stage.publish(1, step)
    first = people.checkpoints(stage.c, RUN, {"limit": "2"})
    second = people.checkpoints(stage.c, RUN, {"limit": "2", "cursor": first["cursor"]})
    assert [c["step"] for c in first["checkpoints"] + second["checkpoints"]] == [30, 20, 10]
    assert second["cursor"] is None
    api.CheckpointList.model_validate(first)
    lines = people.ledger(stage.c, RUN, {"limit": "1"})
    assert (len(lines["lines"]), lines["cursor"]) == (1, None)
    assert people.ledger(stage.c, RUN, {"cursor": "1-1"})["lines"] == []


def test_open_runs_are_counted_and_one_too_many_is_refused_with_the_numbers(stage: Deployed) -> None:
    object.__setattr__(stage.c.settings, "max_open_runs", 2)
    try:
        for name in ("one", "two"):
            assert stage.submit(name=name)[0] == 201
        status, body = call("POST", "/runs", {**SPEC, "name": "three"})
        assert (status, body["error"]["code"]) == (409, "too_many_runs")
        assert (body["error"]["open_runs"], body["error"]["max_open_runs"]) == (2, 2)
        assert people.plan(stage.c, {**SPEC, "name": "three"})["would"] == "refuse"
        assert stage.submit(name="two")[0] == 200, "the same again is no new run"
        people.ask(stage.c, "one", "cancel", "me")
        stage.c.shell.on_instance(ev.InstanceState("i-00000001", "terminated"))
        assert stage.submit(name="three")[0] == 201
    finally:
        object.__setattr__(stage.c.settings, "max_open_runs", 100)


def test_what_no_session_policy_can_hold_is_refused_before_it_can_never_start(stage: Deployed) -> None:
    many = [{"from": f"datasets/{n:03d}{'x' * 150}", "to": f"d{n}"} for n in range(10)]
    status, body = call("POST", "/runs", {**SPEC, "inputs": many})
    assert (status, body["error"]["fields"][0]["field"]) == (400, "inputs")
    assert "2048" in body["error"]["message"]
    secrets = {f"S{n}": f"{n}{'s' * 120}" for n in range(10)}
    status, body = call("POST", "/runs", {**SPEC, "secrets": secrets}, query={"plan": "true"})
    assert (status, body["error"]["fields"][0]["field"]) == (400, "secrets")


@pytest.mark.parametrize(
    "metrics",
    [
        {"big": 10**60, "small": 1e-300, "nan": float("nan"), "": 1},
        {"deep": [[[[{"a": {"b": [1, None, True]}}]]]]},
        {f"k{n}": n for n in range(200)},
    ],
    ids=["numbers", "deep", "many"],
)
def test_whatever_numbers_a_job_wrote_its_agent_is_heard(stage: Deployed, metrics: dict[str, Any]) -> None:
    stage.training()
    stage.beat(step=1, metrics=metrics)
    results = {"prefix": f"runs/{RUN}/results/0001/", "metrics": metrics, "found": ["loss"], "missing": []}
    stage.leave(code=1, reason="exit_code", results=results)
    shown = json.loads(json.dumps(stage.run["metrics"]))
    assert list(shown) == [name or "(empty)" for name in metrics]


def test_metrics_nested_without_end_are_refused() -> None:
    deep: Any = 1
    for _ in range(30):
        deep = [deep]
    for make in (
        lambda: api.validate_request(HeartbeatRequest, {"phase": "train", "metrics": {"a": deep}}),
        lambda: api.validate_request(
            ExitRequest, {"reason": "done", "message": "", "results": {"prefix": "", "metrics": {"a": deep}}}
        ),
    ):
        with pytest.raises(ApiError, match="nested more than"):
            make()


# -- I8: nothing of a spec that could be a secret reaches a log or an error ------------------------------------------------


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the function logs."""
    written = io.StringIO()
    monkeypatch.setattr(deployed.logger.registered_handler, "stream", written)
    return written


SECRETIVE: dict[str, Any] = {
    **SPEC,
    "env": {"WORD": CANARY},
    "setup": f"echo {CANARY}",
    "command": f"train {CANARY}",
    "checkpoint": {"resume": f"--resume {CANARY}"},
}


def test_a_submission_that_breaks_inside_logs_nothing_of_the_spec(
    stage: Deployed, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ClientError({"Error": {"Code": "ValidationException", "Message": "no"}}, "TransactWriteItems")

    monkeypatch.setattr(stage.c.store, "create", broken)
    status, body = call("POST", "/runs", SECRETIVE)
    assert (status, body["error"]["code"]) == (500, "internal")
    assert "request failed" in log.getvalue()
    assert CANARY not in log.getvalue() + json.dumps(body)


@pytest.mark.parametrize(
    "change",
    [
        {"env": {"WORD": CANARY, "a-b": CANARY}},
        {"secrets": {"WORD": f"{CANARY} x"}},
        {"source": {"repo": "x", "token": CANARY}},
    ],
    ids=["env", "secrets", "token"],
)
def test_a_refused_spec_repeats_nothing_of_where_secrets_may_be(
    stage: Deployed, change: dict[str, Any], log: io.StringIO
) -> None:
    status, body = call("POST", "/runs", {**SPEC, **change})
    assert status == 400
    assert CANARY not in json.dumps(body) + log.getvalue()


def test_an_accepted_submission_logs_nothing_of_it(stage: Deployed, log: io.StringIO) -> None:
    assert call("POST", "/runs", SECRETIVE)[0] == 201
    assert CANARY not in log.getvalue()


texts = st.text(max_size=40)
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    "name",
    "source",
    "workdir",
    "setup",
    "command",
    "inputs",
    "env",
    "secrets",
    "checkpoint",
    "results",
    "notify",
    "limits",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=documents)
def test_no_value_of_any_field_breaks_the_api(stage: Deployed, field: str, value: Any) -> None:
    status, body = call("POST", "/runs", {**SPEC, field: value}, query={"plan": "true"})
    assert status in (200, 400, 402), body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=30))
def test_no_text_in_a_path_or_a_query_breaks_the_api(stage: Deployed, text: str) -> None:
    for method, resource in (("GET", "/runs/{run}"), ("GET", "/runs/{run}/events"), ("POST", "/runs/{run}/cancel")):
        assert call(method, resource, query={"cursor": text, "limit": text}, run=text)[0] == 404
    assert call("GET", "/runs", query={"cursor": text, "status": text})[0] == 400
    beat = call("POST", "/attempts/{run}/{attempt}/heartbeat", {}, caller=INSTANCE, run=text, attempt=text)
    assert beat[0] == 404
