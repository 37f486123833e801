"""Spot Relay, deployed into the emulator with every permission enforced, and whoever calls it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml

from spotrelay.client import Client
from spotrelay.rehearsal.stage import STAGE, Stage

SPEC = yaml.safe_load((Path(__file__).parents[1] / "examples/quickstart/run.yaml").read_text())
FOREVER_S = 3600.0


@dataclass
class Deployed:
    """A stage on which instances never boot: a test plays what would run on them."""

    stage: Stage
    _sessions: dict[tuple[str, str], boto3.Session] = field(default_factory=dict)
    _clients: dict[tuple[int, str], Any] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        return self.stage.deployment.resources.BucketName

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.stage.emulator.region}:{self.stage.emulator.account_id}:{resource}"

    def role(self, name: str, session: str = "test") -> boto3.Session:
        """A session of a role of ours, as its service gets one; a function's is named as the handler."""
        if (name, session) not in self._sessions:
            arn = f"arn:aws:iam::{self.stage.emulator.account_id}:role/spot-relay-{STAGE}-{name}"
            given = self.stage.client("sts").assume_role(RoleArn=arn, RoleSessionName=session)["Credentials"]
            self._sessions[name, session] = boto3.Session(
                given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], self.stage.emulator.region
            )
        return self._sessions[name, session]

    def client(self, session: boto3.Session, service: str) -> Any:
        key = (id(session), service)
        if key not in self._clients:  # making one takes a second
            made: Any = session
            self._clients[key] = made.client(service, endpoint_url=self.stage.emulator.endpoint)
        return self._clients[key]

    def api(self, session: boto3.Session) -> Client:
        return Client(session, self.stage.deployment.api_url)

    def agent(self, instance: str) -> Client:
        """The API as it is called from an instance."""
        return self.api(self.role("instance", instance))

    def submit(self, name: str, **changed: Any) -> str:
        """Submit a run and give the instance of its first attempt."""
        spec = {**SPEC, "name": name, "source": {"repo": "/nowhere", "ref": "main"}, **changed}
        self.stage.api.post("runs", body=spec)
        return self.instance(name, 1)

    def instance(self, run: str, attempt: int) -> str:
        return str(self.stage.api.get("runs", run)["attempts"][attempt - 1]["instance_id"])
