"""How fast the agent publishes a large checkpoint, against boto3's own upload of the same file to the same server.

The server is a process of its own that takes S3's requests and keeps nothing, so that it is as fast as loopback is: what is
compared is the work of the two senders. They take turns, each with a file whose bytes were never sent before.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure

_ROOT = Path(__file__).parent.parent
_AGENT = _ROOT / "userdata/agent"
_MEBIBYTE = 1024 * 1024
_QUICK, _WHOLE = (256, 3), (1024, 5)  # MiB, and how often


def figures(quick: bool) -> list[Figure]:
    mebibytes, times = _QUICK if quick else _WHOLE
    size = mebibytes * _MEBIBYTE
    with tempfile.TemporaryDirectory() as folder, sink(Path(folder)) as endpoint:
        taken = [
            (_published(Path(folder), n, size, endpoint), _uploaded(Path(folder), n, size, endpoint))
            for n in range(times)
        ]
    ours, boto3s = (statistics.median(column) for column in zip(*taken, strict=True))
    return [
        Figure(
            "publishing",
            f"speed of publishing {mebibytes} MiB ÷ of boto3's upload",
            boto3s / ours,
            0.9,
            least=True,
            details={"seconds": {"ours": [o for o, _ in taken], "boto3": [b for _, b in taken]}},
        )
    ]


def _published(folder: Path, n: int, size: int, endpoint: str) -> float:
    """Seconds; in a process of its own, as the agent is one."""
    path = _fresh(folder / f"ours-{n}" / "step_1" / "model", size)
    command = [sys.executable, "-c", _PUBLISH, str(path.parents[1]), endpoint]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    path.unlink()
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_AGENT), "AWS_CA_BUNDLE": str(folder / "ca.pem")}


def _uploaded(folder: Path, n: int, size: int, endpoint: str) -> float:
    path = _fresh(folder / f"boto3-{n}" / "model", size)
    command = [sys.executable, "-c", _UPLOAD, str(path), endpoint]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    path.unlink()
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


_PUBLISH = """
import os, sys, time
from pathlib import Path
os.environ.update(AWS_ENDPOINT_URL=sys.argv[2], AWS_EC2_METADATA_DISABLED="true")
import scan, store
from botocore.credentials import Credentials
from checkpoints import Publisher
folder = Path(sys.argv[1])
bucket = store.Bucket(store.s3_client("us-east-1", Credentials("a", "b", "c"), path_style=True), "bench")
publisher = Publisher(bucket, "run", 1, folder)
files = scan.look(folder, ["step_1/model"])
bucket.put("warm", b"")
began = time.perf_counter()
publisher.publish(files, 1)
print(time.perf_counter() - began)
bucket.close()
"""
_UPLOAD = """
import sys, time, boto3
from botocore.config import Config
s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=sys.argv[2], aws_access_key_id="a", aws_secret_access_key="b",
    config=Config(s3={"addressing_style": "path"}))
s3.put_object(Bucket="bench", Key="warm", Body=b"")
began = time.perf_counter()
s3.upload_file(sys.argv[1], "bench", "model")
print(time.perf_counter() - began)
"""


def _fresh(path: Path, size: int) -> Path:
    """A file of random bytes; written through to the disk, so that neither sender pays for it."""
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(size // _MEBIBYTE):
            file.write(os.urandom(_MEBIBYTE))
        file.flush()
        os.fsync(file.fileno())
    return path


@contextlib.contextmanager
def sink(folder: Path) -> Iterator[str]:
    """The address of a sink; its certificate is in the folder (`environment`)."""
    command = [sys.executable, "-m", "benchmarks.sink", str(folder)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()
