"""Checkpoints of the largest kinds, through the agent's own process against a server that keeps nothing (`make faults`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.publishing import environment, sink

pytestmark = pytest.mark.skipif(
    os.environ.get("SPOT_RELAY_FAULTS") != "all", reason="make faults takes the time for it"
)

PUBLISH = """
import os, sys
from pathlib import Path
os.environ.update(AWS_ENDPOINT_URL=sys.argv[2], AWS_EC2_METADATA_DISABLED="true")
import scan, store
from botocore.credentials import Credentials
from checkpoints import Publisher
folder = Path(sys.argv[1])
bucket = store.Bucket(store.s3_client("us-east-1", Credentials("a", "b", "c"), path_style=True), "bench")
made = Publisher(bucket, "run", 1, folder).publish(scan.look(folder, ["step_1"]), 1)
bucket.close()
# Not getrusage: its maximum has that of the process in it that began this one.
most = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(len(made.files), sum(f.bytes for f in made.files), int(most.split()[1]) // 1024)
"""
MOST_MB = 200  # at once: ten parts of 8 MiB each may be on their way, read and encrypted


def published(folder: Path) -> tuple[int, int, int]:
    """Files, bytes, and the most memory in MB."""
    with sink(folder) as endpoint:
        command = [sys.executable, "-c", PUBLISH, str(folder / "ckpt"), endpoint]
        done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr
    files, size, memory = map(int, done.stdout.split())
    return files, size, memory


def test_a_file_larger_than_s3_takes_in_one_piece_is_published_in_little_memory(tmp_path: Path) -> None:
    size = 5 * 1024**3 + 1
    (tmp_path / "ckpt/step_1").mkdir(parents=True)
    with (tmp_path / "ckpt/step_1/model").open("wb") as file:
        file.truncate(size)
    files, sent, memory = published(tmp_path)
    assert (files, sent) == (1, size)
    assert memory < MOST_MB


def test_ten_thousand_small_files_are_published_in_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt/step_1"
    folder.mkdir(parents=True)
    for n in range(10_000):
        (folder / f"{n:05d}").write_text(str(n))
    files, _, memory = published(tmp_path)
    assert files == 10_000
    assert memory < MOST_MB
