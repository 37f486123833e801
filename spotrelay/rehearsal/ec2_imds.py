"""The metadata service (IMDSv2) of one rehearsed instance, on a port of its own.

It answers from the living instance, so that tags and notices changed after the start are seen. Every read needs a
token, as under `HttpTokens=required`; tags are readable only under `InstanceMetadataTags=enabled`.
"""

from __future__ import annotations

import http.server
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "X-aws-ec2-metadata-token"
MAX_TTL_S = 21600


def stamp(moment: datetime) -> str:
    """A time as the metadata service writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Metadata:
    """What one instance's service knows. `role` and `credentials` ask the emulator; both answer None without one."""

    def __init__(
        self, instance: Any, role: Callable[[], str | None], credentials: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self.instance = instance
        self.role = role
        self.credentials = credentials
        self.action_at: datetime | None = None
        self.rebalance_at: datetime | None = None
        self._server: http.server.ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Serve; the address for AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        handler = type("Handler", (_Handler,), {"metadata": self, "tokens": {}})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        self._server = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    def stop(self) -> None:
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()

    def read(self, path: str) -> str | None:
        """The answer to a path below /latest/, or None where EC2 says 404."""
        instance = self.instance
        plain: dict[str, Callable[[], str | None]] = {
            "meta-data/instance-id": lambda: str(instance.id),
            "meta-data/instance-type": lambda: str(instance.instance_type),
            "meta-data/instance-life-cycle": lambda: instance.lifecycle or "on-demand",
            "meta-data/ami-id": lambda: str(instance.image_id),
            "meta-data/local-ipv4": lambda: instance.private_ip,
            "meta-data/public-ipv4": lambda: instance.public_ip,
            "meta-data/placement/region": lambda: str(instance.region_name),
            "meta-data/placement/availability-zone": lambda: instance.availability_zone,
            "meta-data/spot/instance-action": self._action,
            "meta-data/spot/termination-time": lambda: stamp(self.action_at) if self.action_at else None,
            "meta-data/events/recommendations/rebalance": self._rebalance,
            "meta-data/iam/security-credentials": self.role,
            "meta-data/tags/instance": lambda: "\n".join(self._tags()) or None,
            "dynamic/instance-identity/document": self._document,
        }
        if path in plain:
            return plain[path]()
        head, _, last = path.rpartition("/")
        if path.startswith("meta-data/tags/instance/"):
            return self._tags().get(path.removeprefix("meta-data/tags/instance/"))
        if head == "meta-data/iam/security-credentials" and last == self.role():
            found = self.credentials(last)
            return json.dumps(found) if found else None
        return None

    def _tags(self) -> dict[str, str]:
        if self.instance.metadata_options.instance_metadata_tags != "enabled":
            return {}
        tags = {tag["key"]: tag["value"] for tag in self.instance.get_tags()}
        return {key: value for key, value in tags.items() if not key.startswith("aws:")}

    def _action(self) -> str | None:
        return json.dumps({"action": "terminate", "time": stamp(self.action_at)}) if self.action_at else None

    def _rebalance(self) -> str | None:
        return json.dumps({"noticeTime": stamp(self.rebalance_at)}) if self.rebalance_at else None

    def _document(self) -> str:
        instance = self.instance
        facts = {"instanceId": instance.id, "instanceType": instance.instance_type, "accountId": instance.owner_id}
        place = {"region": instance.region_name, "availabilityZone": instance.availability_zone}
        return json.dumps({**facts, **place, "imageId": instance.image_id})


class _Handler(http.server.BaseHTTPRequestHandler):
    metadata: Metadata
    tokens: dict[str, float]
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """A line per poll would drown the host's log."""

    def do_PUT(self) -> None:
        ttl = self.headers.get(TTL_HEADER, "")
        if self.path != "/latest/api/token":
            self._answer(404)
        elif not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL_S:
            self._answer(400)
        else:
            token = secrets.token_urlsafe(32)
            self.tokens[token] = time.monotonic() + int(ttl)
            self._answer(200, token, {TTL_HEADER: ttl})

    def do_GET(self) -> None:
        if self.tokens.get(self.headers.get(TOKEN_HEADER, ""), 0) < time.monotonic():
            self._answer(401)
            return
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).rstrip("/")
        found = self.metadata.read(path.removeprefix("/latest/")) if path.startswith("/latest/") else None
        self._answer(404 if found is None else 200, found or "")

    def _answer(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "text/plain", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
