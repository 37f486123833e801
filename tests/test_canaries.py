"""The search for planted secrets finds one wherever it is; a search that can't fail would prove nothing (I8)."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from chalicelib.contracts import templates
from chalicelib.contracts.spec import parse
from spotrelay.rehearsal import canaries
from spotrelay.rehearsal.canaries import KEPT, PRINTED, Canaries, Sampler
from tests.conftest import TABLE, make_table
from tests.test_spec import SMALL

BUCKET = "canary-search"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        session: Any = boto3.Session(region_name="us-east-1")
        session.client("s3").create_bucket(Bucket=BUCKET)
        make_table(session.client("dynamodb"))
        yield session.client


def template(aws: Callable[[str], Any], text: bytes) -> None:
    data = {"UserData": base64.b64encode(text).decode()}
    aws("ec2").create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)


def instance(aws: Callable[[str], Any], tag: str = "", user_data: str = "") -> None:
    ec2 = aws("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "spot-relay:run", "Value": tag or "r"}]}]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, UserData=user_data, TagSpecifications=tags)


def log(aws: Callable[[str], Any], text: str) -> None:
    logs = aws("logs")
    logs.create_log_group(logGroupName="/spot-relay/test")
    logs.create_log_stream(logGroupName="/spot-relay/test", logStreamName="r/0001")
    event = {"timestamp": int(time.time() * 1000), "message": text}
    logs.put_log_events(logGroupName="/spot-relay/test", logStreamName="r/0001", logEvents=[event])


def archive(text: bytes) -> bytes:
    raw = BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as packed:
        member = tarfile.TarInfo(".git/config")
        member.size = len(text)
        packed.addfile(member, BytesIO(text))
    return raw.getvalue()


def put(key: str, body: bytes) -> Callable[[Callable[[str], Any], Path], None]:
    return lambda aws, folder: aws("s3").put_object(Bucket=BUCKET, Key=key, Body=body)


def written(place: str, body: bytes) -> Callable[[Callable[[str], Any], Path], None]:
    def write(aws: Callable[[str], Any], folder: Path) -> None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(body)

    return write


VALUE = "canary/0123456789+x"
BASIC = base64.b64encode(f"x-access-token:{VALUE}".encode())
PLACES: dict[str, Callable[[Callable[[str], Any], Path], Any]] = {
    "the user data of the launch template": lambda aws, folder: template(aws, f"#!/bin/sh\n{VALUE}".encode()),
    "the user data of the launch template template": lambda aws, folder: template(aws, gzip.compress(VALUE.encode())),
    "the user data of i-": lambda aws, folder: instance(aws, user_data=f"#!/bin/sh\n{VALUE}"),
    "tags of i-": lambda aws, folder: instance(aws, tag=VALUE),
    "s3 runs/r/source.tar.gz": put("runs/r/source.tar.gz", archive(b"url = https://" + VALUE.encode())),
    "s3 runs/r/logs/": put("runs/r/logs/0001/000000000000.log", BASIC),
    "s3 runs/r/spec.json": put("runs/r/spec.json", json.dumps({"a": VALUE}).encode()),
    "s3 runs/r/results/": put("runs/r/results/0001/out", VALUE.encode()),
    "the table": lambda aws, folder: aws("dynamodb").put_item(
        TableName=TABLE, Item={"pk": {"S": "RUN#r"}, "sk": {"S": "EVENT#1"}, "message": {"S": f"It said {VALUE}"}}
    ),
    "the log /spot-relay/test": lambda aws, folder: log(aws, "printed canary%2F0123456789%2Bx"),
    "the file ec2/i-1/console.log": written("ec2/i-1/console.log", VALUE.encode()),
    "work/.git/config": written("ec2/i-1/root/home/ubuntu/work/.git/config", BASIC),
    "shims.log": written("ec2/i-1/shims.log", VALUE.encode()),
    "the file lambda-api.log": written("lambda-api.log", VALUE.encode()),
}


def planted() -> Canaries:
    made = Canaries()
    made.values = {KEPT: VALUE, PRINTED: "another-value-0123"}
    made.needles = tuple(needle for value in made.values.values() for needle in canaries.forms(value))
    return made


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_secret_is_found_in(place: str, aws: Callable[[str], Any], tmp_path: Path) -> None:
    found = planted()
    canaries.search(found, aws, BUCKET, tmp_path, job_is_ours=True)
    assert found.problems() == []
    PLACES[place](aws, tmp_path)
    canaries.search(found, aws, BUCKET, tmp_path, job_is_ours=True)
    assert any(place in problem for problem in found.problems())


def test_what_a_job_of_ones_own_writes_is_its_own_business(aws: Callable[[str], Any], tmp_path: Path) -> None:
    PLACES["s3 runs/r/results/"](aws, tmp_path)
    written("ec2/i-1/root/home/ubuntu/work/out", VALUE.encode())(aws, tmp_path)
    written("ec2/i-1/root/var/log/spot-relay/r-0001.log", VALUE.encode())(aws, tmp_path)
    found = planted()
    canaries.search(found, aws, BUCKET, tmp_path, job_is_ours=False)
    assert found.problems() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [((VALUE,), "a planted secret is in the arguments of"), ((f"--token={BASIC.decode()}",), "the arguments of")],
)
def test_a_secret_among_a_processs_arguments_is_found(words: tuple[str, ...], said: str) -> None:
    found = planted()
    sleeping = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", sleeping, *words], stdin=-1, stdout=-1) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        Sampler(found).once()
        process.stdin.close()
    assert any(said in problem for problem in found.problems())
    assert found.sampled > 0


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        ({}, ""),
        ({"AWS_SECRET_ACCESS_KEY": "x"}, "AWS_SECRET_ACCESS_KEY"),
        ({"GIT_CONFIG_VALUE_0": "x"}, "GIT_CONFIG_VALUE_0"),
        ({"AWS_CONFIG_FILE": "/x", "AWS_REGION": "r"}, ""),
        ({"AWS_CONFIG_FILE": "/x", "AWS_SESSION_TOKEN": "t"}, "AWS_SESSION_TOKEN"),
    ],
)
def test_a_training_processs_environment_is_looked_at(extra: dict[str, str], wrong: str) -> None:
    sampler = Sampler(planted())
    sleeping = "import sys; print(flush=True); sys.stdin.read()"
    env = {"SPOT_RELAY_RUN": "r", "SPOT_RELAY_RESULTS_DIR": "/r", **extra}
    with subprocess.Popen([sys.executable, "-c", sleeping], stdin=-1, stdout=-1, env=env) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        sampler.once()
        process.stdin.close()
    assert (wrong in " ".join(sampler.problems)) if wrong else not sampler.problems


def test_the_planted_spec_prints_then_becomes_the_command(aws: Callable[[str], Any]) -> None:
    made = Canaries()
    spec = made.plant(aws("ssm"), "rehearsal", {**SMALL, "secrets": {"WANDB": "wandb"}}, "https://github.com/o/r.git")
    parsed = parse(spec)
    argv = templates.render_argv(parsed.command, "--resume {checkpoint}", {"results": "/r x", "checkpoint": "/c"})
    command = [*argv[:4], "/usr/bin/printf", "<%s>", *argv[6:]]
    env = {"PATH": "/usr/bin:/bin", PRINTED: made.values[PRINTED]}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"canary {made.values[PRINTED]}\n")
    assert said.endswith("<--out></r x><--resume></c>") or "<--resume></c>" in said
    assert not any(value in json.dumps(spec) for value in made.values.values())
    stored = aws("ssm").get_parameter(Name="/spot-relay/rehearsal/secrets/wandb", WithDecryption=True)
    assert stored["Parameter"]["Type"] == "SecureString"


def test_a_search_that_proves_nothing_says_so(tmp_path: Path) -> None:
    found = planted()
    assert len(canaries.unproven(found, [tmp_path], [b"nothing"])) == 3
    written("root/var/log/spot-relay/r-0001.log", b"canary another-value-0123")(None, tmp_path)  # type: ignore[arg-type]
    found.sampled = 1
    assert canaries.unproven(found, [tmp_path], [b"canary [secret]"]) == []


SHUT, USER = ("shutdown", ["-P", "+50"]), ("useradd", ["relay"])
BLOCK = ("iptables", ["-I", "OUTPUT", "-d", "169.254.169.254", "-j", "REJECT"])


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ([SHUT, USER, BLOCK, ("apt-get", ["update"])], True),
        ([SHUT], True),
        ([SHUT, USER], False),
        ([SHUT, USER, ("apt-get", ["update"]), BLOCK], False),
        ([USER, BLOCK], False),
    ],
)
def test_the_block_comes_before_anything_of_the_run(
    asked: list[tuple[str, list[str]]], right: bool, tmp_path: Path
) -> None:
    lines = [json.dumps({"command": name, "args": words}) for name, words in asked]
    (tmp_path / "shims.log").write_text("\n".join(lines) + "\n")
    written("root/var/log/spot-relay/r-0001.log", b"")(None, tmp_path)  # type: ignore[arg-type]
    assert (canaries.boot_order(tmp_path) == []) is right
