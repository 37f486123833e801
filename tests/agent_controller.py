"""A controller that agents can talk to, and the metadata service of their instance: one server, its answers set by tests."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "relay-agent-test"
TOKEN = "imds-token"


class Controller:
    """IMDS and the agents' routes. `claims` answers `ready: true` in turn; the last answer stays."""

    def __init__(self):
        self.beats, self.exits, self.ready = [], [], []
        self.claims = [{"action": "restore", "checkpoint": None}]
        self.prepare = {}
        self.on_beat = lambda beat: {}
        self.notice_at = None
        self.rebalance = False
        self.lent = None
        controller = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, body=b""):
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                self.answer(200, TOKEN.encode())

            def do_GET(self):
                if self.headers.get("x-aws-ec2-metadata-token") != TOKEN:
                    return self.answer(401)
                text = controller.metadata().get(self.path.removeprefix("/latest/meta-data/"))
                return self.answer(200, text.encode()) if text else self.answer(404)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert "/execute-api/aws4_request" in self.headers["authorization"]
                self.answer(200, controller.act(self.path.rsplit("/", 1)[1], body))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.api_url = f"{self.url}/api"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def act(self, route, body):
        lease = {"lease_end": "2030-01-01T00:00:00Z", "lease_s": 150, "heartbeat_s": 0.5}
        if route == "heartbeat":
            self.beats.append(body)
            return {"action": "continue", "reason": "", "credentials": None, **lease, **self.on_beat(body)}
        if route == "exit":
            self.exits.append(body)
            return {"linger_s": 0}
        if not body["ready"]:
            return {**self.prepare, "command_credentials": self.lent, **lease}
        self.ready.append(body)
        return {**(self.claims.pop(0) if len(self.claims) > 1 else self.claims[0]), **lease}

    def metadata(self):
        expires = f"{datetime.now(UTC) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}"
        role = {"Code": "Success", "AccessKeyId": "ASIA", "SecretAccessKey": "s", "Token": "t", "Expiration": expires}
        tags = {"stage": "dev", "run": "quick", "attempt": str(self.prepare["attempt"]), "api": self.api_url}
        notice = {"action": "terminate", "time": f"{self.notice_at:%Y-%m-%dT%H:%M:%SZ}"} if self.notice_at else None
        return {
            **{f"tags/instance/spot-relay:{k}": v for k, v in tags.items()},
            "tags/instance/spot-relay:bucket": BUCKET,
            "placement/region": "us-east-1",
            "iam/security-credentials/": "role",
            "iam/security-credentials/role": json.dumps(role),
            **({"spot/instance-action": json.dumps(notice)} if notice else {}),
            **({"events/recommendations/rebalance": '{"noticeTime": "x"}'} if self.rebalance else {}),
        }
