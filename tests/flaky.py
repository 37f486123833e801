"""A server in front of another that does to single requests what networks and AWS do; requests are numbered as they come."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Kind(StrEnum):
    BURST = "503 in a burst"  # this one and the two after it, as they are tried again
    LONG_BURST = "503 for longer than anybody tries"
    RESET = "reset"  # the connection is cut, and nothing was done
    ANSWER_LOST = "answer lost"  # done, and the connection is cut
    TWICE = "happens twice"
    CUT = "cut in the middle"  # the answer's body ends too soon


class Odd(StrEnum):
    """What the metadata service and the API answer besides."""

    ERROR = "500"
    THROTTLED = "429"
    ABSENT = "404"
    EXPIRED = "403, the signature or the token has expired"
    GARBAGE = "garbage"  # done, and the answer is something else
    HANGS = "hangs"
    LAPSED = "from here on, S3 and its like refuse what is signed with the keys of the name 'given'"
    AWAY = "503, until something else is armed"


# What is over by itself, so that whoever asks again comes through.
PASSING = tuple(kind for kind in (*Kind, *Odd) if kind not in (Kind.LONG_BURST, Odd.AWAY, Odd.LAPSED))

_CANNED = {
    Odd.ERROR: (500, b"Internal Server Error"),
    Odd.THROTTLED: (429, b'{"message": "Too Many Requests"}'),
    Odd.ABSENT: (404, b"<html>Not Found</html>"),
    Odd.EXPIRED: (403, b'{"message": "The security token included in the request is expired"}'),
}
_GARBAGE = b"<html>\n\xff\xfe nothing that was asked for </html>\n"
_LONGEST_HANG_S, _LONGEST_ANSWER_S = 30, 120
_BURSTS: dict[Kind | Odd | None, int] = {Kind.BURST: 3, Kind.LONG_BURST: 40, Odd.AWAY: 10_000, Odd.LAPSED: 10_000}


class Moment(StrEnum):
    BEFORE = "before"  # the request is on its way, and is never carried out
    AFTER = "after"  # it was carried out, and its answer is on its way


class Flaky:
    """`arm(n, kind)`: the n-th request from now meets it. `seen` lists the requests (method, path, operation) since then.

    `strikes(request, moment)` is asked around each: whoever asked may be dead by then, and is answered no more if it says so.
    `elsewhere` names servers for paths that begin with something.
    """

    def __init__(self, upstream: str, elsewhere: Mapping[str, str] | None = None) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._elsewhere = {begin: urlsplit(url).netloc for begin, url in (elsewhere or {}).items()}
        self.strikes: Callable[[str, Moment], bool] = lambda request, moment: False
        self._under_way = 0
        self._lock = threading.Lock()
        self._over = threading.Event()  # nothing hangs any more
        self.arm()
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Nothing is said."""

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def _any(self) -> None:
                flaky.handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def arm(self, n: int = 0, kind: Kind | Odd | None = None, times: int | None = None) -> None:
        """`times`: how many requests meet it, if not as many as is usual for it."""
        with self._lock:
            self._over.set()
            self._over = threading.Event()
            self.seen: list[str] = []
            self._at, self._kind, self._times = n, kind, times or _BURSTS.get(kind, 1)

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def rests(self) -> bool:
        """Whether no request is under way."""
        with self._lock:
            return not self._under_way

    def handle(self, asked: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._under_way += 1
        try:
            self._handle(asked)
        finally:
            with self._lock:
                self._under_way -= 1

    def _handle(self, asked: BaseHTTPRequestHandler) -> None:
        length = int(asked.headers.get("content-length") or 0)
        body = asked.rfile.read(length)
        if len(body) < length:  # who asked has died: handed on, the rest would be waited for for ever
            asked.close_connection = True
            return
        with self._lock:
            request = f"{asked.command} {asked.path} {asked.headers.get('x-amz-target', '')}".rstrip()
            self.seen.append(request)
            ahead = len(self.seen) - self._at
            over = self._over
        kind = self._kind if self._at and 0 <= ahead < self._times else None
        if kind is Odd.LAPSED:
            kind = None
            if "Credential=given/" in asked.headers.get("authorization", ""):
                status, headers, answer = _lapsed(asked)
                _reply(asked, status, headers, answer)
                return
        if kind in _BURSTS:
            _reply(asked, 503, [("content-type", "application/xml")], _SLOW_DOWN)
            return
        if kind in _CANNED:
            _reply(asked, _CANNED[kind][0], [("content-type", "application/json")], _CANNED[kind][1])
            return
        if kind is Odd.HANGS:
            over.wait(_LONGEST_HANG_S)
        if kind in (Kind.RESET, Odd.HANGS) or self.strikes(request, Moment.BEFORE):
            _cut(asked)
            return
        status, headers, answer = self._ask(asked, body)
        if kind is Kind.TWICE:
            status, headers, answer = self._ask(asked, body)
        if kind is Odd.GARBAGE:
            status, headers, answer = 200, [], _GARBAGE
        if kind is Kind.ANSWER_LOST or self.strikes(request, Moment.AFTER):
            _cut(asked)
            return
        _reply(asked, status, headers, answer, whole=kind is not Kind.CUT)

    def _ask(self, asked: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        elsewhere = (to for begin, to in self._elsewhere.items() if asked.path.startswith(begin))
        connection = http.client.HTTPConnection(next(elsewhere, self._upstream), timeout=_LONGEST_ANSWER_S)
        try:
            connection.request(asked.command, asked.path, body, dict(asked.headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


def _lapsed(asked: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
    """As services of each protocol say it; what answers HEAD says no more than 400."""
    said = "The provided token has expired."
    if asked.headers.get("x-amz-target"):
        told = f'{{"__type": "ExpiredTokenException", "message": "{said}"}}'
        return 400, [("content-type", "application/x-amz-json-1.1")], told.encode()
    told = f"<Error><Code>ExpiredToken</Code><Message>{said}</Message></Error>"
    return 400, [("content-type", "application/xml")], b"" if asked.command == "HEAD" else told.encode()


def _reply(
    asked: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes, whole: bool = True
) -> None:
    asked.send_response(status)
    of_head = next((value for name, value in headers if name.lower() == "content-length"), "0")
    for name, value in headers:
        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
            asked.send_header(name, value)
    asked.send_header("content-length", of_head if asked.command == "HEAD" else str(len(body)))
    asked.end_headers()
    asked.wfile.write(body if whole else body[: len(body) // 2])
    if not whole:
        _cut(asked)


def _cut(asked: BaseHTTPRequestHandler) -> None:
    asked.close_connection = True
    asked.wfile.flush()
    asked.connection.shutdown(socket.SHUT_RDWR)
