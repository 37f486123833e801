"""The doctor: each thing that can be wrong with a deployment is named, with the command that mends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from spotrelay.deploying import settings
from spotrelay.deploying.settings import SETTINGS
from spotrelay.doctor import facts as fx
from spotrelay.doctor import github
from spotrelay.doctor.facts import Facts, Unknown
from spotrelay.doctor.judge import judge

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
URL = "https://abc123.execute-api.us-east-1.amazonaws.com/api"
ENV = {**dict.fromkeys(SETTINGS, "x"), "API_URL": URL, "AGENT_SHA256": "a" * 64}


def function(handler: str, **changed: Any) -> fx.Function:
    events = handler != "api_handler"
    well = fx.Function(
        handler,
        ENV,
        events,
        True,
        2 if events else None,
        "arn:queue" if events else None,
        30,
        f"spot-relay-dev-{handler}",
    )
    return replace(well, **changed)


WELL = Facts(
    stage="dev",
    region="us-east-1",
    now=NOW,
    agent_sha256="a" * 64,
    handlers=("api_handler", "sweep"),
    identity=fx.Identity("123456789012", "arn:aws:iam::123456789012:user/me", 0.4),
    stack=fx.Stack("UPDATE_COMPLETE", "", {}, {}),
    network=fx.Network("vpc-1", ("us-east-1a", "us-east-1b")),
    image="ami-1",
    table=fx.Table("spot-relay-dev", "ACTIVE", True),
    bucket=fx.Bucket("spot-relay-dev-123456789012-us-east-1", True, True, True, True, True, True),
    functions=(function("api_handler"), function("sweep")),
    api=fx.Api(("abc123",), 200, 50.0),
    sweep=fx.Sweep(20.0, 0),
    token=fx.Token("github-token", True, False, True, True, NOW + timedelta(days=90)),
    mail=fx.Mail(("me@example.org",), ()),
    quota=fx.Quota(32, "c6i.xlarge", 4),
    spot_role=True,
)


def test_a_deployment_that_is_well_has_nothing_to_mend() -> None:
    checks = judge(WELL)
    assert {c.verdict for c in checks} == {"ok"}
    assert not any(c.mend for c in checks)


def sick(handler: str = "sweep", **changed: Any) -> dict[str, Any]:
    return {"functions": (function("api_handler"), function(handler, **changed))}


CASES: list[tuple[dict[str, Any], str, str, str, str]] = [
    # what is wrong, check, verdict, in the sentence, in the command
    ({"identity": Unknown("no")}, "credentials", "fail", "no credentials", "aws configure"),
    ({"identity": fx.Identity("1", "a", None)}, "clock", "warn", "no date", ""),
    ({"identity": fx.Identity("1", "a", 90.0)}, "clock", "warn", "90 s ahead of", "timedatectl"),
    ({"identity": fx.Identity("1", "a", -290.0)}, "clock", "fail", "290 s behind", "timedatectl"),
    ({"stack": None}, "stack", "fail", "not deployed", "spotrelay deploy"),
    ({"stack": fx.Stack("UPDATE_ROLLBACK_FAILED", "  Table: no", {}, {})}, "stack", "fail", "Table: no", "deploy"),
    ({"stack": fx.Stack("UPDATE_ROLLBACK_COMPLETE", "  Table: no", {}, {})}, "stack", "warn", "taken back", "deploy"),
    ({"stack": fx.Stack("UPDATE_IN_PROGRESS", "", {}, {})}, "stack", "warn", "under way", ""),
    ({"network": fx.Network(None, ())}, "network", "fail", "no default VPC", "create-default-vpc"),
    ({"network": fx.Network("v", ())}, "network", "fail", "no default subnet", "create-default-subnet"),
    ({"network": fx.Network("v", ("a",))}, "network", "warn", "no other zone", "create-default-subnet"),
    ({"image": ""}, "image", "fail", "not found", "ImageId="),
    ({"table": fx.Table("t", None, False)}, "table", "fail", "no table", "spotrelay deploy"),
    ({"table": fx.Table("t", "UPDATING", True)}, "table", "warn", "UPDATING", ""),
    ({"table": fx.Table("t", "ACTIVE", False)}, "table", "warn", "point-in-time", "update-continuous-backups"),
    ({"bucket": replace(WELL.bucket, reachable=False)}, "bucket", "fail", "closed to you", "deploy"),  # type: ignore[type-var]
    ({"bucket": replace(WELL.bucket, private=False)}, "bucket", "fail", "public", "put-public-access-block"),  # type: ignore[type-var]
    ({"bucket": replace(WELL.bucket, tls_only=False)}, "bucket", "warn", "plain HTTP", "deploy"),  # type: ignore[type-var]
    ({"bucket": fx.Bucket("mine", True, True, True, False, True, True)}, "bucket", "warn", "your own bucket", ""),
    ({"bucket": replace(WELL.bucket, has_agent=False)}, "agent", "warn", "the agent of this", "deploy"),  # type: ignore[type-var]
    ({"functions": (function("api_handler"),)}, "functions", "fail", "Not deployed: sweep", "deploy"),
    (sick(environment={**ENV, "TABLE": ""}), "functions", "fail", "sweep is not told TABLE", "deploy"),
    (
        sick(role="spot-relay-dev-api_handler"),
        "functions",
        "fail",
        "sweep runs as spot-relay-dev-api_handler",
        "deploy",
    ),
    (sick(environment={**ENV, "API_URL": settings.UNKNOWN_URL}), "functions", "fail", "was cut off", "deploy"),
    (sick(environment={**ENV, "API_URL": "https://old"}), "functions", "fail", "different addresses", "deploy"),
    (sick(environment={**ENV, "AGENT_SHA256": "b" * 64}), "code", "warn", "bbbbbbbbbbbb", "deploy"),
    (sick(retries=None), "retries", "warn", "sweep", "deploy"),
    (sick(failed_to=None), "retries", "warn", "sweep", "deploy"),
    (sick(logs_kept_days=None), "logs", "warn", "sweep", "deploy"),
    (sick(enabled=False), "rules", "fail", "switched off", "enable-rule --name spot-relay-dev-sweep-event"),
    ({"api": fx.Api((), None, None)}, "api", "fail", "no API", "deploy"),
    ({"api": fx.Api(("zzz",), 200, 50)}, "api", "fail", "which is not the API", "deploy"),
    ({"api": fx.Api(("abc123",), None, 50)}, "api", "fail", "no answer", "curl"),
    ({"api": fx.Api(("abc123",), 500, 50)}, "api", "fail", "answers 500", "aws logs tail"),
    ({"api": fx.Api(("abc123", "old1"), 200, 50)}, "api", "warn", "old1", "delete-rest-api --rest-api-id old1"),
    ({"api": fx.Api(("abc123",), 200, None)}, "throttling", "warn", "no limit", "deploy"),
    ({"sweep": fx.Sweep(None, 0)}, "sweep", "fail", "not run", "aws logs tail"),
    ({"sweep": fx.Sweep(400, 0)}, "sweep", "warn", "400 s ago", "aws logs tail"),
    ({"sweep": fx.Sweep(10, 3)}, "failed events", "warn", "3 events", "purge-queue"),
    ({"spot_role": False}, "Spot role", "fail", "every launch is refused", "create-service-linked-role"),
    (
        {"quota": fx.Quota(5, "c6i.xlarge", 4)},
        "quota",
        "warn",
        "no overlap: quota 5 vCPU, needs 8",
        "--desired-value 8",
    ),
    ({"quota": fx.Quota(0, "c6i.xlarge", 4)}, "quota", "fail", "no instance at all", "request-service-quota-increase"),
    ({"token": fx.Token("t", False, True)}, "token", "fail", "no secret t", "spotrelay secret set t"),
    ({"token": fx.Token("t", True, True, True, False)}, "token", "fail", "refuses", "secret set"),
    ({"token": fx.Token("t", True, True, True, True, None)}, "token", "warn", "never expires", "secret set"),
    ({"token": fx.Token("t", True, True, True, True, NOW)}, "token", "fail", "expired on 2026-03-01", "secret set"),
    ({"token": fx.Token("t", True, True, True, True, NOW + timedelta(days=3))}, "token", "warn", "2026-03-04", "set"),
    ({"mail": fx.Mail((), ("me@example.org",))}, "mail", "warn", "has not confirmed", ""),
    ({"mail": fx.Mail((), ())}, "mail", "warn", "Nobody is told", "--email"),
]


@pytest.mark.parametrize(
    ("changed", "name", "verdict", "sentence", "mend"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_what_is_wrong_is_named_with_the_command_that_mends_it(
    changed: dict[str, Any], name: str, verdict: str, sentence: str, mend: str
) -> None:
    found = [c for c in judge(replace(WELL, **changed)) if c.name == name and c.verdict == verdict]
    assert any(sentence in c.sentence and mend in c.mend for c in found), found


@pytest.mark.parametrize(
    "name", [f for f in Facts.__dataclass_fields__ if "Known" in str(Facts.__dataclass_fields__[f].type)]
)
def test_what_could_not_be_asked_never_passes_for_well(name: str) -> None:
    checks = judge(replace(WELL, **{name: Unknown("AccessDenied: not you")}))
    assert any(c.verdict != "ok" and "not you" in c.sentence for c in checks)


def test_without_a_stored_token_nothing_is_wrong_unless_one_was_named() -> None:
    (check,) = [c for c in judge(replace(WELL, token=fx.Token("github-token", False, False))) if c.name == "token"]
    assert check.verdict == "ok"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("2027-10-12 09:00:00 UTC", datetime(2027, 10, 12, 9, tzinfo=UTC)),
        ("2027-10-12 09:00:00 +0200", datetime(2027, 10, 12, 7, tzinfo=UTC)),
        (None, None),
        ("soon", None),
    ],
)
def test_githubs_date_is_read(header: str | None, expected: datetime | None) -> None:
    assert github.expiry(header) == expected


@pytest.fixture
def github_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["authorization"] == "Bearer good"
            self.send_response(200 if known else 401)
            self.send_header("github-authentication-token-expiration", "2027-10-12 09:00:00 UTC")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/rate_limit"
    server.shutdown()
    thread.join()
    server.server_close()


def test_github_is_asked_with_the_token_in_a_header(github_server: str) -> None:
    assert github.ask("good", github_server) == github.Answer(True, True, datetime(2027, 10, 12, 9, tzinfo=UTC))
    assert github.ask("bad", github_server) == github.Answer(True, False)
    assert github.ask("two\nlines", github_server) == github.Answer(False)
