"""A controller with its table and bucket in moto, EC2 a fake: what tests of its routes ask, and what is asked of it."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from chalicelib import agents, people
from chalicelib.contracts import api
from chalicelib.contracts.api import ClaimRequest, ExitRequest, HeartbeatRequest
from chalicelib.contracts.errors import ApiError
from chalicelib.controller import Controller
from chalicelib.core import events as ev
from chalicelib.pools import Priced
from chalicelib.prices import Quote
from chalicelib.settings import Settings
from chalicelib.store import Store
from tests.conftest import TABLE
from tests.core_world import OFFERS
from tests.fakes import Clock, FakeEc2, FakeMeter, FakeWatchdog

ME = "arn:aws:iam::123456789012:user/me"
SPEC: dict[str, Any] = {
    "name": "cloud_prod_001",
    "source": {"repo": "https://github.com/OWNER/REPO.git", "token": "github-token"},
    "command": "python train.py --out {results}",
    "checkpoint": {"resume": "--resume {checkpoint}"},
    "results": {"require": ["loss"]},
}
SETTINGS = Settings(
    stage="test",
    table=TABLE,
    bucket="relay-test",
    launch_template="spot-relay-test",
    run_role_arn="arn:aws:iam::123456789012:role/spot-relay-test-run",
    agent_sha256="0" * 64,
    api_url="https://api.example.com/api",
    limit_usd=Decimal(20),
    topic_arn="",
    log_group="/spot-relay/test",
)
BUCKET = SETTINGS.bucket


class Deployed:
    """A controller with its table and bucket in moto."""

    def __init__(self, store: Store) -> None:
        self.clock, self.ec2 = Clock(), FakeEc2()
        session, numbers = boto3.Session(region_name="us-east-1"), itertools.count(1)
        self.c = Controller(SETTINGS, session, self.clock, lambda: f"uid{next(numbers)}")
        self.watchdog, self.meter = FakeWatchdog(), FakeMeter()
        self.c.__dict__.update(store=store, fleet=self.ec2, watchdog=self.watchdog, meter=self.meter)
        self.c.__dict__.update(quotas=SimpleNamespace(limit=lambda market: 8, vcpus=lambda types: {"c6i.xlarge": 4}))
        self.price_age = timedelta()
        self.c.priced = lambda types, market: tuple(Priced(offer, self.quote) for offer in OFFERS)  # type: ignore[method-assign]
        self.s3 = session.client("s3")
        self.s3.create_bucket(Bucket=BUCKET)

    @property
    def quote(self) -> Quote:
        return Quote(Decimal("0.068"), self.clock.now - self.price_age, "spot_history")

    def submit(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        return people.submit(self.c, {**SPEC, **changes}, ME)

    def caller(self, instance: str = "i-00000001", attempt: int = 1) -> agents.Caller:
        arn = f"arn:aws:sts::123456789012:assumed-role/spot-relay-test-instance/{instance}"
        return agents.identify(self.c, arn, SPEC["name"], attempt)

    def claim(self, ready: bool, attempt: int = 1, torn: list[dict[str, int]] | None = None) -> dict[str, Any]:
        body = ClaimRequest.model_validate({"ready": ready, "torn": torn or []})
        answer = agents.claim(self.c, self.caller(self.instance(attempt), attempt), body)
        api.ClaimAnswer.model_validate(json.loads(json.dumps(answer)))
        return answer

    def beat(self, attempt: int = 1, **told: Any) -> dict[str, Any]:
        body = HeartbeatRequest.model_validate({"phase": "train", **told})
        answer = agents.heartbeat(self.c, self.caller(self.instance(attempt), attempt), body)
        api.HeartbeatAnswer.model_validate(json.loads(json.dumps(answer)))
        return answer

    def leave(self, **told: Any) -> dict[str, Any]:
        return agents.leave(self.c, self.caller(), ExitRequest.model_validate({"message": "Over.", **told}))

    @staticmethod
    def instance(attempt: int) -> str:
        return f"i-{attempt:08x}"

    def publish(self, attempt: int, step: int) -> None:
        self.s3.put_object(
            Bucket=BUCKET, Key=f"runs/{SPEC['name']}/checkpoints/{attempt:04d}/{step:012d}/MANIFEST.json", Body=b"{}"
        )

    def training(self) -> None:
        self.submit()
        self.claim(False)
        self.claim(True)

    def warned(self) -> None:
        """Attempt 1 trains and is warned; attempt 2 boots."""
        self.training()
        self.c.shell.on_instance(ev.Warned("i-00000001", self.clock.now + timedelta(minutes=2)))

    @property
    def run(self) -> dict[str, Any]:
        return people.get(self.c, SPEC["name"])


def refused(status: int, code: str) -> Any:
    return pytest.raises(ApiError, match=f"^{status} {code}:")
