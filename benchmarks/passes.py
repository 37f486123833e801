"""What a pass of the sweep costs over many live runs that are well, each heard of lately: AWS calls, and how its time grows.

Each size is measured in a process of its own, with moto's table put out of the garbage collector's sight, since its thousands
of items are no part of a Lambda. Time is the process' own, without moto's; EC2's list comes as botocore would have read it.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moto import mock_aws

from benchmarks.figure import Figure
from benchmarks.metered import processor
from chalicelib.core.model import Policy
from chalicelib.upkeep import whole_pass
from tests.conftest import make_table
from tests.crowd import Crowd
from tests.hooks import aws

_ROOT = Path(__file__).parent.parent
_REPEATS = 3


def figures(runs: int) -> list[Figure]:
    small, large = _measured(runs // 10), _measured(runs)
    per_run = [statistics.median(each["seconds"]) / each["runs"] for each in (small, large)]
    return [
        Figure("calls", f"AWS calls of a pass over {runs:,} live runs", large["calls"], 40 + runs / 100),
        Figure(
            "growth",
            f"time a run over {runs:,} live runs ÷ over {runs // 10:,}",
            per_run[1] / per_run[0],
            1.5,
            details={"small": small, "large": large},
        ),
    ]


def _measured(runs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.passes", str(runs)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(runs: int) -> dict[str, Any]:
    """Here: the calls of a whole pass, and the seconds of several."""
    with patch.dict(os.environ, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"), mock_aws():
        make_table(aws("dynamodb"))
        crowd = Crowd(runs, page=1000)
        whole_pass(crowd.c).check()
        crowd.clock.now += Policy().silence
        crowd.hear(runs)
        crowd.clock.now += Policy().silence / 3
        crowd.calls.clear()
        report = whole_pass(crowd.c)
        report.check()
        assert report.looked_after == 0
        calls = len(crowd.calls)
        return {"runs": runs, "calls": calls, "seconds": [_seconds(crowd) for _ in range(_REPEATS)]}


def _seconds(crowd: Crowd) -> float:
    """Of this process, in a whole pass, without what moto takes to answer."""
    gc.collect()
    gc.freeze()
    with processor() as taken:
        whole_pass(crowd.c).check()
    return taken[0]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
