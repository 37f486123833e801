"""Secrets that are planted in every rehearsal, and the search for them wherever they must not be (I8).

Three are stored as a person would store them: the token of the job's repository, and two that are handed to its command, which
prints one of them, as it is and in base64. Afterwards user data, tags, arguments of processes, the bucket with the source
archive, the table, every log and every answer of the API are searched. What the job itself writes among its results and
checkpoints is its own business.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import secrets
import shlex
import threading
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spotrelay.client import Client
from spotrelay.rehearsal import ec2_shims

KEPT, PRINTED, TOKEN = "RELAY_CANARY_KEPT", "RELAY_CANARY_PRINTED", "RELAY_CANARY_TOKEN"
SAMPLE_S = 0.2
_MOST_SECRETS = 10  # of a spec
# Prints before it becomes the command, in the same process: signals and children are the command's own.
_PRINT = f'printf "canary %s\\n" "${PRINTED}"; printf %s "${PRINTED}" | base64; exec "$@"'
_RAW_LOG = "root/var/log/spot-relay/"  # what a job prints stays as it is in its instance's own file
_WORK = "root/home/ubuntu/work/"
_AWS_ALLOWED = frozenset({"AWS_CONFIG_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"})


class Canaries:
    """`found` are the places where one was met, as they are met."""

    def __init__(self) -> None:
        self.values = {
            KEPT: f"canary/{secrets.token_hex(12)}+kept",
            PRINTED: f"canary/{secrets.token_hex(12)}+printed",
            TOKEN: f"canary_{secrets.token_hex(16)}",
        }
        self.needles = tuple(needle for value in self.values.values() for needle in forms(value))
        self.found: set[str] = set()
        self.sampled = 0

    def plant(self, ssm: Any, stage: str, spec: Mapping[str, Any], repository: str) -> dict[str, Any]:
        """Store them, and what the job's own secrets name. Gives the spec that hands them to the command, and the source from
        `repository`, which wants the token.
        """
        spec = {**spec, "source": {**spec["source"], "repo": repository, "token": TOKEN.lower()}}
        _store(ssm, stage, TOKEN.lower(), self.values[TOKEN])
        handed = {name: self.values[name] for name in (KEPT, PRINTED)}
        own = dict(spec.get("secrets") or {})
        for number, name in enumerate(sorted(set(own.values()))):
            _store(ssm, stage, name, f"rehearsed-secret-{number}")
        if len(own) + len(handed) > _MOST_SECRETS:
            return spec
        for name, value in handed.items():
            _store(ssm, stage, name.lower(), value)
        command = f"sh -c {shlex.quote(_PRINT)} sh {spec['command']}"
        return {**spec, "secrets": {**own, **{name: name.lower() for name in handed}}, "command": command}

    def look(self, place: str, content: bytes | str) -> None:
        """Remember the place if there is a canary in it."""
        data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        if any(needle in data for needle in self.needles):
            self.found.add(place)

    def problems(self) -> list[str]:
        return [f"a planted secret is in {place}" for place in sorted(self.found)]


def forms(value: str) -> Iterator[bytes]:
    """As it is, in base64 (also as git sends a token), percent-encoded."""
    yield value.encode()
    for text in (value, f"x-access-token:{value}"):
        yield base64.b64encode(text.encode()).rstrip(b"=")
        yield base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    yield urllib.parse.quote(value, safe="").encode()


def _store(ssm: Any, stage: str, name: str, value: str) -> None:
    ssm.put_parameter(Name=f"/spot-relay/{stage}/secrets/{name}", Value=value, Type="SecureString", Overwrite=True)


# -- while it runs -----------------------------------------------------------------------------------------------------------


class Listening(Client):
    """The API, with every answer searched as it comes."""

    canaries: Canaries

    def _once(
        self, method: str, path: tuple[str, ...], query: Mapping[str, Any], body: object = None
    ) -> tuple[int, Any]:
        status, answer = super()._once(method, path, query, body)
        self.canaries.look(f"the answer to {method} /{'/'.join(path)}", json.dumps(answer))
        return status, answer


class Sampler:
    """Reads the arguments of every process, five times a second, and the names in each command's environment."""

    def __init__(self, canaries: Canaries, proc: Path = Path("/proc")) -> None:
        self._canaries, self._proc = canaries, proc
        self.problems: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="canaries", daemon=True)

    def start(self) -> Sampler:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            self.once()

    def once(self) -> None:
        for entry in self._proc.iterdir() if self._proc.is_dir() else ():
            if not entry.name.isdigit():
                continue
            environment = b""
            try:
                arguments = (entry / "cmdline").read_bytes()
                with contextlib.suppress(PermissionError):  # somebody else's
                    environment = (entry / "environ").read_bytes()
            except OSError:
                continue  # gone
            self._canaries.sampled += 1
            shown = arguments.split(b"\0", 1)[0].decode(errors="replace")
            self._canaries.look(f"the arguments of {shown}", arguments)
            self._environment(shown, environment)

    def _environment(self, shown: str, environment: bytes) -> None:
        """A training process is one that was told its run; it must have nothing of AWS's but what the spec asked for."""
        names = {line.partition(b"=")[0].decode(errors="replace") for line in environment.split(b"\0")}
        if "SPOT_RELAY_RUN" not in names or "SPOT_RELAY_RESULTS_DIR" not in names:
            return
        wrong = {name for name in names if name.startswith(("AWS_", "GIT_CONFIG"))}
        if "AWS_CONFIG_FILE" in names:
            wrong -= _AWS_ALLOWED
        if wrong:
            self.problems.add(f"the training process {shown} has {', '.join(sorted(wrong))} in its environment")


# -- afterwards ----------------------------------------------------------------------------------------------------------------


def search(canaries: Canaries, client: Any, bucket: str, folder: Path, *, job_is_ours: bool) -> None:
    """Everywhere that is left: `client(service)` gives AWS's clients, `folder` has what hosts and instances wrote."""
    _ec2(canaries, client("ec2"))
    _bucket(canaries, client("s3"), bucket, job_is_ours)
    _tables(canaries, client("dynamodb"))
    _logs(canaries, client("logs"))
    _files(canaries, folder, job_is_ours)


def _ec2(canaries: Canaries, ec2: Any) -> None:
    for template in ec2.describe_launch_templates()["LaunchTemplates"]:
        name = template["LaunchTemplateName"]
        for version in ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]:
            canaries.look(f"the launch template {name}", json.dumps(version, default=str))
            for each in decoded(version["LaunchTemplateData"].get("UserData", "")):
                canaries.look(f"the user data of the launch template {name}", each)
    for page in ec2.get_paginator("describe_instances").paginate():
        for instance in (i for reservation in page["Reservations"] for i in reservation["Instances"]):
            canaries.look(f"the description and tags of {instance['InstanceId']}", json.dumps(instance, default=str))
            found = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
            for each in decoded(found.get("UserData", {}).get("Value", "")):
                canaries.look(f"the user data of {instance['InstanceId']}", each)
    canaries.look("the tags of a resource", json.dumps(ec2.describe_tags()["Tags"]))
    canaries.look("a volume", json.dumps(ec2.describe_volumes()["Volumes"], default=str))


def decoded(text: str) -> Iterator[bytes]:
    """User data as it is, and as what it was made from."""
    data = text.encode()
    yield data
    try:
        data = base64.b64decode(data, validate=True)
    except ValueError:
        return
    yield from unzipped(data)


def unzipped(data: bytes) -> Iterator[bytes]:
    yield data
    if data.startswith(b"\x1f\x8b"):
        try:
            yield gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return


def _bucket(canaries: Canaries, s3: Any, bucket: str, job_is_ours: bool) -> None:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for key in (item["Key"] for item in page.get("Contents", [])):
            parts = key.split("/")
            if not job_is_ours and len(parts) > 2 and parts[2] in ("results", "checkpoints"):
                continue
            try:
                found = s3.get_object(Bucket=bucket, Key=key)
            except s3.exceptions.NoSuchKey:
                continue  # the sweep may be pruning
            canaries.look(f"s3 {key}, its name or metadata", json.dumps([key, found.get("Metadata", {})]))
            for each in unzipped(found["Body"].read()):
                canaries.look(f"s3 {key}", each)


def _tables(canaries: Canaries, dynamodb: Any) -> None:
    for name in dynamodb.list_tables()["TableNames"]:
        for page in dynamodb.get_paginator("scan").paginate(TableName=name):
            for item in page["Items"]:
                place = f"the table {name}, {item['pk'].get('S')} / {item['sk'].get('S')}"
                canaries.look(place, json.dumps(item, default=str))


def _logs(canaries: Canaries, logs: Any) -> None:
    for page in logs.get_paginator("describe_log_groups").paginate():
        for group in (each["logGroupName"] for each in page["logGroups"]):
            for events in logs.get_paginator("filter_log_events").paginate(logGroupName=group):
                for event in events["events"]:
                    canaries.look(f"the log {group} {event.get('logStreamName')}", event["message"])


def _files(canaries: Canaries, folder: Path, job_is_ours: bool) -> None:
    """Consoles, logs, user data, what the shims were asked, every `.git`, what was deployed."""
    for path in _regular(folder):
        place = path.relative_to(folder).as_posix()
        theirs = _WORK in place and ".git/" not in place and not job_is_ours
        if _RAW_LOG in place or theirs or place.startswith("aws/data/"):
            continue
        try:
            data = path.read_bytes()
        except OSError:
            continue
        for each in unzipped(data):
            canaries.look(f"the file {place}", each)


def _regular(folder: Path) -> Iterable[Path]:
    for above, _, names in os.walk(folder):
        for name in names:
            path = Path(above) / name
            if path.is_file() and not path.is_symlink():
                yield path


# -- whether the search proved anything --------------------------------------------------------------------------------------


def unproven(canaries: Canaries, instance_folders: Iterable[Path], logs_in_s3: Iterable[bytes]) -> list[str]:
    """A search for what was never there finds nothing: the secret must have been printed, and have been hidden on its way."""
    printed = canaries.values[PRINTED].encode()
    raw = [path for folder in instance_folders for path in (folder / _RAW_LOG).glob("*.log")]
    problems = []
    if not any(printed in path.read_bytes() for path in raw):
        problems.append("no instance printed the planted secret: the search for it proves nothing")
    if not any(b"canary [secret]" in body for body in logs_in_s3):
        problems.append("the log in the bucket does not show where the planted secret was hidden")
    if not canaries.sampled:
        problems.append("the arguments of no process were looked at")
    return problems


def boot_order(instance_folder: Path) -> list[str]:
    """The training user is cut off from the metadata service before anything of the run begins."""
    asked = ec2_shims.asked(instance_folder)
    names = [name for name, _ in asked]
    if "useradd" not in names:
        return []  # it ended before it came so far
    block = next(
        (n for n, (name, words) in enumerate(asked) if name == "iptables" and "169.254.169.254" in words), None
    )
    if block is None:
        began = any((instance_folder / _RAW_LOG).glob("*.log"))
        return [f"{instance_folder.name} never blocked the metadata service"] if began else []
    if names[0] != "shutdown" or set(names[:block]) - {"shutdown", "useradd"}:
        return [f"{instance_folder.name} did {', '.join(names[:block])} before it blocked the metadata service"]
    return []
