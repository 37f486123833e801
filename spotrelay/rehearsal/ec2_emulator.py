"""What the rehearsal's EC2 asks of the emulator: who an instance is (IAM, STS), to pass its events on (EventBridge).

The emulator's address comes late, because the emulator needs ours first. Without one: any profile is accepted, an
instance has no credentials, and events are only noted.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

Mode = Literal["deliver", "lose", "duplicate", "delay"]
STATE_CHANGE = "EC2 Instance State-change Notification"
WARNING = "EC2 Spot Instance Interruption Warning"
# The header of `ministack_patches`; not imported, so that this host starts without the emulator's code.
EC2_HOST_HEADER = "x-spot-relay-ec2-host"
REBALANCE = "EC2 Instance Rebalance Recommendation"
# A session's credentials are renewed when they have less than this left, as the real service does well before the end.
RENEW_BEFORE = timedelta(minutes=10)


@dataclass
class Note:
    """An event that happened: delivered, lost, failed, or (without an emulator) noted."""

    at: str
    detail_type: str
    detail: dict[str, str]
    outcome: str = "waiting"


class Emulator:
    """Calls to the emulator with its administrator's keys. Safe to use from several threads."""

    def __init__(self, region: str, account: str, endpoint: str | None = None) -> None:
        self.region, self.account = region, account
        self.endpoint = endpoint
        self._key = ""
        self._keys = ("test", "test")
        self.mode: Mode = "deliver"
        self.delay_s = 0.0
        self.only: tuple[str, ...] = ()
        self.notes: list[Note] = []
        self._clients: dict[tuple[str, str], Any] = {}
        self._roles: dict[str, str] = {}
        self._sessions: dict[tuple[str, str], tuple[datetime, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[Note, list[str]] | None] = queue.Queue()
        threading.Thread(target=self._deliver, daemon=True).start()

    def use(self, endpoint: str, key: str, keys: tuple[str, str]) -> None:
        """Take another emulator: its address, the key for `aws.*` events, its administrator's access key and secret."""
        with self._lock:
            self._key, self._keys = key, keys
            self._clients.clear()
            self._roles.clear()
            self._sessions.clear()
            self.endpoint = endpoint

    def client(self, service: str) -> Any:
        """A boto3 client, made once: making one is slow and not safe in several threads at once."""
        if not self.endpoint:
            raise LookupError("no emulator is known yet")
        with self._lock:
            key = (service, self.endpoint)
            if key not in self._clients:
                session = boto3.session.Session(*self._keys, region_name=self.region)
                config = Config(connect_timeout=3, read_timeout=15, retries={"total_max_attempts": 2}, proxies={})
                make: Any = session.client
                self._clients[key] = client = make(service, endpoint_url=self.endpoint, config=config)
                client.meta.events.register("before-sign.events.PutEvents", self._prove)
            return self._clients[key]

    def profile(self, name: str) -> dict[str, str] | None:
        """An instance profile's arn, id and role; None when there is none of that name."""
        if not self.endpoint:
            return {"arn": f"arn:aws:iam::{self.account}:instance-profile/{name}", "id": "AIPAREHEARSAL", "role": ""}
        try:
            found = self.client("iam").get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchEntity":
                return None
            raise
        roles = found.get("Roles") or [{}]
        return {"arn": found["Arn"], "id": found["InstanceProfileId"], "role": roles[0].get("Arn", "")}

    def role(self, instance: Any) -> str | None:
        """The role's name behind an instance's profile."""
        arn = self._role_arn(instance)
        return arn.rsplit("/", 1)[-1] if arn else None

    def credentials(self, instance: Any) -> dict[str, Any] | None:
        """The instance role's keys as the metadata service gives them; the session's name is the instance's id."""
        arn = self._role_arn(instance)
        if not arn:
            return None
        now = datetime.now(UTC)
        expires, answer = self._sessions.get((instance.id, arn), (now, {}))
        if expires - now <= RENEW_BEFORE:
            found = self.client("sts").assume_role(RoleArn=arn, RoleSessionName=instance.id)["Credentials"]
            expires = found["Expiration"]
            answer = {
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": found["AccessKeyId"],
                "SecretAccessKey": found["SecretAccessKey"], "Token": found["SessionToken"],
                "LastUpdated": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "Expiration": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }  # fmt: skip
            self._sessions[instance.id, arn] = (expires, answer)
        return answer

    def emit(self, detail_type: str, instance: Any, **detail: str) -> None:
        """Put an `aws.ec2` event to the default bus, unless told to lose it; in order, off the caller's thread."""
        zonal = detail_type != STATE_CHANGE  # these two name a zone and no account in their resource, as on AWS
        place = f"{instance.availability_zone}:" if zonal else f"{self.region}:{self.account}:"
        resource = f"arn:aws:ec2:{place}instance/{instance.id}"
        note = Note(datetime.now(UTC).isoformat(), detail_type, {"instance-id": instance.id, **detail})
        self.notes.append(note)
        mode = self.mode if not self.only or detail_type in self.only else "deliver"
        if mode == "lose":
            note.outcome = "lost"
        elif mode == "delay":
            timer = threading.Timer(self.delay_s, self._queue.put, ((note, [resource]),))
            timer.daemon = True
            timer.start()
        else:
            for _ in range(2 if mode == "duplicate" else 1):
                self._queue.put((note, [resource]))

    def events(self) -> list[dict[str, Any]]:
        return [asdict(note) for note in self.notes]

    def close(self) -> None:
        self._queue.put(None)

    def _prove(self, request: Any, **_: Any) -> None:
        """The emulator takes `aws.*` events, which nobody may put on AWS, from the holder of this key only."""
        if self._key:
            request.headers[EC2_HOST_HEADER] = self._key

    def _role_arn(self, instance: Any) -> str | None:
        if not instance.iam_instance_profile or not self.endpoint:
            return None
        name = str(instance.iam_instance_profile["Arn"]).rsplit("/", 1)[-1]
        if name not in self._roles:
            found = self.profile(name)
            if not found or not found["role"]:
                return None
            self._roles[name] = found["role"]
        return self._roles[name]

    def _deliver(self) -> None:
        while item := self._queue.get():
            note, resources = item
            if not self.endpoint:
                note.outcome = "noted"
                continue
            entry = {"Source": "aws.ec2", "DetailType": note.detail_type, "Detail": json.dumps(note.detail)}
            try:
                answer = self.client("events").put_events(Entries=[{**entry, "Resources": resources}])
                note.outcome = "failed" if answer.get("FailedEntryCount") else "delivered"
            except (BotoCoreError, ClientError) as error:
                note.outcome = "failed"
                print(f"event {note.detail_type} {note.detail}: {error}", file=sys.stderr, flush=True)
