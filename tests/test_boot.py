"""The boot script, run for real against small local servers, with stand-ins for every privileged command."""

import hashlib
import io
import json
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import agent_shims

BOOT = Path(__file__).parent.parent / "userdata/boot.sh"
SECRET, SESSION = "secret/key+1=", "session/token+2=="


def agent_zip(code="import pathlib, os; pathlib.Path(os.environ['SPOT_RELAY_ROOT'], 'ran').touch()"):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("__main__.py", code)
    return raw.getvalue()


class Cloud:
    """IMDS, S3 and the API in one server."""

    def __init__(self, agent):
        self.agent = agent
        self.digest = hashlib.sha256(agent).hexdigest()
        self.broken = set()
        self.exits, self.seen = [], []
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, body=b""):
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                self.answer(200, b"imds-token")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                cloud.seen.append((self.path, dict(self.headers)))
                cloud.exits.append(json.loads(body))
                self.answer(200, b'{"linger_s": 0}')

            def do_GET(self):
                cloud.seen.append((self.path, dict(self.headers)))
                if self.path.startswith("/latest/"):
                    text = cloud.metadata().get(self.path.removeprefix("/latest/meta-data/"))
                    if self.headers.get("X-aws-ec2-metadata-token") != "imds-token":
                        return self.answer(401)
                    return self.answer(200, text.encode()) if text else self.answer(404)
                if self.path == f"/relay-bucket/agent/{cloud.digest}.zip" and "s3" not in cloud.broken:
                    return self.answer(200, b"other" if "hash" in cloud.broken else cloud.agent)
                return self.answer(403)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def metadata(self):
        tags = {
            "stage": "dev",
            "run": "quick",
            "attempt": "2",
            "api": f"{self.url}/api",
            "bucket": "relay-bucket",
            "agent": self.digest,
        }
        role = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": SECRET, "Token": SESSION}
        return {
            **{f"tags/instance/spot-relay:{k}": v for k, v in tags.items() if k not in self.broken},
            "placement/region": "us-east-1",
            "iam/security-credentials/": "relay-role",
            "iam/security-credentials/relay-role": json.dumps(role, indent=2),
        }

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def boot(tmp_path):
    clouds = []

    def run(agent=None, broken=(), failing=()):
        cloud = Cloud(agent or agent_zip())
        cloud.broken.update(broken)
        clouds.append(cloud)
        env, calls = agent_shims.make(tmp_path)
        for name in failing:
            (tmp_path / "shims" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\nexit 4\n')
        # curl and python3 are written down as well: what they are called with can be read by every process.
        for name in ("curl", "python3"):
            shim = tmp_path / "shims" / name
            shim.write_text(
                f'#!/bin/bash\necho "{name} $*" >> "{tmp_path}/argv"\nPATH="${{PATH#*:}}" exec {name} "$@"\n'
            )
            shim.chmod(0o755)
        env.update(
            SPOT_RELAY_ROOT=str(tmp_path / "root"),
            SPOT_RELAY_TIME_SCALE="0.01",
            AWS_ENDPOINT_URL=cloud.url,
            AWS_EC2_METADATA_SERVICE_ENDPOINT=cloud.url,
        )
        done = subprocess.run(["bash", str(BOOT)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return cloud, done, calls.read_text().splitlines()

    yield run
    for cloud in clouds:
        cloud.close()


def test_it_runs_the_agent_and_powers_off(boot, tmp_path):
    cloud, done, calls = boot()
    assert (tmp_path / "root/ran").exists(), done.stdout + done.stderr
    assert calls[0] == "shutdown -P +50"
    assert calls[-1] == "shutdown -P now"
    assert cloud.exits == []
    assert done.returncode == 0


def test_the_training_user_is_cut_off_from_the_metadata_service_before_the_agent_comes(boot):
    _, _, calls = boot()
    names = [call.split()[0] for call in calls]
    assert names == ["shutdown", "useradd", "iptables", "shutdown"]
    assert "--uid-owner relay" in calls[2]
    assert "169.254.169.254" in calls[2]


@pytest.mark.parametrize(
    ("broken", "failing", "said"),
    [
        (["s3"], [], "fetching the agent"),
        (["hash"], [], "fetching the agent"),
        ([], ["iptables"], "blocking the metadata service"),
        ([], ["useradd"], "making the training user"),
    ],
)
def test_a_failed_boot_is_reported_and_powers_off(boot, tmp_path, broken, failing, said):
    cloud, done, calls = boot(broken=broken, failing=failing)
    assert [e["reason"] for e in cloud.exits] == ["boot_failed"], done.stdout + done.stderr
    assert said in cloud.exits[0]["message"]
    assert cloud.exits[0]["drained"] is False
    assert calls[-1] == "shutdown -P now"
    assert not (tmp_path / "root/ran").exists()


def test_without_its_tags_it_can_tell_nobody_and_still_powers_off(boot):
    cloud, _, calls = boot(broken=["run"])
    assert cloud.exits == []
    assert calls == ["shutdown -P +50", "shutdown -P now"]


def test_an_agent_that_breaks_is_reported(boot):
    cloud, _, calls = boot(agent=agent_zip("raise SystemExit(3)"))
    assert "ended with code 3" in cloud.exits[0]["message"]
    assert calls[-1] == "shutdown -P now"


def test_the_trainer_of_an_agent_that_was_killed_is_ended_before_anything_else(boot, tmp_path):
    code = """
import os, pathlib, signal, subprocess
trainer = subprocess.Popen(["sleep", "600"], start_new_session=True)
root = pathlib.Path(os.environ["SPOT_RELAY_ROOT"])
(root / "opt/spot-relay/trainer").write_text(f"{trainer.pid}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    cloud, _, calls = boot(agent=agent_zip(code))
    trainer = Path("/proc", (tmp_path / "root/opt/spot-relay/trainer").read_text(), "stat")
    assert not trainer.exists() or trainer.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "ended with code 137" in cloud.exits[0]["message"]
    assert calls[-1] == "shutdown -P now"


def test_requests_are_signed_and_no_secret_is_in_argv(boot, tmp_path):
    cloud, done, _ = boot(agent=agent_zip("raise SystemExit(3)"))
    for path, service in (
        (f"/relay-bucket/agent/{cloud.digest}.zip", "s3"),
        ("/api/attempts/quick/2/exit", "execute-api"),
    ):
        headers = {k.lower(): v for p, h in cloud.seen if p == path for k, v in h.items()}
        assert f"/us-east-1/{service}/aws4_request" in headers["authorization"]
        assert headers["x-amz-security-token"] == SESSION
    for text in ((tmp_path / "argv").read_text(), done.stdout, done.stderr):
        assert SECRET not in text
        assert SESSION not in text
        assert "imds-token" not in text


def test_it_fits_into_user_data():
    assert len(BOOT.read_bytes()) <= 16 * 1024
