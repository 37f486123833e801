"""Start, steer and end the rehearsal's EC2 (`ec2_host`): a client of its control API, and a context manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, cast

from spotrelay.rehearsal.ec2_processes import belonging, kill_all

START_S, STOP_S = 30.0, 20.0


class HostError(RuntimeError):
    """The host refused a control request, or didn't start."""


class LeftOverError(RuntimeError):
    """Processes of instances outlived the host. They have been ended."""


class InstanceView(TypedDict):
    """One instance as `GET /instances` shows it. Times are ISO 8601, UTC; `price` is USD per hour, None if not Spot."""

    id: str
    state: Literal["pending", "running", "shutting-down", "terminated", "stopped"]
    type: str
    az: str
    lifecycle: Literal["spot", "on-demand"]
    price: float | None
    tags: dict[str, str]
    launched_at: str
    ended_at: str | None
    reason: str | None
    pids: list[int]
    folder: str


class Price(TypedDict):
    """A Spot price in USD per hour, and the time from which it held (ISO 8601, UTC)."""

    at: str
    usd_hour: float


class HostControl:
    """The control API. Every method raises HostError when the host refuses; times are real seconds."""

    def __init__(self, address: str) -> None:
        self.address = address
        # No proxy from the environment: the host is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def instances(self) -> list[InstanceView]:
        return cast(list[InstanceView], self._call("/instances"))

    def instance(self, instance_id: str) -> InstanceView:
        found = [one for one in self.instances() if one["id"] == instance_id]
        if not found:
            raise HostError(f"no instance {instance_id}")
        return found[0]

    def events(self) -> list[dict[str, Any]]:
        """Every event so far: `{"at", "detail_type", "detail", "outcome"}`.

        The outcome is waiting, delivered, lost, failed, or noted (there was no emulator).
        """
        return cast(list[dict[str, Any]], self._call("/events"))

    def interrupt(self, instance_id: str, notice_s: float | None = None) -> None:
        """Warn an instance, and end it after `notice_s` (None: two minutes, scaled)."""
        self._call("/interrupt", id=instance_id, notice_s=notice_s)

    def kill(self, instance_id: str) -> None:
        """Take an instance away with no warning."""
        self._call("/kill", id=instance_id)

    def disarm(self, instance_id: str) -> None:
        """Take back the power-off that the instance has asked for, as if its machine had hung."""
        self._call("/poweroff", id=instance_id, cancel=True)

    def rebalance(self, instance_id: str) -> None:
        self._call("/rebalance", id=instance_id)

    def pool(
        self, instance_type: str, zone: str, *, capacity: int | None = None, error: str | None = None,
        price: float | None = None, reset: bool = False,
    ) -> None:  # fmt: skip
        """Change a pool: how many more can start, the error to answer (`Code` or `Code:message`), its price in USD per
        hour. `reset` takes an earlier capacity and error back first."""
        change = {"capacity": capacity, "error": error, "price": price, "reset": reset}
        self._call("/pool", type=instance_type, az=zone, **change)

    def quota(self, spot_vcpus: int | None) -> None:
        self._call("/quota", spot_vcpus=spot_vcpus)

    def prices(self, instance_type: str, zone: str) -> list[Price]:
        """Every Spot price of a pool, oldest first; each holds until the next, and the first for all time before."""
        query = urllib.parse.urlencode({"type": instance_type, "az": zone})
        return cast(list[Price], self._call(f"/prices?{query}"))

    def failing(self, *services: Literal["pricing", "servicequotas"]) -> None:
        """Let these services of the emulator answer with a server error from now on, and no others."""
        self._call("/failing", services=services)

    def event_mode(
        self,
        mode: Literal["deliver", "lose", "duplicate", "delay"],
        delay_s: float = 0,
        detail_types: list[str] | None = None,
    ) -> None:
        """What becomes of events from now on; with `detail_types`, only of those."""
        self._call("/events", mode=mode, delay_s=delay_s, detail_types=detail_types)

    def emulator(
        self, endpoint: str, key: str = "", access_key_id: str = "test", secret_access_key: str = "test"
    ) -> None:
        """Where IAM, STS and EventBridge are, the key that lets the host put events of `aws.ec2` there, and the
        administrator's access key.

        Instances launched before this have no AWS_ENDPOINT_URL.
        """
        self._call(
            "/emulator", endpoint=endpoint, key=key, access_key_id=access_key_id, secret_access_key=secret_access_key
        )

    def boot(self, *, delay_s: float | None = None, fail: bool | None = None, end_delay_s: float | None = None) -> None:
        """How instances start (seconds in `pending`; a boot script that fails) and end (seconds in `shutting-down`)."""
        body = {"delay_s": delay_s, "fail": fail, "end_delay_s": end_delay_s}
        self._call("/boot", **{key: value for key, value in body.items() if value is not None})

    def shutdown(self) -> None:
        self._call("/shutdown")

    def _call(self, path: str, **body: object) -> Any:
        read_only = path.split("?")[0] in ("/instances", "/events", "/prices") and not body
        data = None if read_only else json.dumps(body).encode()
        try:
            with self._opener.open(urllib.request.Request(self.address + path, data), timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise HostError(f"{path}: {json.load(error).get('error')}") from None
        except urllib.error.URLError as error:
            raise HostError(f"{path}: the EC2 host does not answer ({error.reason})") from None


class Ec2Host:
    """The host as a process: `with Ec2Host(folder) as host: host.control.instances()`.

    Leaving ends it, and raises LeftOverError if a process of an instance is still there. Its own log is `host.log` in
    the folder. When this process is killed, the host ends by itself.
    """

    endpoint: str
    control: HostControl

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        control_port: int = 0,
        emulator_endpoint: str | None = None,
        time_scale: float = 1.0,
    ) -> None:
        self.root = root.resolve()
        self._arguments = ["--port", str(port), "--control-port", str(control_port), "--root", str(self.root)]
        self._arguments.append("--with-parent")
        self._arguments += ["--time-scale", str(time_scale)]
        if emulator_endpoint:
            self._arguments += ["--emulator-endpoint", emulator_endpoint]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        project = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
        with (self.root / "host.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "spotrelay.rehearsal.ec2_host", *self._arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        timer = threading.Timer(START_S, self._process.kill)
        timer.start()
        assert self._process.stdout
        line = self._process.stdout.readline()
        timer.cancel()
        timer.join()
        if not line.startswith(b"{"):
            self._end()
            raise HostError(f"the EC2 host did not start: {(self.root / 'host.log').read_text()[-2000:]}")
        ready = json.loads(line)
        self.endpoint, self.control = ready["endpoint"], HostControl(ready["control"])
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        left = belonging(self.root, below=True)
        if left:
            kill_all(self.root, below=True)
            raise LeftOverError(f"processes {sorted(left)} outlived the EC2 host")

    def _end(self) -> None:
        process = self._process
        if not process:
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
