"""Checkpoints: a folder `step_<N>` that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from es import State
from world import InputError


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: the state, the seed it was made with, and the history that the metrics need."""

    state: State
    seed: int
    history: list[list[float]]


def save(folder: Path, saved: Saved) -> Path:
    """Write beside, flush to the disk, then rename: whoever sees `step_<N>` sees all of it."""
    place = folder / f"step_{saved.state.step}"
    if place.exists():
        return place
    beside = folder / f".step_{saved.state.step}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name in ("weights", "first", "second"):
        with (beside / f"{name}.npy").open("wb") as stream:
            np.save(stream, getattr(saved.state, name))
            os.fsync(stream.fileno())
    with (beside / "state.json").open("w", encoding="utf-8") as stream:
        json.dump({"step": saved.state.step, "seed": saved.seed, "history": saved.history}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(place)
    return place


def load(folder: Path) -> Saved:
    """Raises InputError when the folder is no checkpoint."""
    try:
        facts: dict[str, Any] = json.loads((folder / "state.json").read_text("utf-8"))
        weights, first, second = (np.load(folder / f"{name}.npy") for name in ("weights", "first", "second"))
        return Saved(State(int(facts["step"]), weights, first, second), int(facts["seed"]), facts["history"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} is no checkpoint to resume from: {error}") from error
