"""What a rehearsal sees of its trainers, and of the bucket in which the sweep may be pruning."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spotrelay.rehearsal.judge import read_all
from spotrelay.rehearsal.watch import Watch


def test_a_step_that_is_seen_late_has_the_time_at_which_it_was_written(tmp_path: Path) -> None:
    class Control:
        def instances(self) -> list[dict[str, Any]]:
            tags = {"spot-relay:run": "job", "spot-relay:attempt": "1"}
            return [{"id": "i-1", "tags": tags, "folder": str(tmp_path)}]

    progress = tmp_path / "root/home/ubuntu/work/progress.jsonl"
    progress.parent.mkdir(parents=True)
    progress.write_text("".join(json.dumps({"step": step}) + "\n" for step in (10, 20)))
    an_hour_ago = time.time() - 3600
    os.utime(progress, (an_hour_ago, an_hour_ago))
    control: Any = Control()
    watch = Watch(control, "job", ["progress.jsonl"]).start()
    until = time.monotonic() + 10
    while watch.last(1) < 20 and time.monotonic() < until:
        time.sleep(0.01)
    watch.stop()
    trained = watch.trained[1]
    assert trained.steps == [10, 20]
    assert all(time.monotonic() - at >= 3600 for at in trained.seen_at)


def test_a_checkpoint_that_is_pruned_while_the_bucket_is_read_is_not_half_of_what_is_seen(
    aws: Callable[[str], Any],
) -> None:
    s3 = aws("s3")
    s3.create_bucket(Bucket="relay-test")
    keys = [f"runs/job/checkpoints/0001/{step:012d}/{name}" for step in (5, 10) for name in ("MANIFEST.json", "model")]
    for key in keys:
        s3.put_object(Bucket="relay-test", Key=key, Body=b"{}")
    left = list(keys[:2])

    def prune(params: dict[str, Any], **_: Any) -> None:
        if params["url_path"].endswith(keys[1]):  # the manifest has been read
            while left:
                s3.delete_object(Bucket="relay-test", Key=left.pop())

    s3.meta.events.register("before-call.s3.GetObject", prune)
    assert sorted(read_all(s3, "relay-test", "runs/job/")) == keys[2:]
    assert not left
