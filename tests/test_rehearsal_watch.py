"""What a rehearsal sees of its trainers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

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
