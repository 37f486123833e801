"""I4, whole checkpoints: what is published can be restored to the byte, and nothing else is restored."""

import json
import sys
import types
from pathlib import Path

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parent.parent / "userdata/agent"))

import checkpoints
import scan
import store
from checkpoints import Publisher, Ref
from clock import Clock
from failures import Failure, ManifestConflict, TornCheckpoint
from leg import Leg
from watcher import Watcher

BUCKET = "relay-test"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch, request):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = store.s3_client("us-east-1", Credentials("test", "test", "test"), path_style=True)
    name = f"{BUCKET}-{abs(hash(request.node.name)) % 10**8}"
    s3.create_bucket(Bucket=name)
    made = store.Bucket(s3, name)
    yield made
    made.close()
    s3.close()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoints"
    (path / "step_10/optimizer").mkdir(parents=True)
    (path / "step_10/model.bin").write_bytes(b"m" * 1000)
    (path / "step_10/optimizer/state").write_bytes(b"o" * 10)
    return path


def publisher(bucket, folder, attempt=1):
    return Publisher(bucket, "r", attempt, folder)


def test_a_published_checkpoint_is_restored_to_the_byte(bucket, folder, tmp_path):
    manifest = publisher(bucket, folder).publish(scan.look(folder, ["step_10"]), 10)
    assert {f.path for f in manifest.files} == {"step_10/model.bin", "step_10/optimizer/state"}
    found, path = checkpoints.restore(bucket, "runs/r/checkpoints/0001/000000000010/", tmp_path / "new")
    assert found == manifest
    assert path == tmp_path / "new/step_10"
    assert (path / "model.bin").read_bytes() == b"m" * 1000
    assert (path / "optimizer/state").read_bytes() == b"o" * 10
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["step_10"]


def test_a_large_file_goes_in_parts_and_comes_back(bucket, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    content = bytes(range(256)) * (20 * 4096)
    (folder / "snapshot.pt").write_bytes(content)
    publisher(bucket, folder).publish(scan.look(folder, ["snapshot.pt"]), 3)
    _, path = checkpoints.restore(bucket, "runs/r/checkpoints/0001/000000000003/", tmp_path / "new")
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone", "no manifest"])
def test_a_torn_checkpoint_is_never_restored(bucket, folder, tmp_path, damage):
    publisher(bucket, folder).publish(scan.look(folder, ["step_10"]), 10)
    prefix = "runs/r/checkpoints/0001/000000000010/"
    if damage == "changed":
        bucket.put(prefix + "step_10/model.bin", b"x" * 1000)
    elif damage == "shorter":
        bucket.put(prefix + "step_10/model.bin", b"m" * 999)
    else:
        name = "step_10/model.bin" if damage == "gone" else "MANIFEST.json"
        bucket.s3.delete_object(Bucket=bucket.name, Key=prefix + name)
    with pytest.raises(TornCheckpoint):
        checkpoints.restore(bucket, prefix, tmp_path / "new")
    assert not (tmp_path / "new").exists() or list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "a\\b", ".", ""])
def test_a_manifest_with_an_unsafe_path_is_torn(path):
    body = {
        "step": 1,
        "attempt": 1,
        "parent": None,
        "final": False,
        "files": [{"path": path, "bytes": 0, "sha256": ""}],
    }
    with pytest.raises(TornCheckpoint):
        checkpoints.parse(json.dumps(body).encode())


def test_our_own_retry_finds_its_manifest_and_is_content(bucket, folder):
    files = scan.look(folder, ["step_10"])
    first = publisher(bucket, folder).publish(files, 10)
    assert publisher(bucket, folder).publish(files, 10) == first


def test_another_manifest_in_our_place_is_not_overwritten(bucket, folder):
    publisher(bucket, folder).publish(scan.look(folder, ["step_10"]), 10)
    (folder / "step_10/model.bin").write_bytes(b"other")
    with pytest.raises(ManifestConflict):
        publisher(bucket, folder).publish(scan.look(folder, ["step_10"]), 10)


def test_a_file_that_changes_meanwhile_makes_no_checkpoint(bucket, folder, monkeypatch):
    files = scan.look(folder, ["step_10"])
    upload = bucket.upload

    def upload_and_change(path, key):
        upload(path, key)
        (folder / "step_10/model.bin").write_bytes(b"n" * 1000)

    monkeypatch.setattr(bucket, "upload", upload_and_change)
    with pytest.raises(scan.Changed):
        publisher(bucket, folder).publish(files, 10)
    assert bucket.get("runs/r/checkpoints/0001/000000000010/MANIFEST.json") is None


def test_unchanged_files_are_copied_inside_s3(bucket, folder, monkeypatch):
    made = publisher(bucket, folder)
    made.publish(scan.look(folder, ["step_10"]), 10)
    (folder / "step_20").mkdir()
    (folder / "step_20/model.bin").write_bytes(b"m" * 1000)
    (folder / "step_20/new").write_bytes(b"n")
    sent = []
    upload = bucket.upload
    monkeypatch.setattr(bucket, "upload", lambda path, key: (sent.append(key.rpartition("/")[2]), upload(path, key)))
    manifest = made.publish(scan.look(folder, ["step_20"]), 20)
    assert sent == ["new"]
    assert manifest.parent == Ref(1, 10)
    assert bucket.get("runs/r/checkpoints/0001/000000000020/step_20/model.bin") == b"m" * 1000


def test_links_are_no_part_of_a_checkpoint(folder):
    (folder / "step_10/link").symlink_to("/etc/passwd")
    assert "step_10/link" not in {file.path for file in scan.look(folder, ["step_10"])}


class Watched:
    def __init__(self, bucket, folder, step=None):
        self.published = []
        self.watcher = Watcher(
            publisher(bucket, folder),
            None,
            Clock(),
            lambda: step,
            lambda manifest, seconds: self.published.append((manifest.step, manifest.final)),
            print,
        )


def test_a_checkpoint_is_published_only_when_two_looks_agree(bucket, folder):
    watched = Watched(bucket, folder)
    watched.watcher.look()
    assert watched.published == []
    (folder / "step_10/model.bin").write_bytes(b"grows" * 1000)
    watched.watcher.look()
    assert watched.published == []
    watched.watcher.look()
    watched.watcher.look()
    assert watched.published == [(10, False)]


def test_what_was_there_before_training_is_not_published_again(bucket, folder):
    watched = Watched(bucket, folder)
    watched.watcher.begin(10)
    assert watched.watcher.look(settled=True, final=True) is None
    (folder / "step_20").mkdir()
    (folder / "step_20/model").write_bytes(b"2")
    watched.watcher.look(settled=True, final=True)
    assert watched.published == [(20, True)]


def test_a_name_without_a_step_takes_the_trainers_own(bucket, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "snapshot.pt").write_bytes(b"1")
    watched = Watched(bucket, folder, step=40)
    watched.watcher.look(settled=True)
    (folder / "snapshot.pt").write_bytes(b"22")
    watched.watcher.look(settled=True)
    assert watched.published == [(40, False), (41, False)]


def test_clients_pick_up_renewed_credentials():
    credentials = store.ScopedCredentials({"access_key_id": "a", "secret_access_key": "b", "session_token": "c"})
    credentials.replace({"access_key_id": "d", "secret_access_key": "e", "session_token": "f"})
    assert tuple(credentials.get_frozen_credentials())[:3] == ("d", "e", "f")


def test_a_refusal_of_s3_is_raised(bucket, folder):
    made = Publisher(store.Bucket(bucket.s3, "no-such-bucket-here"), "r", 1, folder)
    with pytest.raises((ClientError, Exception), match="NoSuchBucket"):
        made.publish(scan.look(folder, ["step_10"]), 10)
    made.bucket.close()


def test_a_folder_that_never_appears_ends_the_attempt_with_a_sentence(tmp_path):
    leg = Leg.__new__(Leg)
    leg.clock = Clock(scale=1.0)
    leg.watcher = types.SimpleNamespace(appeared=lambda: (tmp_path / "there").exists())
    leg.plan = types.SimpleNamespace(get=lambda *path: {"resume": "--resume {checkpoint}", "dir": "models/x"}[path[-1]])
    leg.trained_since = leg.clock.monotonic() - 60
    leg._require_directory()  # too early to say
    leg.trained_since -= 1800
    with pytest.raises(Failure, match="no folder 'models/x'") as failure:
        leg._require_directory()
    assert failure.value.reason == "checkpoint_dir"
    (tmp_path / "there").mkdir()
    leg._require_directory()
