"""Publishing checkpoints to the bucket and restoring them. The manifest is put last, and makes a checkpoint exist.

Nothing is overwritten and nothing is deleted. Files whose bytes were published before by this attempt, or came with the
checkpoint it started from, are copied inside S3 and not sent again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import beneath
import scan
from failures import Failure, ManifestConflict, TornCheckpoint
from s3transfer.exceptions import S3DownloadFailedError
from scan import Changed, Found, Signature
from store import Bucket

MANIFEST = "MANIFEST.json"
_SMALL = 8 * 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_ONCE = 8  # files that are restored at the same time
_LONGEST_PATH = 800  # a key has 1024 bytes at most


@dataclass(frozen=True, slots=True)
class Ref:
    attempt: int
    step: int


@dataclass(frozen=True, slots=True)
class File:
    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    step: int
    attempt: int
    parent: Ref | None
    final: bool
    files: tuple[File, ...]

    def to_json(self) -> bytes:
        parent = {"attempt": self.parent.attempt, "step": self.parent.step} if self.parent else None
        files = [{"path": f.path, "bytes": f.bytes, "sha256": f.sha256} for f in self.files]
        document = {
            "step": self.step,
            "attempt": self.attempt,
            "parent": parent,
            "final": self.final,
            "files": files,
        }
        return json.dumps(document, indent=1).encode()


def prefix_of(run: str, attempt: int, step: int) -> str:
    return f"runs/{run}/checkpoints/{attempt:04d}/{step:012d}/"


def parse(body: bytes) -> Manifest:
    """A manifest from its bytes. Raises TornCheckpoint for anything that isn't one, or names a path outside of itself."""
    try:
        document: Any = json.loads(body)
        files = tuple(File(str(f["path"]), int(f["bytes"]), str(f["sha256"])) for f in document["files"])
        parent = document.get("parent")
        manifest = Manifest(
            int(document["step"]),
            int(document["attempt"]),
            Ref(int(parent["attempt"]), int(parent["step"])) if parent else None,
            bool(document["final"]),
            files,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TornCheckpoint(f"The manifest can't be read: {error!r}.") from error
    if not manifest.files:
        raise TornCheckpoint("The manifest names no files.")
    names = {file.path for file in manifest.files}
    for file in manifest.files:
        folders = {str(folder) for folder in PurePosixPath(file.path).parents}
        if not is_safe(file.path) or folders & names or len(names) < len(manifest.files):
            raise TornCheckpoint(f"The manifest names an unsafe path: {file.path[:200]!r}.")
    return manifest


def is_safe(path: str) -> bool:
    """Whether a file of this path may be in a checkpoint: it stays inside, and every system and S3 can take it."""
    parts = PurePosixPath(path).parts
    return (
        path not in ("", ".", MANIFEST)
        and str(PurePosixPath(path)) == path
        and not path.startswith("/")
        and ".." not in parts
        and "\\" not in path
        and all(character.isprintable() for character in path)
        and max(len(part.encode("utf-8", "replace")) for part in parts) <= 255
        and len(path.encode("utf-8", "replace")) <= _LONGEST_PATH
    )


@dataclass(slots=True)
class _Known:
    """Where bytes already are in the bucket, to copy them from."""

    key: str
    bytes: int


@dataclass
class Publisher:
    """Publishes the checkpoints of one attempt. Used by one thread at a time."""

    bucket: Bucket
    run: str
    attempt: int
    directory: Path
    parent: Ref | None = None
    _known: dict[str, _Known] = field(default_factory=dict)  # by sha256
    _samples: dict[str, str] = field(default_factory=dict)  # cheap fingerprint → sha256

    def remember(self, manifest: Manifest, prefix: str) -> None:
        """The files of a checkpoint in the bucket that are also on this disk, so that unchanged ones are copied."""
        for file in manifest.files:
            self._known[file.sha256] = _Known(prefix + file.path, file.bytes)
            if (self.directory / file.path).is_file():
                found = scan.look(self.directory, [file.path])
                if found and found[0].bytes == file.bytes:
                    self._samples[scan.sample(self.directory, found[0])] = file.sha256

    def publish(self, files: Signature, step: int, final: bool = False) -> Manifest:
        """Upload `files` as the checkpoint of `step`, manifest last.

        Raises Changed if a file changed meanwhile (nothing exists then; look again later), and ManifestConflict if the
        step was published before with other content.
        """
        odd = next((file.path for file in files if not is_safe(file.path)), None)
        if odd is not None:
            # Restoring would refuse the whole checkpoint (I4).
            raise ManifestConflict(f"Step {step} is not published: it has a file of the name {odd[:200]!r}.")
        prefix = prefix_of(self.run, self.attempt, step)
        with ThreadPoolExecutor(max_workers=4, thread_name_prefix="publish") as pool:
            sent = tuple(pool.map(lambda file: self._send(file, prefix), files))
        if any(not scan.still(self.directory, file) for file in files):
            raise Changed(files[0].path)
        manifest = Manifest(step, self.attempt, self.parent, final, sent)
        if not self.bucket.put_new(prefix + MANIFEST, manifest.to_json(), "application/json"):
            self._compare(manifest, prefix)
        self._known.clear()
        self._samples.clear()
        self.remember(manifest, prefix)
        self.parent = Ref(self.attempt, step)
        return manifest

    def _compare(self, ours: Manifest, prefix: str) -> None:
        """412: a retry of our own request that had succeeded unseen is fine; anything else is not ours to replace."""
        theirs = parse(self.bucket.get(prefix + MANIFEST) or b"")
        if (theirs.attempt, theirs.step, theirs.files) != (ours.attempt, ours.step, ours.files):
            raise ManifestConflict(
                f"Step {ours.step} of attempt {ours.attempt} was published before, with other files."
            )

    def _send(self, file: Found, prefix: str) -> File:
        key = prefix + file.path
        digest = ""
        # Hashing a small file first costs nothing; a large one is hashed first only if it looks unchanged, otherwise
        # while it is being sent, so that publishing is as fast as the upload.
        if file.bytes <= _SMALL or scan.sample(self.directory, file) in self._samples:
            digest = scan.sha256(self.directory, file)
            known = self._known.get(digest)
            if known and (known.key == key or self.bucket.copy(known.key, key, file.bytes)):
                return File(file.path, file.bytes, digest)
        if digest:
            self._upload(file, key)
            return File(file.path, file.bytes, digest)
        hashed: list[str] = []
        failed: list[BaseException] = []

        def hash_it() -> None:
            try:
                hashed.append(scan.sha256(self.directory, file))
            except BaseException as error:
                failed.append(error)

        hashing = threading.Thread(target=hash_it, name="hash", daemon=True)
        hashing.start()
        try:
            self._upload(file, key)
        finally:
            hashing.join()
        if failed:
            raise failed[0]
        return File(file.path, file.bytes, hashed[0])

    def _upload(self, file: Found, key: str) -> None:
        with scan.opened(self.directory, file) as descriptor:
            self.bucket.upload(beneath.name_of(descriptor, self.directory / file.path), key)


def restore(bucket: Bucket, prefix: str, directory: Path) -> tuple[Manifest, Path]:
    """Download a checkpoint, verify every byte, then move it into place. Gives its manifest and its path on disk.

    Raises TornCheckpoint when the manifest or any file is missing, longer, shorter or different (I4), and Failure when the
    disk has no room for it: then nothing is left behind in `directory`.
    """
    body = bucket.get(prefix + MANIFEST)
    if body is None:
        raise TornCheckpoint(f"{prefix} has no manifest.")
    manifest = parse(body)
    directory.mkdir(parents=True, exist_ok=True)
    # Inside the checkpoint directory, so that the move is a rename; the dot keeps it from being taken for a checkpoint. A new
    # folder of a name that nobody knew: what the repository holds can't be in its place.
    temporary = Path(tempfile.mkdtemp(prefix=".restore-", dir=directory))
    temporary.chmod(0o755)
    try:
        # At once, as S3 takes tens of milliseconds for each, and all training waits.
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="restore") as pool:
            for fetched in [pool.submit(_fetch, bucket, prefix, file, temporary) for file in manifest.files]:
                try:
                    fetched.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        for entry in sorted(temporary.iterdir()):
            place = directory / entry.name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)  # a folder can't take the place of a link
            entry.replace(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest, directory / main_entry(manifest)


def _fetch(bucket: Bucket, prefix: str, file: File, into: Path) -> None:
    """Download one file and verify it. Raises TornCheckpoint, and Failure when the disk has no room for it."""
    target = into / file.path
    try:
        bucket.download(prefix + file.path, target)
    except S3DownloadFailedError as error:
        raise TornCheckpoint(f"{file.path} changed while it was read: {error}.") from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise Failure(
            "checkpoint_dir",
            f"The disk has no room for {prefix}{file.path}, {file.bytes:,} bytes: choose a larger resources.disk_gb.",
        ) from error
    except Exception as error:
        if _missing(error):
            raise TornCheckpoint(f"{file.path} is missing.") from error
        raise
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if target.stat().st_size != file.bytes or digest != file.sha256:
        raise TornCheckpoint(f"{file.path} differs from its manifest.")


def main_entry(manifest: Manifest) -> str:
    """The entry to resume from: the one that is a checkpoint, not what was saved beside it."""
    names = sorted({PurePosixPath(file.path).parts[0] for file in manifest.files})
    beside = [name for name in names if "_replay_buffer_" in name or "_vecnormalize_" in name]
    return next((name for name in names if name not in beside), names[0])


def _missing(error: Exception) -> bool:
    response: Any = getattr(error, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") in ("404", "NoSuchKey")
