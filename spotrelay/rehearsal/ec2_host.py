"""The rehearsal's EC2: moto's API, real local processes as instances, and a control API to spoil their day.

    python -m spotrelay.rehearsal.ec2_host --port 0 --control-port 0 --root DIR [--emulator-endpoint URL]

Prints one line of JSON when it serves: `{"endpoint", "control"}`. Ends on SIGTERM, SIGINT or `POST /shutdown`, and
ends every process of every instance before it does. Listens on 127.0.0.1 only. `ec2_control` has the client.

`--time-scale` multiplies times that an instance asks for (`shutdown +N`) and the usual notice: 0.1 makes ten minutes
one. Times given to the control API are real seconds.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import InstanceState, StateReason
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from spotrelay.rehearsal import ec2_fleet, ec2_moto
from spotrelay.rehearsal.ec2_api import Control
from spotrelay.rehearsal.ec2_emulator import REBALANCE, STATE_CHANGE, WARNING, Emulator
from spotrelay.rehearsal.ec2_imds import Metadata
from spotrelay.rehearsal.ec2_machine import Machine
from spotrelay.rehearsal.ec2_market import Market
from spotrelay.rehearsal.ec2_processes import Process, kill_all, living

ACCOUNT, REGION = "123456789012", "us-east-1"
NOTICE_S = 120.0
SPOT_END = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
POWERED_OFF = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
STATE_CODES = {"running": 16, "terminated": 48}


class Host:
    """The instances and what happens to them. Implements `ec2_moto.Hooks`."""

    def __init__(self, root: Path, emulator: Emulator, time_scale: float = 1.0, region: str = REGION) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        kill_all(self.root, below=True)  # a host that was killed itself could end nothing
        self.emulator, self.time_scale, self.region = emulator, time_scale, region
        self.market = Market()
        self.machines: dict[str, Machine] = {}
        self.control = ""
        self.boot_delay_s, self.boot_fails, self.end_delay_s = 0.2, False, 0.2
        self.closing = threading.Event()
        self._threads: list[threading.Thread] = []

    # What moto tells

    def launched(self, instance: Any) -> None:
        metadata = Metadata(
            instance, lambda: self.emulator.role(instance), lambda _role: self.emulator.credentials(instance)
        )
        env = {"AWS_DEFAULT_REGION": self.region, "SPOT_RELAY_TIME_SCALE": str(self.time_scale), **package_index()}
        if self.emulator.endpoint:
            env["AWS_ENDPOINT_URL"] = self.emulator.endpoint
        machine = Machine(instance, self.root / instance.id, metadata, self.control, env)
        if instance.lifecycle == "spot":
            pool = (instance.instance_type, str(instance.availability_zone))
            machine.price = self.market.price(pool, ec2_fleet.vcpus(instance.instance_type))
        self.machines[instance.id] = machine
        self.emulator.emit(STATE_CHANGE, instance, state="pending")
        self._spawn(self._boot, machine, self.boot_delay_s, self.boot_fails)

    def ending(self, instance: Any) -> None:
        machine = self.machines[instance.id]
        if machine.reason:
            code, message = machine.reason
            instance.state_reason = StateReason(message, code)
            instance._reason = f"{code} ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} GMT)"
        else:  # moto says UTC, which a reader of EC2's form doesn't know
            instance._reason = f"User initiated ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} GMT)"
        self.emulator.emit(STATE_CHANGE, instance, state="shutting-down")
        self._spawn(self._end, machine)

    def stopped(self, instance: Any) -> None:
        self.emulator.emit(STATE_CHANGE, instance, state="stopped")
        self._spawn(self.machines[instance.id].kill)

    def console(self, instance_id: str) -> str:
        return self.machines[instance_id].console() if instance_id in self.machines else ""

    def profile(self, name: str) -> dict[str, str] | None:
        return self.emulator.profile(name)

    # What the control API asks for

    def interrupt(self, instance_id: str, notice_s: float | None) -> dict[str, Any]:
        """Warn, then end after the notice (default: two minutes, scaled). A second warning changes nothing."""
        machine = self.machines[instance_id]
        notice_s = NOTICE_S * self.time_scale if notice_s is None else notice_s
        with self.market.lock:
            if machine.instance.state not in ("pending", "running"):
                raise ValueError(f"{instance_id} is {machine.instance.state}")
            if not machine.interruption:
                machine.metadata.action_at = datetime.now(UTC) + timedelta(seconds=notice_s)
                machine.interruption = self._later(notice_s, lambda: self.terminate(machine, SPOT_END))
                self.emulator.emit(WARNING, machine.instance, **{"instance-action": "terminate"})
        return {"id": instance_id, "ends_at": machine.metadata.action_at and machine.metadata.action_at.isoformat()}

    def kill(self, instance_id: str) -> None:
        self.terminate(self.machines[instance_id], SPOT_END)

    def rebalance(self, instance_id: str) -> None:
        machine = self.machines[instance_id]
        machine.metadata.rebalance_at = datetime.now(UTC)
        self.emulator.emit(REBALANCE, machine.instance)

    def poweroff(self, instance_id: str, in_minutes: float | None, cancel: bool) -> None:
        """What `shutdown` and `poweroff` ask: now, later (replacing an earlier timer), or not at all."""
        machine = self.machines[instance_id]
        if machine.poweroff:
            machine.poweroff.cancel()
            machine.poweroff = None
        if cancel or in_minutes is None:
            return
        if in_minutes > 0:
            machine.poweroff = self._later(in_minutes * 60 * self.time_scale, lambda: self._power_off(machine))
        else:
            self._spawn(self._power_off, machine)

    def terminate(self, machine: Machine, reason: tuple[str, str]) -> None:
        """End an instance for `reason`; one that has ended keeps its first reason."""
        with self.market.lock:
            if machine.instance.state in ec2_fleet.GONE:
                return
            machine.reason = reason
            machine.instance.ec2_backend.terminate_instances([machine.instance.id])

    def instances(self) -> list[dict[str, Any]]:
        processes = living()
        return [self._describe(machine, processes) for machine in list(self.machines.values())]

    def close(self) -> None:
        """End every process of every instance; returns when none is left."""
        self.closing.set()
        for machine in list(self.machines.values()):
            machine.kill()
        kill_all(self.root, below=True)
        for thread in self._threads:
            thread.join(timeout=5)
        self.emulator.close()

    def _boot(self, machine: Machine, delay_s: float, fail: bool) -> None:
        if machine.gone.wait(delay_s) or not self._move(machine, "pending", "running"):
            return
        machine.boot(fail=fail)

    def _end(self, machine: Machine) -> None:
        machine.kill()
        self.closing.wait(self.end_delay_s)
        machine.ended_at = datetime.now(UTC)
        self._move(machine, "shutting-down", "terminated")

    def _power_off(self, machine: Machine) -> None:
        if machine.instance.instance_initiated_shutdown_behavior == "terminate":
            self.terminate(machine, POWERED_OFF)
        elif machine.instance.state not in ec2_fleet.GONE:
            machine.instance.ec2_backend.stop_instances([machine.instance.id])

    def _move(self, machine: Machine, before: str, after: str) -> bool:
        with self.market.lock:
            if machine.instance.state != before:
                return False
            machine.instance._state = InstanceState(after, STATE_CODES[after])
            self.emulator.emit(STATE_CHANGE, machine.instance, state=after)
            return True

    def _describe(self, machine: Machine, processes: list[Process]) -> dict[str, Any]:
        instance = machine.instance
        reason = instance.state_reason
        return {
            "id": instance.id, "state": instance.state, "type": instance.instance_type,
            "az": instance.availability_zone, "lifecycle": instance.lifecycle or "on-demand", "price": machine.price,
            "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
            "launched_at": machine.launched_at.isoformat(),
            "ended_at": machine.ended_at.isoformat() if machine.ended_at else None,
            "reason": reason.code or None, "pids": machine.alive(processes), "folder": str(machine.folder),
        }  # fmt: skip

    def _spawn(self, work: Any, *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except Exception:  # the thread would end unseen: its instance stays as it is, the log says why
                traceback.print_exc()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _later(self, seconds: float, work: Any) -> threading.Timer:
        timer = threading.Timer(seconds, work)
        timer.daemon = True
        timer.start()
        return timer


def package_index() -> dict[str, str]:
    """How this machine reaches its package index: what a job's setup installs, it installs from there."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY")
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.upper() in names}
    if any(name.upper().endswith("_PROXY") for name in kept):
        direct = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
        kept["NO_PROXY"] = kept["no_proxy"] = ",".join(filter(None, [direct, "127.0.0.1", "localhost"]))
    config, cache = Path.home() / ".config/pip/pip.conf", Path.home() / ".cache/pip"
    if config.is_file():
        kept.setdefault("PIP_CONFIG_FILE", str(config))
    kept.setdefault("PIP_CACHE_DIR", str(cache))
    return kept


def serve(port: int, control_port: int, host: Host) -> None:
    """Serve until `host.closing` is set, then end everything."""
    ec2_moto.install(host.market, host)
    control = http.server.ThreadingHTTPServer(("127.0.0.1", control_port), type("Handler", (Control,), {"host": host}))
    control.daemon_threads = True
    host.control = f"http://127.0.0.1:{control.server_address[1]}"
    threading.Thread(target=control.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    api = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    api.start()
    ec2_backends[ACCOUNT][host.region].describe_images()  # loads moto's tables, so that no first call is slow
    endpoint = f"http://127.0.0.1:{api.get_host_and_port()[1]}"
    print(json.dumps({"endpoint": endpoint, "control": host.control}), flush=True)
    try:
        while not host.closing.wait(0.5):
            pass
    finally:
        api.stop()  # first: nothing may be launched while the instances are being ended
        host.close()
        control.shutdown()


def _end_with_parent(host: Host) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    host.closing.set()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The rehearsal's EC2.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True, help="folder for the instances")
    parser.add_argument("--emulator-endpoint", help="may also be set later, POST /emulator")
    parser.add_argument("--time-scale", type=float, default=1.0, help="0.1: ten times sooner")
    parser.add_argument("--region", default=REGION)
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    options = parser.parse_args(arguments)
    emulator = Emulator(options.region, ACCOUNT, options.emulator_endpoint)
    host = Host(options.root, emulator, options.time_scale, options.region)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: host.closing.set())
    if options.with_parent:
        # Whoever started us and was killed can't end us; its end of the pipe closes all the same.
        threading.Thread(target=_end_with_parent, args=(host,), daemon=True).start()
    serve(options.port, options.control_port, host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
