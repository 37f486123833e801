"""The agent's pulse: a thread that beats, watches for EC2's notice and minds the lease, while the rest does its work.

It decides nothing about the training: it collects what the controller, EC2 and the lease want into one `wish`, which the
main thread reads. A wish only ever grows stronger: nothing, drain, stop, superseded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from api import Refused, Unreachable
from clock import Clock
from failures import Leave
from imds import Imds, ImdsError

DRAIN_BEFORE_LEASE_END_S = 240
NOTICE_S = 120
POLL_S = 5
BLIND_AFTER = 3  # polls that failed, until it is said
BEAT_S = 30  # until the controller says how often
LEAST_BEAT_S = 0.2
LEAST_MARGIN_S = 30
_USUAL_REASON = {"drain": "handoff", "stop": "user", "superseded": "superseded"}
_STRENGTH = {"": 0, "drain": 1, "stop": 2, "superseded": 3}


@dataclass
class State:
    """What heartbeats tell. Written by the main thread and the publisher, read here, always under the pulse's lock."""

    phase: str = "boot"
    step: int | None = None
    metrics: dict[str, float] | None = None
    commit: str | None = None
    checkpoint: dict[str, Any] | None = None

    def body(self, notice_at: datetime | None) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "step": self.step,
            "metrics": self.metrics or {},
            "commit": self.commit,
            "checkpoint": self.checkpoint,
            "notice_at": f"{notice_at:%Y-%m-%dT%H:%M:%SZ}" if notice_at else None,
        }


class Pulse:
    def __init__(
        self,
        heartbeat: Callable[[dict[str, Any], float], Any],
        imds: Imds,
        clock: Clock,
        renewed: Callable[[float], None],
        credentials: Callable[[dict[str, Any]], None],
        say: Callable[[str], None] = print,
        lend: Callable[[dict[str, Any]], None] = lambda given: None,
    ) -> None:
        """`renewed(lease_s)` is called when a lease is set anew, `credentials(given)` when new ones come, `lend(given)` when
        new ones come for the command.
        """
        self._lend = lend
        self._heartbeat, self._imds, self._clock = heartbeat, imds, clock
        self._renewed, self._credentials, self._say = renewed, credentials, say
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._state = State()
        self._wish, self._reason, self._message = "", "", ""
        self._lease_end: str | None = None
        self._lease_until: float | None = None
        self._beat_s = clock.scaled(BEAT_S)
        self._notice: datetime | None = None
        self._notice_until: float | None = None
        self._rebalance = False
        self._failed_polls = 0
        self._next_beat = 0.0
        self.handover_s = 0.0  # what the last save and upload took; the publisher keeps it
        self._thread = threading.Thread(target=self._loop, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def tell(self, urgent: bool = False, **changes: Any) -> None:
        """Change what the next heartbeat says; `urgent` sends it at once."""
        with self._lock:
            for name, value in changes.items():
                setattr(self._state, name, value)
        if urgent:
            with self._lock:
                self._next_beat = 0.0
            self._wake.set()

    def ask_for_credentials(self) -> None:
        """With the next heartbeat, at once: an agent that names no lease is given it again, with all that came along."""
        with self._lock:
            if self._lease_end is None:
                return
            self._lease_end = None
        self.tell(urgent=True)

    def take(self, answer: dict[str, Any], asked_at: float) -> None:
        """Lease, credentials and pace from any answer of the controller.

        `asked_at` (monotonic) is when it was asked: what the answer took on its way has gone off the lease.
        """
        with self._lock:
            if answer.get("heartbeat_s"):
                self._beat_s = float(answer["heartbeat_s"])
            given = answer.get("credentials")
            renewed = None
            if answer.get("lease_s") is not None:
                seconds = float(answer["lease_s"]) - (self._clock.monotonic() - asked_at)
                self._lease_until = asked_at + float(answer["lease_s"])
                # Armed anew only when the lease has moved: `shutdown` needs no call every 30 s.
                if answer.get("lease_end") != self._lease_end:
                    self._lease_end, renewed = answer.get("lease_end"), seconds
        if given:
            self._credentials(given)
        if answer.get("command_credentials"):
            self._lend(answer["command_credentials"])
        if renewed is not None:
            self._renewed(renewed)

    def want(self, wish: str, reason: str, message: str = "") -> None:
        with self._lock:
            if _STRENGTH.get(wish, 0) > _STRENGTH[self._wish]:
                self._wish, self._reason, self._message = wish, reason or _USUAL_REASON[wish], message
                self._say(f"told to {wish} ({self._reason}) {message}".rstrip())

    @property
    def wish(self) -> str:
        """ "" (go on), drain, stop or superseded. Minds the time by itself: the thread's heartbeat may hang when it runs out."""
        self._mind_the_time()
        with self._lock:
            return self._wish

    @property
    def reason(self) -> str:
        with self._lock:
            return self._reason

    @property
    def noticed(self) -> bool:
        with self._lock:
            return self._notice is not None

    def seconds_left(self) -> float | None:
        """Until EC2 takes the instance back or the lease ends, whichever is first; None when neither is known."""
        with self._lock:
            ends = [end for end in (self._notice_until, self._lease_until) if end is not None]
            return min(ends) - self._clock.monotonic() if ends else None

    def check(self) -> None:
        """For work that can be broken off: raises Leave when the attempt is to end."""
        if self.wish:
            with self._lock:
                raise Leave(self._wish, self._reason, self._message)

    def once(self) -> None:
        """One round: EC2's notice, the lease, and a heartbeat when it is due."""
        self._look_for_notice()
        self._mind_the_time()
        with self._lock:
            due = self._clock.monotonic() >= self._next_beat
        if due:
            self._beat()
            self._mind_the_time()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self.once()
            except Exception as error:
                # A pulse that dies would leave the instance without lease or notice.
                self._say(f"the pulse met {error!r}")
            self._wake.wait(self._clock.scaled(POLL_S, 0.2))
            self._wake.clear()

    def _look_for_notice(self) -> None:
        if self.noticed:
            return
        try:
            ends_at = self._imds.ends_at()
            if ends_at is None and not self._rebalance and self._imds.rebalance():
                self._rebalance = True
                self._say("EC2 recommends rebalancing: a notice may follow")
        except ImdsError as error:
            self._failed_polls += 1
            if self._failed_polls == BLIND_AFTER:
                self._say(f"EC2's notice could not be seen at present, training goes on: {error}")
            return
        if self._failed_polls >= BLIND_AFTER:
            self._say("the metadata service answers again")
        self._failed_polls = 0
        if ends_at is None:
            return
        with self._lock:
            self._notice = ends_at
            # EC2 never gives more than two minutes: a clock that has gone back must not lengthen them.
            left = min((ends_at - self._clock.now()).total_seconds(), self._clock.scaled(NOTICE_S))
            self._notice_until = self._clock.monotonic() + max(0.0, left)
            self._next_beat = 0.0
        self._say(f"EC2 takes the instance back at {ends_at:%H:%M:%SZ}, in {left:.0f} s; training goes on")

    def _mind_the_time(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            lease, notice = self._lease_until, self._notice_until
        if notice is not None:
            margin = max(self._clock.scaled(LEAST_MARGIN_S), 3 * self.handover_s)
            if notice - now <= margin:
                self.want("drain", "spot_interruption", "the notice leaves no more time")
        if lease is not None and lease - now <= self._clock.scaled(DRAIN_BEFORE_LEASE_END_S):
            self.want("drain", "lease_end", "the lease ends")

    def _beat(self) -> None:
        with self._lock:
            body = {**self._state.body(self._notice), "lease_end": self._lease_end}
            self._next_beat = self._clock.monotonic() + self._pace()
        asked_at = self._clock.monotonic()
        try:
            answer = self._heartbeat(body, self._clock.scaled(10, 1.0))
        except Refused as refusal:
            # Not this run's attempt any more, or not known: publishing would be wrong, staying would cost money.
            if refusal.status in (403, 404, 409, 410):
                self.want("superseded", "superseded", refusal.message)
            return
        except Unreachable:
            return  # the lease minds that this doesn't go on for ever
        if not isinstance(answer, dict):
            return
        self.take(answer, asked_at)
        action = str(answer.get("action") or "continue")
        if action in _STRENGTH and action:
            self.want(action, str(answer.get("reason") or ""), str(answer.get("message") or ""))
        with self._lock:
            self._next_beat = min(self._next_beat, self._clock.monotonic() + self._pace())

    def _pace(self) -> float:
        """Real seconds to the next heartbeat: what the controller said, sooner after a notice."""
        pace = min(self._beat_s, self._clock.scaled(POLL_S)) if self._notice else self._beat_s
        return max(pace, LEAST_BEAT_S)
