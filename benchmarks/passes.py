"""What a pass of the sweep costs over many live runs that are well, each heard of lately: AWS calls, and how its time grows.

Time is this process' own, without moto's: what is measured is the pass' work on answers that are there already.
"""

from __future__ import annotations

import os
import time
from unittest.mock import patch

from moto import mock_aws

from benchmarks.figure import Figure
from chalicelib.core.model import Policy
from chalicelib.glances import Glance
from chalicelib.instances import Instance
from chalicelib.sweep import sweep
from chalicelib.upkeep import Upkeep, whole_pass
from tests.conftest import make_table
from tests.core_world import START
from tests.crowd import Crowd
from tests.hooks import aws


def figures(runs: int) -> list[Figure]:
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
        seen = list(crowd.c.store.glances())
        tenth = _seconds(crowd, seen[: runs // 10])
        whole = _seconds(crowd, seen)
    return [
        Figure(f"AWS calls of a pass over {runs:,} live runs", calls, 40 + runs / 100),
        Figure(f"time a run over {runs:,} runs ÷ over {runs // 10:,}", whole / tenth / 10, 1.5),
    ]


def _seconds(crowd: Crowd, seen: list[Glance]) -> float:
    """The least of several passes over these runs, with their heartbeats known."""
    instances = [Instance(a.instance_id or "", "running", g.name, 1, START) for g in seen for a in g.attempts]
    around = Upkeep(crowd.c, crowd.clock.now, crowd.clock.now)
    heard = {(g.name, a.number): crowd.clock.now for g in seen for a in g.attempts}
    taken = []
    with patch.object(around, "glimpse", lambda attempts: heard):
        for _ in range(5):
            began = time.process_time()
            sweep(crowd.c.shell, seen, instances, around, crowd.clock.now)
            taken.append(time.process_time() - began)
    return min(taken)
