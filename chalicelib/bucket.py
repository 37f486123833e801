"""The bucket as the controller sees it: which checkpoints are whole, and what runs left. Agents write; only this prunes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.core.frozen import dataclass
from chalicelib.core.model import Counted, Run

_MOST_METRICS = 1024 * 1024
_MANIFEST = "MANIFEST.json"
_MOST_DELETED = 1000  # keys in a DeleteObjects request


@dataclass(frozen=True)
class Source:
    """The stored source of a run and the commit it is of."""

    key: str
    commit: str | None


def run_prefix(run: str) -> str:
    return f"runs/{run}/"


def checkpoint_prefix(run: str, attempt: int, step: int) -> str:
    return f"{run_prefix(run)}checkpoints/{attempt:04d}/{step:012d}/"


class Bucket:
    def __init__(self, s3: Any, name: str) -> None:
        self._s3 = s3
        self.name = name

    def put_spec(self, run: str, spec: dict[str, Any]) -> None:
        body = json.dumps(spec, indent=1).encode()
        self._s3.put_object(
            Bucket=self.name, Key=f"{run_prefix(run)}spec.json", Body=body, ContentType="application/json"
        )

    def holds(self, run: str) -> bool:
        """Whether there is anything of a run of this name."""
        return bool(self._s3.list_objects_v2(Bucket=self.name, Prefix=run_prefix(run), MaxKeys=1).get("Contents"))

    def source(self, run: str) -> Source | None:
        """The source that the first attempt stored, if one did."""
        key = f"{run_prefix(run)}source.tar.gz"
        head = self._head(key)
        return Source(key, head.get("Metadata", {}).get("commit")) if head else None

    def published(self, run: Run, before: int) -> tuple[Counted, ...]:
        """The newest whole checkpoint of each attempt below `before`; attempts that are fixed already are not asked."""
        fixed = {c.attempt for c in run.counted}
        found = []
        for number in range(1, before):
            if number not in fixed:
                newest = next(self.whole(run.name, number), None)
                if newest is not None:
                    found.append(Counted(number, newest))
        return tuple(found)

    def restorable(self, run: Run, most: int = 10) -> list[Counted]:
        """Whole checkpoints that count, newest first: what to restore, and what instead should it be torn."""
        found: list[Counted] = []
        for last in sorted(run.counted, key=lambda c: -c.attempt):
            if last.step < 0:
                continue
            for step in self.whole(run.name, last.attempt, last.step):
                found.append(Counted(last.attempt, step))
                if len(found) == most:
                    return found
        return found

    def whole(self, run: str, attempt: int, at_most: int | None = None) -> Iterator[int]:
        """Steps of the attempt's whole checkpoints, newest first."""
        for step in sorted(self._steps(run, attempt), reverse=True):
            if at_most is not None and step > at_most:
                continue
            if self._head(checkpoint_prefix(run, attempt, step) + _MANIFEST):
                yield step

    def attempts(self, run: str) -> list[int]:
        """Attempts that have begun to write checkpoints."""
        return sorted(self._numbers(f"{run_prefix(run)}checkpoints/"))

    def newest(self, run: str, what: str) -> int | None:
        """The newest attempt that has left some of it: `results` or `logs`."""
        return max(self._numbers(f"{run_prefix(run)}{what}/"), default=None)

    def listed(self, prefix: str, after: str, most: int) -> tuple[list[tuple[str, int]], bool]:
        """What comes after a name: names under the prefix with their bytes, at most so many; and whether there are more."""
        page = self._s3.list_objects_v2(Bucket=self.name, Prefix=prefix, StartAfter=prefix + after, MaxKeys=most)
        return _named(page, prefix), bool(page.get("IsTruncated"))

    def all_listed(self, prefix: str) -> list[tuple[str, int]]:
        """Every name under the prefix, with its bytes."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [each for page in pages for each in _named(page, prefix)]

    def read(self, key: str, first: int, most: int) -> bytes:
        """At most so many bytes from one on, which must be there."""
        span = f"bytes={first}-{first + most - 1}"
        return bytes(self._s3.get_object(Bucket=self.name, Key=key, Range=span)["Body"].read())

    def signed(self, key: str, valid: timedelta) -> str:
        """A URL by which anybody may fetch it for so long. Asks nothing of S3."""
        return str(
            self._s3.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": key}, ExpiresIn=int(valid.total_seconds())
            )
        )

    def prune(self, run: Run, keep: int) -> list[Counted]:
        """Delete all but the newest `keep` checkpoints of the run, and what was begun before a newer whole one.

        What does not count (published after the baton moved on) goes too. Gives what was deleted.
        """
        fixed = {c.attempt: c.step for c in run.counted}
        kept, gone = 0, []
        for number in reversed(self.attempts(run.name)):
            seen_whole, going = False, []
            for step in sorted(self._steps(run.name, number), reverse=True):
                is_whole = bool(self._head(checkpoint_prefix(run.name, number, step) + _MANIFEST))
                counts = step <= fixed.get(number, step)
                if is_whole and counts and kept < keep:
                    kept, seen_whole = kept + 1, True
                elif kept >= keep or (not counts and kept) or (not is_whole and seen_whole):
                    going.append(step)
            if going:
                self._delete(run.name, number, going)
                gone += [Counted(number, step) for step in going]
        return gone

    def metrics(self, run: str, attempt: int, name: str) -> dict[str, Any] | None:
        """The metrics file among an attempt's results; None when there is none, or it is no JSON object up to 1 MiB."""
        key = f"{run_prefix(run)}results/{attempt:04d}/{name}"
        try:
            answer = self._s3.get_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if _missing(error):
                return None
            raise
        if answer["ContentLength"] > _MOST_METRICS:
            return None
        try:
            document = json.loads(answer["Body"].read())
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    def _steps(self, run: str, attempt: int) -> list[int]:
        return self._numbers(f"{run_prefix(run)}checkpoints/{attempt:04d}/")

    def _numbers(self, prefix: str) -> list[int]:
        """Folders named by a number. With a delimiter a checkpoint of 10,000 files is one line of the answer."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        names = (p["Prefix"][len(prefix) :].rstrip("/") for page in pages for p in page.get("CommonPrefixes", []))
        return [int(name) for name in names if name.isascii() and name.isdecimal()]

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self._s3.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if _missing(error):
                return None
            raise
        return head

    def _delete(self, run: str, attempt: int, steps: list[int]) -> None:
        # The manifests first: from then on the checkpoints do not exist, however far the rest gets.
        folders = tuple(checkpoint_prefix(run, attempt, step) for step in steps)
        for folder in folders:
            self._s3.delete_object(Bucket=self.name, Key=folder + _MANIFEST)
        # Every version: what is hidden behind a delete marker would be charged for days. One list for all, since lists cost
        # as much as uploads.
        within = folders[0] if len(folders) == 1 else f"{run_prefix(run)}checkpoints/{attempt:04d}/"
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=within)
        for page in pages:
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            versions = [
                {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                for entry in found
                if entry["Key"].startswith(folders)
            ]
            for first in range(0, len(versions), _MOST_DELETED):
                batch = versions[first : first + _MOST_DELETED]
                self._s3.delete_objects(Bucket=self.name, Delete={"Objects": batch, "Quiet": True})


def _named(page: dict[str, Any], prefix: str) -> list[tuple[str, int]]:
    return [(item["Key"][len(prefix) :], int(item["Size"])) for item in page.get("Contents", [])]


def _missing(error: ClientError) -> bool:
    return error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound")
