"""The rehearsed job's repository behind HTTP and a token, on loopback: what GitHub is to a private one.

Answers git's smart protocol with git's own `http-backend`, to whoever sends the token as the agent does; anybody else gets 401.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_MOST_BODY = 16 * 1024 * 1024


@contextlib.contextmanager
def serving(repository: Path, token: str) -> Iterator[str]:
    """The address of `repository` while the block lasts."""
    made = type("Handler", (_Handler,), {"root": repository.parent, "token": token})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{repository.name}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    root: Path
    token: str

    def log_message(self, *_: object) -> None:
        """Nothing: a log of requests would be one more place for a token."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        expected = "basic " + base64.b64encode(f"x-access-token:{self.token}".encode()).decode()
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(expected.encode(), given.encode()):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="rehearsal"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MOST_BODY:
            self.send_error(413)
            return
        done = subprocess.run(
            ["git", "http-backend"], input=self.rfile.read(length), env=self._cgi(), capture_output=True, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.split(b"\r\n") if line]
        headers = {name.decode().strip(): value.decode().strip() for name, _, value in lines}
        self.send_response(int(headers.pop("Status", "200").split()[0]) if done.returncode == 0 else 500)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _cgi(self) -> dict[str, str]:
        parts = urlsplit(self.path)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": self.headers.get("Content-Length", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
