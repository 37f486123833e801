"""Was the job really resumed? Read off what the trainers did and what is in the bucket, not off what anybody says. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from spotrelay.rehearsal.job import Reference
from spotrelay.rehearsal.watch import Trained


def resumed(trained: Mapping[int, Trained], attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with how each attempt went on; empty when every one began right after its checkpoint."""
    first = next((t.steps[0] for _, t in sorted(trained.items()) if t.steps), None)
    if first is None:
        return ["no attempt trained a step"]
    problems = []
    for attempt in attempts:
        number, start = attempt["attempt"], attempt["from_step"]
        steps = trained[number].steps if number in trained else []
        if not steps:
            continue
        stride = first if number == 1 else steps[1] - steps[0] if len(steps) > 1 else first
        if steps[0] != (start or 0) + stride:
            problems.append(f"attempt {number} was to go on after step {start}, and its first step was {steps[0]}")
        problems += [f"attempt {number} trained step {b} after {a}" for a, b in pairwise(steps) if b <= a]
    return problems


def steps_lost(trained: Mapping[int, Trained], attempts: Sequence[Mapping[str, Any]]) -> int:
    """Steps that were trained and had to be trained again, over all interruptions."""
    lost, furthest = 0, 0
    for attempt in attempts:
        steps = trained[attempt["attempt"]].steps if attempt["attempt"] in trained else []
        if not steps:
            continue
        if attempt["attempt"] > 1:
            lost += max(0, furthest - (attempt["from_step"] or 0))
        furthest = steps[-1]
    return lost


def downtime_s(trained: Mapping[int, Trained]) -> float:
    """Seconds without training between attempts: from the last step of one to the first of the next, less a step's own time."""
    pauses = 0.0
    worked = [t for _, t in sorted(trained.items()) if t.steps]
    for before, after in pairwise(worked):
        between = after.seen_at[0] - before.seen_at[-1]
        pauses += max(0.0, between - _step_time(after))
    return round(pauses, 2)


def _step_time(trained: Trained) -> float:
    gaps = sorted(b - a for a, b in pairwise(trained.seen_at))
    return gaps[len(gaps) // 2] if gaps else 0.0


def same_end(reference: Reference, results: Mapping[str, bytes]) -> list[str]:
    """How the results in the bucket differ from those of an uninterrupted run; empty when they are the same bytes."""
    problems = []
    for name, digest in reference.files.items():
        if name not in results:
            problems.append(f"the results lack {name}")
        elif hashlib.sha256(results[name]).hexdigest() != digest:
            problems.append(f"{name} differs from that of an uninterrupted run")
    return problems


def checkpoints_whole(objects: Mapping[str, bytes], manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whether every checkpoint with a manifest has all its files, byte for byte (I4)."""
    problems = []
    for prefix, manifest in manifests.items():
        for file in manifest["files"]:
            body = objects.get(prefix + file["path"])
            if body is None:
                problems.append(f"{prefix}{file['path']} is missing")
            elif hashlib.sha256(body).hexdigest() != file["sha256"]:
                problems.append(f"{prefix}{file['path']} differs from its manifest")
    return problems
