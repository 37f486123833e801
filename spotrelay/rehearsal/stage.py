"""The rehearsal's stage: EC2 host and emulator on loopback, Spot Relay deployed into them as into AWS, and the sweep's clock."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.config import Config

from spotrelay import bundle, deploying
from spotrelay.deploying import Deployment
from spotrelay.rehearsal.canaries import Canaries, Listening, Sampler
from spotrelay.rehearsal.ec2_control import Ec2Host, HostControl
from spotrelay.rehearsal.emulator import Emulator
from spotrelay.rehearsal.mail import Mailbox

STAGE = "rehearsal"
SWEEP_S = 60
# Real boots take half a minute to reach user data; scaled like every other wait.
BOOT_S, END_S = 20, 10
FOUND_DEAD_S = 2.0


class Stage:
    """Everything that stands for AWS. `folder` keeps what it writes; leaving ends every process that was started.

    `parameters` are the template's; `decisions` is a file for what each role is allowed (`ministack_decisions`).
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        time_scale: float,
        say: Callable[[str], None] = lambda text: None,
        *,
        parameters: Mapping[str, str] | None = None,
        decisions: Path | None = None,
    ) -> None:
        self.folder, self.time_scale = folder, time_scale
        self._cache, self._say = cache, say
        self._parameters, self._decisions = parameters or {}, decisions
        self._open = contextlib.ExitStack()
        self._stopping = threading.Event()
        self.sweeps = 0
        self.sweep_errors: list[str] = []
        self.killed_at: list[float] = []  # when a function's process was killed, by the monotonic clock
        self.sweeping = True
        self.calendar_shift_s = 0.0
        self.calendar_turned = False
        self._sweep_lock = threading.Lock()

    control: HostControl
    emulator: Emulator
    deployment: Deployment
    api: Listening
    canaries: Canaries
    sampler: Sampler
    mailbox: Mailbox

    def __enter__(self) -> Stage:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._open.close()

    def client(self, service: str) -> Any:
        return self.emulator.client(service)

    def _start(self) -> None:
        self._say("EC2 host")
        host = self._open.enter_context(Ec2Host(self.folder / "ec2", time_scale=self.time_scale))
        self.control = host.control
        self._say("emulator")
        self.emulator = Emulator(cache_dir=self._cache)
        self._open.enter_context(
            self.emulator.start(
                self.folder / "aws", host.endpoint, control=host.control.address, decisions=self._decisions
            )
        )
        aws = self.emulator
        self.control.emulator(aws.endpoint, aws.host_key, aws.access_key_id, aws.secret_access_key)
        self.control.boot(delay_s=BOOT_S * self.time_scale, end_delay_s=END_S * self.time_scale)
        self.deployment = deploying.deploy(
            self.client,
            STAGE,
            self._chalice_deploy,
            # The emulator speaks plain HTTP, on loopback only.
            parameters={"TlsOnly": "false", **self._parameters},
            extra_env={"TIME_SCALE": str(self.time_scale), "ALLOW_LOCAL_SOURCE": "1"},
            say=self._say,
        )
        self.canaries = Canaries()
        self.api = Listening(self.emulator.session(), self.deployment.api_url)
        self.api.canaries = self.canaries
        self.sampler = Sampler(self.canaries).start()
        self._open.callback(self.sampler.stop)
        self.mailbox = Mailbox(self.client, self.deployment.resources.TopicArn)
        self._open.callback(self._keep_logs)
        sweeper = threading.Thread(target=self._sweep_for_ever, name="sweep", daemon=True)
        sweeper.start()
        self._open.callback(sweeper.join, 30)
        self._open.callback(self._stopping.set)

    def _chalice_deploy(self, env: Mapping[str, str], roles: Mapping[str, str]) -> tuple[str, str]:
        made = self.emulator.chalice_deploy(deploying.ROOT, STAGE, env, stage_config=deploying.stage_config(roles))
        return made.api_id, made.url

    def sweep(self) -> None:
        """Invoke the deployed sweep as its schedule does."""
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": self.emulator.account_id,
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "region": self.emulator.region,
            "resources": [],
            "detail": {},
        }
        functions = self.emulator.session().client(
            "lambda",
            endpoint_url=self.emulator.endpoint,
            config=Config(read_timeout=300, retries={"total_max_attempts": 1}),
        )
        began = time.monotonic()
        answer = functions.invoke(FunctionName=f"spot-relay-{STAGE}-sweep", Payload=json.dumps(event).encode())
        self.sweeps += 1
        if answer.get("FunctionError"):
            said = answer["Payload"].read().decode()[:2000]
            # A process that was killed can't help failing; one that ran to its end and failed can. One that was killed at
            # rest may be found dead a moment later only, when it is given its next work.
            killed = any(at >= began - FOUND_DEAD_S for at in self.killed_at) and "SweepFailed" not in said
            if not killed:
                self.sweep_errors.append(said)

    @contextlib.contextmanager
    def between_sweeps(self) -> Iterator[None]:
        """No sweep is under way while it lasts."""
        with self._sweep_lock:
            yield

    def shift_calendar(self, seconds: float) -> None:
        """Let the controller's calendar, and nothing else, be so far ahead, from the next call on."""
        functions = self.client("lambda")
        with self._sweep_lock:
            for page in functions.get_paginator("list_functions").paginate():
                for name in (each["FunctionName"] for each in page["Functions"]):
                    if name.startswith(f"spot-relay-{STAGE}"):
                        env = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
                        changed = {**env, "MONTH_SHIFT_S": f"{seconds:.3f}"}
                        functions.update_function_configuration(FunctionName=name, Environment={"Variables": changed})
            self.calendar_shift_s = float(f"{seconds:.3f}")
            self.calendar_turned = True

    def pools(self, types: list[str]) -> list[tuple[str, str]]:
        """Every instance type and zone that EC2 offers of these types."""
        offered = self.client("ec2").describe_instance_type_offerings(
            LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": types}]
        )
        return sorted((o["InstanceType"], o["Location"]) for o in offered["InstanceTypeOfferings"])

    def raise_prices(self, types: list[str], factor: float) -> None:
        """Multiply the Spot prices of these types' pools. Prices that were asked before are kept for minutes."""
        for kind, zone in self.pools(types):
            price = self.control.prices(kind, zone)[-1]["usd_hour"]
            self.control.pool(kind, zone, price=round(price * factor, 4))

    def hide_agent(self, hide: bool) -> None:
        """Take the agent's bundle out of the bucket's place for it, or put it back."""
        s3, bucket = self.client("s3"), self.deployment.resources.BucketName
        key = bundle.key(self.deployment.agent_sha256)
        if hide:
            s3.copy_object(Bucket=bucket, Key=f"hidden/{key}", CopySource={"Bucket": bucket, "Key": key})
            s3.delete_object(Bucket=bucket, Key=key)
        else:
            s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": f"hidden/{key}"})

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The controller is away while it lasts: none of its functions runs, and nothing sweeps.

        EC2, S3, STS and Scheduler go on. Events wait, and arrive within a second of its end.
        """
        with self._sweep_lock:  # a sweep that is under way ends first: it is not to count as failed
            sweeping, self.sweeping = self.sweeping, False
        try:
            with self.emulator.outage(f"spot-relay-{STAGE}"):
                yield
        finally:
            self.sweeping = sweeping

    def function_logs(self, function: str, word: str = "") -> list[str]:
        """What a deployed function has logged, line by line, or the lines with this word; `function` is "" for the API's."""
        logs = self.client("logs")
        group = f"/aws/lambda/spot-relay-{STAGE}" + (f"-{function}" if function else "")
        lines: list[str] = []
        with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
            for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group, filterPattern=word):
                lines += [str(event["message"]).rstrip("\n") for event in page["events"]]
        return lines

    def _keep_logs(self) -> None:
        for function in ("", "on_warning", "on_state_change", "sweep"):
            with contextlib.suppress(Exception):
                text = "\n".join(self.function_logs(function))
                (self.folder / f"lambda-{function or 'api'}.log").write_text(text + "\n", "utf-8")

    def _sweep_for_ever(self) -> None:
        while not self._stopping.wait(SWEEP_S * self.time_scale):
            with self._sweep_lock:
                try:
                    if self.sweeping:
                        self.sweep()
                except Exception as error:
                    if not self._stopping.is_set():
                        self.sweep_errors.append(repr(error))
