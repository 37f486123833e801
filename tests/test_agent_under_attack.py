"""Checkpoints under attack (I4): S3 that is away in bursts, cuts and repeats; full disks, clocks that go back, agents at odds.

The agent's requests are recorded through a server in between, then each meets each kind of fault. `make test` tries some of them,
`make faults` all.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import checkpoints
import scan
import store
from api import Unreachable
from checkpoints import Publisher
from clock import Clock
from failures import Failure, ManifestConflict, TornCheckpoint
from logs import Log
from pulse import Pulse
from watcher import Watcher

from tests.conftest import TRIED
from tests.flaky import Flaky, Kind

EVERY = os.environ.get("SPOT_RELAY_FAULTS") == "all"
AGENT = Path(__file__).parent.parent / "userdata/agent"


@pytest.fixture(scope="module")
def server():
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    flaky = Flaky("http://{}:{}".format(*moto.get_host_and_port()))
    yield flaky
    flaky.close()
    moto.stop()


@pytest.fixture
def world(server, monkeypatch, tmp_path):
    """A bucket behind the flaky server; botocore tries again at once."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    made = World(server, tmp_path)
    yield made
    made.bucket.close()


class World:
    numbers = itertools.count()

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        server.arm()
        s3 = store.s3_client("us-east-1", Credentials("test", "test", "test"), path_style=True)
        name = f"attacked-{next(self.numbers)}"
        s3.create_bucket(Bucket=name)
        self.bucket = store.Bucket(s3, name)

    def publisher(self, run="r", attempt=1, directory="ckpt"):
        return Publisher(self.bucket, run, attempt, self.folder / directory)

    def save(self, step, directory="ckpt", content=None):
        """A trainer's save: what changes, what stays, and a file that goes in parts."""
        folder = self.folder / directory / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / "model").write_bytes(content or b"m%d" % step * 1000)
        (folder / "frozen").write_bytes(b"f" * 5000)
        (folder / "large").write_bytes(bytes([step % 256]) * (9 * 1024 * 1024))
        return scan.look(self.folder / directory, [f"step_{step}"])

    def restored(self, run, step, attempt=1, into="back"):
        """What is given back, by path; None when it is refused as torn."""
        try:
            _, path = checkpoints.restore(
                self.bucket, f"runs/{run}/checkpoints/{attempt:04d}/{step:012d}/", self.folder / into
            )
        except TornCheckpoint:
            return None
        return {p.name: p.read_bytes() for p in path.iterdir()}


# -- faults at every request ---------------------------------------------------------------------------------------------


def life(world, run):
    """Publish, publish again (unchanged files are copied), restore; whatever fails is done once more, as the agent does."""
    publisher = world.publisher(run)
    for step in (10, 20):
        files = scan.look(world.folder / "ckpt", [f"step_{step}"])
        again(lambda files=files, step=step: publisher.publish(files, step))
    return again(lambda: world.restored(run, 20, into=f"back-{run}"))


def again(act, times=60):
    """As the agent's threads do at their next round, whatever S3 says; botocore's own retries have a quota that is used up."""
    for _ in range(times - 1):
        try:
            return act()
        except (ClientError, BotoCoreError):
            continue
    return act()


@pytest.mark.parametrize("kind", Kind)
def test_a_fault_at_any_request_to_s3_loses_nothing(world, kind):
    for step in (10, 20):
        world.save(step)
    world.server.arm()
    expected = life(world, "calm")
    recorded = list(world.server.seen)
    assert len(recorded) > 12
    assert any("x-id" in seen or "partNumber" in seen for seen in recorded), recorded
    some = range(1, len(recorded) + 1) if EVERY else range(1 + list(Kind).index(kind) % 3, len(recorded) + 1, 4)
    for n in some:
        run = f"r{n}"
        world.server.arm(n, kind)
        assert life(world, run) == expected, f"{kind} at {recorded[n - 1]}"
        TRIED["agent faults"] = TRIED.get("agent faults", 0) + 1
        TRIED["agent requests"] = TRIED.get("agent requests", set()) | {
            recorded[n - 1].split("?")[0].rpartition("/")[0]
        }


def test_while_s3_is_away_nothing_exists_and_afterwards_all_of_it(world):
    files = world.save(10)
    publisher = world.publisher()
    world.server.arm(1, Kind.LONG_BURST)
    with pytest.raises(Exception, match=r"SlowDown|503"):
        publisher.publish(files, 10)
    world.server.arm()
    assert world.restored("r", 10) is None
    publisher.publish(files, 10)
    assert world.restored("r", 10)["model"] == b"m10" * 1000


# -- disks and clocks ---------------------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_told_in_a_sentence_and_left_clean(world, tmp_path):
    """The kernel refuses a file beyond the limit, as a full disk refuses any."""
    world.publisher().publish(world.save(10), 10)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(AGENT)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, {hard}))
import checkpoints, store
from failures import Failure
from pathlib import Path
from botocore.credentials import Credentials
bucket = store.Bucket(store.s3_client("us-east-1", Credentials("t", "t", "t"), path_style=True), {world.bucket.name!r})
try:
    checkpoints.restore(bucket, "runs/r/checkpoints/0001/000000000010/", Path({str(tmp_path / "full")!r}))
except Failure as failure:
    print(failure.reason, failure.message)
bucket.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(
        "checkpoint_dir The disk has no room for runs/r/checkpoints/0001/000000000010/step_10/large"
    ), done
    assert "resources.disk_gb" in done.stdout
    assert list((tmp_path / "full").iterdir()) == []


def test_a_log_that_can_not_be_written_stops_neither_pulse_nor_courier(capsys):
    log = Log(Path("/dev/full"), Clock(), lambda text: text)
    log.say("the disk is full")
    assert "the disk is full" in capsys.readouterr().out
    log.close()


class Back(Clock):
    """The wall clock goes back by an hour; the monotonic one can't."""

    def now(self):
        return datetime.now(UTC) - timedelta(hours=1)


def test_a_clock_that_goes_back_lengthens_no_notice():
    ends_at = datetime.now(UTC) + timedelta(seconds=90)
    imds = SimpleNamespace(ends_at=lambda: ends_at, rebalance=lambda: False)
    pulse = Pulse(lambda *_: {"action": "continue"}, imds, Back(), lambda _: None, lambda _: None, lambda _: None)
    pulse.once()
    assert pulse.noticed
    assert pulse.seconds_left() <= 120


class Turned(Clock):
    """The monotonic clock is turned by hand."""

    def __init__(self):
        super().__init__()
        self.passed = 0.0

    def monotonic(self):
        return self.passed


def test_a_notice_that_runs_out_while_a_heartbeat_hangs_is_minded_all_the_same():
    clock = Turned()
    seen_at = datetime.now(UTC)
    imds = SimpleNamespace(ends_at=lambda: seen_at + timedelta(seconds=120), rebalance=lambda: False)
    wishes = []

    def hangs(*_):
        """The main thread looks meanwhile, with more and with less than the margin left."""
        for clock.passed in (60.0, 100.0):
            wishes.append(pulse.wish)
        raise Unreachable

    pulse = Pulse(hangs, imds, clock, lambda _: None, lambda _: None, lambda _: None)
    pulse.once()
    assert wishes == ["", "drain"]
    assert pulse.reason == "spot_interruption"


def test_a_save_whose_times_go_back_is_published_all_the_same(world):
    directory = world.folder / "ckpt"
    told = []
    watcher = Watcher(world.publisher(), None, Clock(), lambda: None, lambda m, _: told.append(m.step), print)
    for step, age in ((10, 0), (20, 86400)):
        world.save(step)
        for path in (directory / f"step_{step}").iterdir():
            os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
        watcher.look()
        watcher.look()
    assert told == [10, 20]
    assert world.restored("r", 20)["model"] == b"m20" * 1000


# -- many files, two agents ---------------------------------------------------------------------------------------------------


def test_a_thousand_small_files_come_back_as_they_were(world):
    folder = world.folder / "ckpt/step_1"
    folder.mkdir(parents=True)
    for n in range(1000):
        (folder / f"{n:04d}").write_text(str(n))
    world.publisher().publish(scan.look(world.folder / "ckpt", ["step_1"]), 1)
    back = world.restored("r", 1)
    assert len(back) == 1000
    assert all(body == str(int(name)).encode() for name, body in back.items())


def test_of_two_agents_at_once_one_is_believed_and_no_mixture_is_restored(world):
    """The same attempt claimed twice, each with a model of its own: the second manifest is refused, whoever is second."""
    files = {name: world.save(10, name, name.encode() * 2000) for name in ("a", "b")}
    refused = []

    def publish(name):
        try:
            world.publisher(directory=name).publish(files[name], 10)
        except ManifestConflict:
            refused.append(name)

    threads = [threading.Thread(target=publish, args=(name,)) for name in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    back = world.restored("r", 10)
    (winner,) = set(files) - set(refused)
    assert back is None or back["model"] == winner.encode() * 2000


def test_a_manifest_without_files_is_torn():
    body = {"step": 1, "attempt": 1, "parent": None, "final": False, "files": []}
    with pytest.raises(TornCheckpoint, match="names no files"):
        checkpoints.parse(json.dumps(body).encode())
    assert issubclass(Failure, Exception)
