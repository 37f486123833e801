"""The rehearsal's AWS: a patched ministack as a process of its own, and the real `chalice deploy` into it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import boto3

from spotrelay.deploying.bytecode import compile_library
from spotrelay.rehearsal import chalice_project
from spotrelay.rehearsal.ministack_main import ACCOUNT_ID, HOST_KEY_VARIABLE
from spotrelay.rehearsal.ministack_patches import EC2_HOST_HEADER

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0


class EmulatorError(RuntimeError):
    """The emulator, or a deploy into it, failed; the message has the end of the log."""


@dataclass(frozen=True)
class DeployedApi:
    """An API that `chalice deploy` created, at its address in the emulator (no slash at the end)."""

    api_id: str
    url: str


class Emulator:
    """A ministack on loopback.

    ```
    with Emulator().start(workdir, ec2_endpoint) as emulator:
        emulator.client("dynamodb").list_tables()
    ```
    """

    def __init__(self, *, region: str = "us-east-1", cache_dir: Path | None = None) -> None:
        """`cache_dir` keeps what pip downloads from one rehearsal to the next; it defaults to the work directory."""
        self.region = region
        self.account_id = ACCOUNT_ID
        self.access_key_id = "AKIA" + secrets.token_hex(8).upper()
        self.secret_access_key = secrets.token_urlsafe(30)
        self.host_key = secrets.token_urlsafe(30)
        self._cache_dir = cache_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._workdir: Path | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """The one endpoint of every service."""
        if self._process is None:
            raise EmulatorError("The emulator is not running")
        return f"http://127.0.0.1:{self._port}"

    @property
    def workdir(self) -> Path:
        """Where the emulator writes: `data/`, `deploys/` and `ministack.log`."""
        if self._workdir is None:
            raise EmulatorError("The emulator was never started")
        return self._workdir

    @property
    def log_file(self) -> Path:
        """ministack's log."""
        return self.workdir / "ministack.log"

    def start(
        self,
        workdir: Path,
        ec2_endpoint: str,
        *,
        control: str | None = None,
        env: Mapping[str, str] | None = None,
        decisions: Path | None = None,
    ) -> Self:
        """Start it and wait until it answers.

        `control` is the EC2 host's control API, asked for quotas and for what is to fail. `env` adds to the emulator's
        environment, and so to that of every Lambda. `decisions` is a file for what each role is allowed, and why.
        """
        if self._process is not None:
            raise EmulatorError("The emulator is already running")
        self._workdir = workdir.resolve()
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._port = _free_port()
        command = [sys.executable, "-m", "spotrelay.rehearsal.ministack_main", "--port", str(self._port)]
        command += ["--ec2-endpoint", ec2_endpoint, "--data", str(self._workdir / "data"), "--with-parent"]
        command += ["--ec2-control", control] if control else []
        command += ["--decisions", str(decisions.resolve())] if decisions else []
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                # The pipe closes when this process ends, however it ends, and ends the emulator.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._workdir,
                env={**self._server_environment(), **(env or {})},
                start_new_session=True,
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it with all its Lambdas, and make sure that none is left."""
        process, self._process = self._process, None
        if process is None:
            return
        group = process.pid
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)
        if process.stdin is not None:
            process.stdin.close()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while left := group_members(group):
            if time.monotonic() > deadline:
                raise EmulatorError(f"Processes {left} of the emulator did not end")
            time.sleep(0.02)
        # Unpacked functions, which ministack leaves when it is ended.
        shutil.rmtree(self.workdir / "data" / "tmp", ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_group(self) -> int | None:
        """The process group of the running emulator and its Lambdas."""
        return self._process.pid if self._process is not None else None

    def session(self) -> boto3.Session:
        """A boto3 session as the account's administrator; its clients need `endpoint_url`."""
        return boto3.Session(
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
        )

    def client(self, service: str, *, as_ec2_host: bool = False) -> Any:
        """A boto3 client of the emulator; `as_ec2_host` may put events whose source is `aws.ec2`."""
        session: Any = self.session()
        client = session.client(service, endpoint_url=self.endpoint)
        if as_ec2_host:

            def add_key(request: Any, **_: Any) -> None:
                request.headers[EC2_HOST_HEADER] = self.host_key

            client.meta.events.register("before-sign.events.PutEvents", add_key)
        return client

    @contextlib.contextmanager
    def outage(self, prefix: str) -> Iterator[None]:
        """While it lasts, no function whose name begins with `prefix` runs: their reserved concurrency is 0.

        What runs already goes on. Calls are refused (by Lambda with 429, by API Gateway with 500), events wait.
        """
        functions = self.client("lambda")
        pages = functions.get_paginator("list_functions").paginate()
        names = [one["FunctionName"] for page in pages for one in page["Functions"]]
        names = [name for name in names if name.startswith(prefix)]
        if not names:
            raise EmulatorError(f"no function is named {prefix}…")
        try:
            for name in names:
                functions.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
            yield
        finally:
            for name in names:
                functions.delete_function_concurrency(FunctionName=name)

    def chalice_deploy(
        self,
        project_dir: Path,
        stage: str,
        env: Mapping[str, str] | None = None,
        *,
        stage_config: Mapping[str, Any] | None = None,
    ) -> DeployedApi:
        """Run the real `chalice deploy` on a copy of a project, again to update what is deployed.

        `env` adds to the functions' environment variables, `stage_config` to the stage's settings (such as
        `iam_role_arn`) in `.chalice/config.json`. The project's own tree is only read.
        """
        copy = self.workdir / "deploys" / f"{project_dir.resolve().name}-{stage}"
        chalice_project.copy_project(project_dir, copy, stage, env or {}, stage_config or {})
        compile_library(copy)
        aws = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, **self._aws_environment()}
        cache = (self._cache_dir or self.workdir / "cache").resolve()
        problem = chalice_project.deploy(copy, stage, aws, cache, self.workdir)
        if problem:
            raise EmulatorError(f"{problem}\n{_tail(self.workdir / chalice_project.LOG)}")
        deployed = copy / ".chalice" / "deployed" / f"{stage}.json"
        resources = json.loads(deployed.read_text())["resources"] if deployed.is_file() else []
        for resource in resources:
            if resource["resource_type"] == "rest_api":
                api_id, api_stage = resource["rest_api_id"], urlsplit(resource["rest_api_url"]).path.strip("/")
                return DeployedApi(api_id, f"{self.endpoint}/_aws/execute-api/{api_id}/{api_stage}")
        raise EmulatorError(f"chalice deployed no REST API from {project_dir}")

    def _server_environment(self) -> dict[str, str]:
        """Little of the user's environment: no profile, no keys; whatever isn't on loopback meets a closed port."""
        nowhere = "http://127.0.0.1:9"
        data = str(self.workdir / "data")
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": data,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry),
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "MINISTACK_REGION": self.region,
            **self._aws_environment(),
            HOST_KEY_VARIABLE: self.host_key,
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "http_proxy": nowhere,
            "https_proxy": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def _aws_environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _wait_until_healthy(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise EmulatorError(f"ministack ended with {process.returncode}\n{_tail(self.log_file)}")
            try:
                with opener.open(f"{self.endpoint}/_ministack/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
        raise EmulatorError(f"ministack did not answer within {START_TIMEOUT_S:.0f} s\n{_tail(self.log_file)}")


def group_members(group: int) -> list[int]:
    """The running processes of a process group; a zombie, which waits to be reaped, isn't running."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [int(row[0]) for row in rows if len(row) >= 3 and row[1] == str(group) and not row[2].startswith("Z")]


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
