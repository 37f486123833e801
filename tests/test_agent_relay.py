"""A whole attempt: the agent's own bundle as a process, a trainer, a bucket under moto, and a controller that answers."""

import io
import json
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from spotrelay import bundle
from tests import agent_shims
from tests.agent_controller import BUCKET, Controller

TRAIN = """
import json, os, pathlib, signal, sys, time
total, resume = int(sys.argv[1]), sys.argv[2:]
ckpt, out = pathlib.Path(os.environ["SPOT_RELAY_CHECKPOINT_DIR"]), pathlib.Path(os.environ["SPOT_RELAY_RESULTS_DIR"])
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step = int(pathlib.Path(resume[1], "state").read_text()) if resume else 0
print("training from", step, "secret is", os.environ.get("API_KEY"), flush=True)
def save():
    tmp = ckpt / f".tmp{step}"; tmp.mkdir(parents=True, exist_ok=True)
    (tmp / "state").write_text(str(step)); (tmp / "frozen").write_text("f" * 100)
    tmp.rename(ckpt / f"step_{step}")
while step < total and not stop:
    step += 1
    with (out / "progress.jsonl").open("a") as f: f.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    if step % 20 == 0: save()
    time.sleep(0.02)
if stop:
    time.sleep(float(os.environ.get("SAVE_S", 0.5))); save(); sys.exit(0)
(out / "metrics.json").write_text(json.dumps({"loss": 1 / step}))
"""

# Writes in place and knows no signals: killed in the middle of a save, it leaves half a file.
CARELESS = """
import os, pathlib, time
ckpt = pathlib.Path(os.environ["SPOT_RELAY_CHECKPOINT_DIR"]); ckpt.mkdir(parents=True)
(ckpt / "model_1").write_bytes(b"whole")
time.sleep(3)
with (ckpt / "model_2").open("wb", buffering=0) as f:
    while True:
        f.write(b"h"); time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    with zipfile.ZipFile(io.BytesIO(bundle.build()[0])) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def aws():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(aws):
    client = boto3.client(
        "s3", endpoint_url=aws, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture
def controller():
    made = Controller()
    yield made
    made.close()


@pytest.fixture
def run(tmp_path, agent, aws, s3, controller):
    """Run one attempt to its end; gives its output and the privileged commands it called."""
    ssm = boto3.client(
        "ssm", endpoint_url=aws, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    name = "/spot-relay/dev/secrets/key"
    ssm.put_parameter(Name=name, Value="very-secret-value", Type="SecureString", Overwrite=True)
    ssm.close()
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "train.py").write_text(TRAIN)
    (repo / "wrapper.sh").write_text(f'{sys.executable} train.py "$@"\necho done\n')
    (repo / "careless.py").write_text(CARELESS)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    for arguments in (["init"], ["add", "-A"], ["commit", "-m", "one"]):
        subprocess.run(["git", *identity, *arguments], cwd=repo, check=True, capture_output=True)

    def start(attempt=1, total=100, stored=False, command=f"{sys.executable} train.py {{total}}", **spec):
        controller.prepare = {
            "action": "prepare",
            "run": "quick",
            "attempt": attempt,
            "bucket": BUCKET,
            "prefix": "runs/quick/",
            "commit": None,
            "source": "runs/quick/source.tar.gz" if stored else None,
            "secrets": {"token": None, "env": {"API_KEY": name}},
            "credentials": {"access_key_id": "a", "secret_access_key": "b", "session_token": "c", "expiration": ""},
            "spec": {
                "name": "quick",
                "source": {"repo": f"file://{repo}", "ref": "main", "token": None},
                "command": command.replace("{total}", str(total)),
                "checkpoint": {
                    "dir": "out/{run}/checkpoints",
                    "resume": "--resume {checkpoint}",
                    "on_notice": "SIGTERM",
                },
                "results": {"dir": "results", "metrics": "metrics.json", "require": ["loss"]},
                "progress": {"total_steps": total, "metrics": "progress.jsonl"},
                "secrets": {"API_KEY": "key"},
                **spec,
            },
        }
        folder = tmp_path / f"instance-{attempt}"
        folder.mkdir()
        env, calls = agent_shims.make(folder)
        env.update(
            SPOT_RELAY_ROOT=str(folder / "root"),
            SPOT_RELAY_TIME_SCALE="0.05",
            AWS_ENDPOINT_URL=aws,
            AWS_EC2_METADATA_SERVICE_ENDPOINT=controller.url,
            AWS_REGION="us-east-1",
        )
        done = subprocess.run(
            [sys.executable, str(agent)], env=env, cwd=folder, capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr, calls.read_text().splitlines()

    return start


def keys(s3, prefix):
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


def manifest(s3, attempt, step):
    key = f"runs/quick/checkpoints/{attempt:04d}/{step:012d}/MANIFEST.json"
    return json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def test_a_run_trains_to_its_end_and_leaves_its_results(run, controller, s3):
    output, calls = run()
    (ending,) = controller.exits
    assert (ending["reason"], ending["code"], ending["drained"], ending["step"]) == ("done", 0, False, 100), output
    assert ending["results"]["metrics"] == {"loss": 0.01}
    assert "runs/quick/source.tar.gz" in keys(s3, "runs/quick/")
    assert set(keys(s3, "runs/quick/results/")) == {
        f"runs/quick/results/0001/{n}" for n in ("metrics.json", "progress.jsonl")
    }
    assert manifest(s3, 1, 100)["final"] is True
    log = b"".join(s3.get_object(Bucket=BUCKET, Key=k)["Body"].read() for k in keys(s3, "runs/quick/logs/0001/"))
    assert b"training from 0 secret is [secret]" in log
    assert b"very-secret-value" not in log
    assert any(beat["phase"] == "train" and beat["metrics"].get("loss") for beat in controller.beats)
    assert any(beat["commit"] for beat in controller.beats)
    # The lease of 50 minutes and the grace, less what the answer took: never a minute that is not paid for.
    assert 45 <= int(calls[0].removeprefix("shutdown -P +")) <= 55
    assert calls[-1] == "shutdown -P now"


PRINT_ENV = (
    "import json, os; json.dump(dict(os.environ), open(os.environ['SPOT_RELAY_RESULTS_DIR'] + '/metrics.json', 'w'))"
)


def test_the_command_has_nothing_of_awss_in_its_environment_unless_it_asks(run, controller, s3):
    run(command=f'{sys.executable} -c "{PRINT_ENV}"', results={"dir": "results", "metrics": "metrics.json"})
    seen = json.loads(s3.get_object(Bucket=BUCKET, Key="runs/quick/results/0001/metrics.json")["Body"].read())
    assert [name for name in seen if name.startswith(("AWS_", "GIT_CONFIG"))] == []
    assert {name for name in seen if name.startswith("SPOT_RELAY_")} == {
        f"SPOT_RELAY_{name}" for name in ("RUN", "ATTEMPT", "CHECKPOINT", "CHECKPOINT_DIR", "RESULTS_DIR")
    }
    assert seen["API_KEY"] == "very-secret-value"


LENT = """
import botocore.session, json, os, time
out = os.environ["SPOT_RELAY_RESULTS_DIR"]
open(out + "/progress.jsonl", "w").write(json.dumps({"step": 1}) + chr(10))
session = botocore.session.Session()
def keys():
    found = session.get_credentials().get_frozen_credentials()
    return [found.access_key, found.secret_key, found.token]
first = keys()
for _ in range(300):
    if keys() != first: break
    time.sleep(0.05)
json.dump({"keys": [first, keys()], "env": dict(os.environ)}, open(out + "/metrics.json", "w"))
"""


def test_the_command_gets_its_own_credentials_when_it_asks_and_they_are_renewed(run, controller, s3, tmp_path):
    def lent(name, seconds):
        expires = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        return {"access_key_id": name, "secret_access_key": f"{name}-key", "session_token": "t", "expiration": expires}

    trained = {"step": False}

    def on_beat(beat):
        trained["step"] = trained["step"] or (beat["step"] or 0) >= 1
        return {"command_credentials": lent("second", 3600)} if trained["step"] else {}

    controller.on_beat = on_beat
    (tmp_path / "lent.py").write_text(LENT)
    command = f"{sys.executable} {tmp_path / 'lent.py'}"
    controller.lent = lent("first", 60)  # sooner than botocore's own margin: it asks again each time
    run(command=command, aws_credentials=True, results={"dir": "results", "metrics": "metrics.json"})
    seen = json.loads(s3.get_object(Bucket=BUCKET, Key="runs/quick/results/0001/metrics.json")["Body"].read())
    assert [keys[0] for keys in seen["keys"]] == ["first", "second"]
    assert not [v for k, v in seen["env"].items() if "first" in v or "second" in v], "a variable would be stale"
    names = {name for name in seen["env"] if name.startswith("AWS_")}
    assert names == {"AWS_CONFIG_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}
    credentials = tmp_path / "instance-1/root/opt/spot-relay/aws/credentials.json"
    assert credentials.stat().st_mode & 0o777 == 0o400


def test_a_notice_is_answered_by_training_on_until_told_to_drain(run, controller, s3):
    def on_beat(beat):
        if controller.notice_at is None and (beat["step"] or 0) >= 1:
            controller.notice_at = datetime.now(UTC) + timedelta(seconds=60)
        noticed = [b for b in controller.beats if b["notice_at"]]
        return {"action": "drain", "reason": "handoff"} if len(noticed) >= 4 else {}

    controller.on_beat = on_beat
    output, calls = run(total=100000)
    (ending,) = controller.exits
    assert (ending["drained"], ending["reason"]) == (True, "handoff"), output
    last = max(int(key.split("/")[4]) for key in keys(s3, "runs/quick/checkpoints/0001/"))
    assert last == ending["step"]
    assert manifest(s3, 1, last)["final"] is True
    assert [b["checkpoint"] for b in controller.beats if (b["checkpoint"] or {}).get("final")]
    noticed = [b["step"] for b in controller.beats if b["notice_at"] and b["phase"] == "train"]
    assert noticed[-1] > noticed[0], "training must go on after the notice"
    assert calls[-1] == "shutdown -P now"


def test_a_wrapper_without_a_trap_whose_child_saves_for_five_seconds_loses_nothing(run, controller, s3):
    controller.on_beat = lambda beat: (
        {"action": "drain", "reason": "handoff"} if beat["phase"] == "train" and (beat["step"] or 0) >= 30 else {}
    )
    output, _ = run(total=100000, command="sh wrapper.sh {total}", env={"SAVE_S": "5"})
    (ending,) = controller.exits
    assert (ending["drained"], ending["reason"]) == (True, "handoff"), output
    last = max(int(key.split("/")[4]) for key in keys(s3, "runs/quick/checkpoints/0001/"))
    assert last == ending["step"]
    assert manifest(s3, 1, last)["final"] is True


def test_what_a_killed_trainer_was_writing_is_no_checkpoint(run, controller, s3):
    began = []

    def on_beat(beat):
        if beat["phase"] == "train":
            began.append(time.monotonic())
        return {"action": "drain", "reason": "handoff"} if began and time.monotonic() - began[0] > 6 else {}

    controller.on_beat = on_beat
    output, _ = run(command=f"{sys.executable} careless.py")
    assert controller.exits[0]["drained"], output
    assert {int(key.split("/")[4]) for key in keys(s3, "runs/quick/checkpoints/0001/")} == {1}


def test_the_notice_itself_drains_in_time_when_nobody_tells_to(run, controller):
    def on_beat(beat):
        if controller.notice_at is None and beat["phase"] == "train":
            controller.notice_at = datetime.now(UTC) + timedelta(seconds=5)
        return {}

    controller.on_beat = on_beat
    began = time.monotonic()
    output, _ = run(total=100000)
    assert controller.exits[0]["drained"], output
    assert controller.exits[0]["reason"] == "spot_interruption"
    assert time.monotonic() - began < 30


def test_the_next_attempt_waits_for_the_baton_then_resumes_from_a_whole_checkpoint(run, controller, s3):
    run(total=100)
    step_80 = "runs/quick/checkpoints/0001/000000000080/"
    s3.put_object(Bucket=BUCKET, Key="runs/quick/checkpoints/0001/000000000100/step_100/state", Body=b"torn")
    newest = {"attempt": 1, "step": 100, "prefix": "runs/quick/checkpoints/0001/000000000100/"}
    older = int(sorted(keys(s3, "runs/quick/checkpoints/0001/"))[0].split("/")[4])
    older_prefix = f"runs/quick/checkpoints/0001/{older:012d}/"
    assert step_80.startswith("runs/quick/checkpoints/0001/")
    controller.claims = [
        {"action": "wait", "retry_in_s": 5},
        {"action": "restore", "checkpoint": newest},
        {"action": "restore", "checkpoint": {"attempt": 1, "step": older, "prefix": older_prefix}},
    ]
    output, _ = run(attempt=2, total=200, stored=True)
    assert controller.exits[-1]["reason"] == "done", output
    assert controller.ready[-1]["torn"] == [{"attempt": 1, "step": 100}]
    assert f"restored step {older} of attempt 1" in output
    assert f"training from {older} " in "".join(
        s3.get_object(Bucket=BUCKET, Key=k)["Body"].read().decode() for k in keys(s3, "runs/quick/logs/0002/")
    )
    first = min(int(key.split("/")[4]) for key in keys(s3, "runs/quick/checkpoints/0002/"))
    assert first > older
    assert manifest(s3, 2, first)["parent"] == {"attempt": 1, "step": older}


def test_a_superseded_attempt_publishes_nothing_more_and_powers_off(run, controller, s3):
    controller.on_beat = lambda beat: {"action": "superseded"} if (beat["step"] or 0) >= 1 else {}
    output, calls = run(total=100000)
    assert controller.exits == [], output
    assert not [key for key in keys(s3, "runs/quick/checkpoints/") if manifest_final(s3, key)]
    assert keys(s3, "runs/quick/results/") == []
    assert calls[-1] == "shutdown -P now"


def manifest_final(s3, key):
    return key.endswith("MANIFEST.json") and json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["final"]


@pytest.mark.parametrize(
    ("options", "reason", "sentence"),
    [
        ({"command": "./no-such-command"}, "command", "was not found: commit it"),
        ({"command": "sh -c 'echo oh no; exit 3'"}, "exit_code", "ended with code 3"),
        ({"command": "true"}, "metrics_missing", "metrics.json was not written"),
        ({"setup": "exit 9"}, "command", "setup ended with code 9"),
        ({"source": {"repo": "file:///nowhere/at-all", "ref": "main"}}, "source", "was not found: correct source.repo"),
        ({"inputs": [{"from": "datasets/abc", "to": "data"}]}, "source", "isn't in the bucket"),
    ],
)
def test_what_goes_wrong_is_told_in_a_sentence(run, controller, options, reason, sentence):
    output, calls = run(**options)
    (ending,) = controller.exits
    assert (ending["reason"], ending["drained"]) == (reason, False), output
    assert sentence in ending["message"]
    assert calls[-1] == "shutdown -P now"


def test_the_bundle_is_the_same_bytes_each_time_and_small():
    body, digest = bundle.build()
    assert bundle.build() == (body, digest)
    assert len(body) < 6 * 1024 * 1024
