"""The attempt's log: one file that the agent and the trainer write, sent on in parts to S3 and CloudWatch Logs.

S3 has all of it; CloudWatch Logs is a convenience, and its trouble is never the run's.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from clock import Clock
from redact import Redactor
from store import Bucket

_PART = 1024 * 1024
_TAIL = 64 * 1024
_EVENTS, _EVENT_BYTES = 500, 8 * 1024


class Log:
    """Appends to a file. The trainer gets `stream` as its output; lines of the agent begin with `spot-relay:`."""

    def __init__(self, path: Path, clock: Clock, redact: Redactor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)  # what a job prints stays as it is here: what is sent on is redacted
        self.path = path
        self._clock, self._redact = clock, redact
        self.stream: IO[bytes] = path.open("ab", buffering=0)

    def say(self, text: str) -> None:
        at = self._clock.now().isoformat(timespec="milliseconds")
        line = self._redact(f"spot-relay: {at} {text}\n")
        with contextlib.suppress(OSError):  # a full disk: whoever speaks has more to do, and the console hears it
            self.stream.write(line.encode("utf-8", "replace"))
        print(line, end="", flush=True)

    def tail(self, most: int = 400) -> str:
        """The last line that isn't blank, for messages."""
        begin = max(0, self.path.stat().st_size - _TAIL)
        with self.path.open("rb") as stream:
            stream.seek(begin)
            lines = stream.read().decode("utf-8", "replace").splitlines()
        # Where the reading began in the middle of a line, that may be the middle of a secret.
        kept = [line.strip() for line in lines[1 if begin else 0 :] if line.strip()]
        kept = [line for line in kept if not line.startswith("spot-relay:")]
        return self._redact(kept[-1])[:most] if kept else ""

    def close(self) -> None:
        self.stream.close()


class Shipper:
    """Sends what was appended since the last time. Parts are numbered by the byte they begin with, so order is by name."""

    def __init__(self, log: Path, bucket: Bucket, prefix: str, redact: Redactor) -> None:
        self._log, self._bucket, self._prefix, self._redact = log, bucket, prefix, redact
        self._offset = 0
        self._lock = threading.Lock()
        self._watch: tuple[Any, str, str] | None = None

    def watch(self, client: Any, group: str, stream: str) -> None:
        """Send to CloudWatch Logs as well, if it lets us."""
        try:
            client.create_log_stream(logGroupName=group, logStreamName=stream)
        except client.exceptions.ResourceAlreadyExistsException:
            pass
        except Exception:
            return
        self._watch = (client, group, stream)

    def ship(self, now: datetime, everything: bool = False) -> int:
        """Send whole lines (with `everything`, the rest too). Gives the bytes sent. Raises what S3 raises: try later."""
        with self._lock:
            sent = 0
            while True:
                with self._log.open("rb") as stream:
                    stream.seek(self._offset)
                    data = stream.read(_PART)
                if not everything or len(data) == _PART:
                    data = data[: self._end_of_part(data)]
                if not data:
                    return sent
                clean = self._redact.bytes(data)
                self._bucket.put(f"{self._prefix}{self._offset:012d}.log", clean, "text/plain; charset=utf-8")
                self._to_watch(clean, now)
                self._offset += len(data)
                sent += len(data)

    def _end_of_part(self, data: bytes) -> int:
        """Where to cut: no secret may be in two parts. A line's end is never inside of one; a line that fills the whole part
        is cut where none is."""
        end = data.rfind(b"\n") + 1
        if end or len(data) < _PART:
            return end
        return self._redact.cut(data, len(data) - self._redact.longest) or len(data)

    def _to_watch(self, data: bytes, now: datetime) -> None:
        if self._watch is None:
            return
        client, group, stream = self._watch
        stamp = int(now.timestamp() * 1000)
        lines = [line[:_EVENT_BYTES] for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
        try:
            for start in range(0, len(lines), _EVENTS):
                # 500 events of 8 KiB could pass the request's 1 MiB: send by size, too.
                batch: list[dict[str, Any]] = []
                size = 0
                for line in lines[start : start + _EVENTS]:
                    weight = len(line.encode()) + 26
                    if size + weight > 1_000_000:
                        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)
                        batch, size = [], 0
                    batch.append({"timestamp": stamp, "message": line})
                    size += weight
                if batch:
                    client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)
        except Exception:
            self._watch = None
