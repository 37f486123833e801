"""The agent's own processes, one attempt after the other, at a run that trains for a second: S3 and its like by moto, a
controller that answers, and a server in front of both that sees every request, refuses some, and can kill who asked.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import boto3
from botocore.config import Config
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from spotrelay import bundle
from tests import agent_shims
from tests.agent_controller import Controller
from tests.flaky import Flaky, Moment

EVERY = os.environ.get("SPOT_RELAY_FAULTS") == "all"
SHARES = 8 if EVERY else 1  # so that several workers have each a part
SECRET = "/spot-relay/dev/secrets/key"
CHECKPOINTS = "runs/quick/checkpoints/"
# Verifies what it resumes from by its own means. Its large file goes in parts, its frozen one is copied inside S3.
TRAIN = """
import json, os, pathlib, sys, time
upto, resume = int(sys.argv[1]), sys.argv[2:]
ckpt, out = pathlib.Path(os.environ["SPOT_RELAY_CHECKPOINT_DIR"]), pathlib.Path(os.environ["SPOT_RELAY_RESULTS_DIR"])
def model(step): return bytes([step]) * (9 << 20)
step = 0
if resume:
    found = pathlib.Path(resume[1])
    step = int((found / "state").read_text())
    assert (found / "large").read_bytes() == model(step) and (found / "frozen").read_text() == "f" * 100, "torn"
print("training from", step, flush=True)
while step < upto:
    step += 1
    with (out / "progress.jsonl").open("a") as f: f.write(json.dumps({"step": step}) + "\\n")
    if step % 5 == 0:
        tmp = ckpt / f".tmp{step}"; tmp.mkdir(parents=True, exist_ok=True)
        (tmp / "state").write_text(str(step)); (tmp / "frozen").write_text("f" * 100)
        (tmp / "large").write_bytes(model(step)); tmp.rename(ckpt / f"step_{step}")
        time.sleep(0.7 if step < upto else 0)
(out / "metrics.json").write_text(json.dumps({"step": step}))
"""


class Place:
    """A controller, S3 and its like, and a server in front of both that sees every request and can kill who asked."""

    numbers = itertools.count()  # moto's account is the same for all places of a process

    def __init__(self, folder):
        self.folder = folder
        self.begun = f"begun-{next(self.numbers)}"
        self.log_group = f"/spot-relay/{self.begun}"
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        moto_url = "http://{}:{}".format(*self.moto.get_host_and_port())
        self.controller = Controller()
        self.between = Flaky(moto_url, dict.fromkeys(("/api/", "/latest/"), self.controller.url))
        self.controller.api_url = f"{self.between.url}/api"
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        # moto keeps the checksum of the parts when it copies, so what is read is verified by the manifest alone.
        self.s3 = boto3.client(
            "s3", endpoint_url=moto_url, config=Config(response_checksum_validation="when_required"), **keys
        )
        ssm, logs = (boto3.client(name, endpoint_url=moto_url, **keys) for name in ("ssm", "logs"))
        ssm.put_parameter(Name=SECRET, Value="very-secret", Type="SecureString", Overwrite=True)
        logs.create_log_group(logGroupName=self.log_group)
        ssm.close()
        logs.close()
        with zipfile.ZipFile(io.BytesIO(bundle.build()[0])) as archive:
            archive.extractall(folder / "agent")
        self.repo = folder / "repo"
        self.repo.mkdir()
        (self.repo / "train.py").write_text(TRAIN)
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
        for arguments in (["init"], ["add", "-A"], ["commit", "-m", "one"]):
            subprocess.run(["git", *identity, *arguments], cwd=self.repo, check=True, capture_output=True)
        # What every life begins with: the first attempt has published step 5, and was interrupted.
        self.s3.create_bucket(Bucket=self.begun)
        life = Life(self, self.begun)
        assert life.attempt(1, upto=5) == 0, life.said
        self.calm = self.new_life()
        assert self.calm.attempt(2, upto=15) == 0, self.calm.said
        self.requests = list(self.between.seen)
        self.recorded = numbered(self.requests)

    def close(self):
        self.between.close()
        self.controller.close()
        self.s3.close()
        self.moto.stop()

    def new_life(self):
        bucket = f"life-{next(self.numbers)}"
        self.s3.create_bucket(Bucket=bucket)
        for key in keys_of(self.s3, self.begun, CHECKPOINTS):
            self.s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": self.begun, "Key": key})
        return Life(self, bucket)


class Life:
    """A run in a bucket of its own, and the attempts at it, one after the other."""

    def __init__(self, place, bucket):
        self.place, self.bucket, self.s3 = place, bucket, place.s3
        self.controller = place.controller
        self.said = ""

    def attempt(self, number, upto, dies_at=None, moment=Moment.BEFORE, arm=(0, None)):
        """Its exit code; -9 when it was killed at the request `dies_at`. `arm` is what the server in front does besides."""
        counted = Counter()
        self.controller.beats.clear()
        self.controller.exits.clear()
        self.controller.prepare = self.prepare(number, upto)
        newest, *older = [*self.manifests(), None]
        self.controller.claims = [{"action": "restore", "checkpoint": newest, "older": [c for c in older if c]}]
        folder = self.place.folder / f"{self.bucket}-{number}"
        folder.mkdir()
        env, _ = agent_shims.make(folder)
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # every process would compile all of botocore
        env.update(
            SPOT_RELAY_ROOT=str(folder / "root"),
            SPOT_RELAY_TIME_SCALE="0.05",
            AWS_ENDPOINT_URL=self.place.between.url,
            AWS_EC2_METADATA_SERVICE_ENDPOINT=self.controller.url,
            AWS_REGION="us-east-1",
        )
        processes = []

        def strikes(request, at):
            if at is moment:
                counted[kind_of(request)] += 1
            if at is not moment or dies_at != (kind_of(request), counted[kind_of(request)]):
                return False
            os.kill(processes[0].pid, signal.SIGKILL)
            os.waitid(os.P_PID, processes[0].pid, os.WEXITED | os.WNOWAIT)
            return True

        self.place.between.arm(*arm)
        self.place.between.strikes = strikes
        with (folder / "output").open("wb") as output:
            command = [sys.executable, str(self.place.folder / "agent")]
            processes.append(subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT))
            code = processes[0].wait(timeout=60)
        if code:
            stop_training(folder)
        until = time.monotonic() + 150
        while not self.place.between.rests():  # what it had sent before it died
            assert time.monotonic() < until, f"a request is under way for ever: {self.place.between.seen[-5:]}"
            time.sleep(0.01)
        self.said = (folder / "output").read_text()
        self.log = folder / f"root/var/log/spot-relay/quick-{number:04d}.log"
        return code

    def prepare(self, number, upto):
        stored = "runs/quick/source.tar.gz"
        return {
            "action": "prepare",
            "run": "quick",
            "attempt": number,
            "bucket": self.bucket,
            "prefix": "runs/quick/",
            "log_group": self.place.log_group,
            "commit": None,
            "source": stored if keys_of(self.s3, self.bucket, stored) else None,
            "secrets": {"token": None, "env": {"API_KEY": SECRET}},
            "credentials": {"access_key_id": "given", "secret_access_key": "b", "session_token": "c", "expiration": ""},
            "spec": {
                "name": "quick",
                "source": {"repo": f"file://{self.place.repo}", "ref": "main", "token": None},
                "command": f"{sys.executable} train.py {upto}",
                "checkpoint": {"dir": "out/checkpoints", "resume": "--resume {checkpoint}", "on_notice": "SIGTERM"},
                "results": {"dir": "results", "metrics": "metrics.json"},
                "progress": {"total_steps": upto, "metrics": "progress.jsonl"},
            },
        }

    def manifests(self):
        """What counts, newest first, as the controller offers it to the next attempt."""
        keys = [key for key in keys_of(self.s3, self.bucket, CHECKPOINTS) if key.endswith("MANIFEST.json")]
        split = sorted(((int(key.split("/")[3]), int(key.split("/")[4]), key) for key in keys), reverse=True)
        return [{"attempt": a, "step": s, "prefix": key.removesuffix("MANIFEST.json")} for a, s, key in split]

    def torn(self):
        """Files that a manifest names and the bucket doesn't have as they should be."""
        wrong = []
        for found in self.manifests():
            manifest = json.loads(self.body(found["prefix"] + "MANIFEST.json"))
            for file in manifest["files"]:
                with contextlib.suppress(self.s3.exceptions.NoSuchKey):
                    body = self.body(found["prefix"] + file["path"])
                    if (len(body), hashlib.sha256(body).hexdigest()) == (file["bytes"], file["sha256"]):
                        continue
                wrong.append(found["prefix"] + file["path"])
        return wrong

    def body(self, key):
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()


def keys_of(s3, bucket, prefix):
    return [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def stop_training(folder):
    """As the boot script does when the agent ended badly: by the number that the agent left, if that is still its trainer."""
    with contextlib.suppress(OSError, ValueError):
        leader = int((folder / "root/opt/spot-relay/trainer").read_text())
        if Path(f"/proc/{leader}/cwd").resolve().is_relative_to(folder):
            os.killpg(leader, signal.SIGKILL)


def kind_of(request):
    """A request without what differs from life to life: bucket, step, offset in the log, upload."""
    method, target, *operation = request.split(" ")
    path, _, query = target.partition("?")
    path = re.sub(r"^/(life|begun)-\d+", "", path)
    path = re.sub(r"/(step_|0{6})\d+", r"/\1…", path)
    part = sorted(re.findall(r"partNumber=\d+|uploads\b|uploadId\b", query))  # a part's number before its upload
    return " ".join([method, path, *part[:1], *operation])


def numbered(requests):
    """Each as (kind, how many of that kind there were with it)."""
    counted = Counter()
    found = []
    for kind in map(kind_of, requests):
        counted[kind] += 1
        found.append((kind, counted[kind]))
    return found
