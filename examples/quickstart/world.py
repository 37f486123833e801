"""A small traffic world: the ego car follows three others in a column and knows them only by radio.

The cars ahead drive what the scenario says; one of them brakes hard. Each sends a message a tick; messages get lost, come
late and carry noise, as the emulator parameters say. A tick is 0.4 s, an episode 50 ticks. All arrays are float64.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CARS, TICKS, TICK_S = 3, 50, 0.4
CAR_M = 5.0
FEATURES = 4


class InputError(Exception):
    """The dataset or the parameters can't be used; the message says what to do."""


@dataclass(frozen=True)
class Radio:
    """How messages travel: the chance to get lost, the longest delay in ticks, the noise of a position in metres."""

    loss: float
    delay_ticks: int
    noise_m: float

    @classmethod
    def read(cls, path: Path) -> Radio:
        try:
            given = json.loads(path.read_text("utf-8"))
            return cls(float(given["loss"]), int(given["delay_ticks"]), float(given["noise_m"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} can't be read as emulator parameters: {error!r}") from error


@dataclass(frozen=True)
class Scenario:
    """The cars ahead, nearest first: positions (m) and speeds (m/s), each [CARS, TICKS]; the ego begins at 0 m."""

    name: str
    positions: Array
    speeds: Array
    ego_speed: float


def generate(folder: Path, count: int, seed: int) -> None:
    """Write `count` scenarios as JSON; the same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scenario = _scenario(number, np.random.default_rng([seed, number]))
        document: dict[str, Any] = {
            "name": scenario.name,
            "ego_speed": scenario.ego_speed,
            "positions": scenario.positions.round(4).tolist(),
            "speeds": scenario.speeds.round(4).tolist(),
        }
        (folder / f"{scenario.name}.json").write_text(json.dumps(document) + "\n", "utf-8")


def load(folder: Path) -> list[Scenario]:
    """Every scenario of a dataset, by name. Raises InputError."""
    paths = sorted(folder.glob("scenario_*.json"))
    if not paths:
        raise InputError(f"{folder} has no scenarios: make some with `train.py generate --dataset_dir {folder}`")
    try:
        found = [json.loads(path.read_text("utf-8")) for path in paths]
        return [
            Scenario(str(d["name"]), np.array(d["positions"]), np.array(d["speeds"]), float(d["ego_speed"]))
            for d in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} has a scenario that can't be read: {error!r}") from error


def _scenario(number: int, random: np.random.Generator) -> Scenario:
    """The first car cruises, brakes to a crawl or a stop, and goes on; those behind it follow with a lag."""
    cruise, low = random.uniform(14, 24), random.uniform(0, 5)
    begin, stay = int(random.integers(8, 20)), int(random.integers(5, 14))
    brake = random.uniform(3.5, 7.0) * TICK_S
    speeds = np.full((CARS, TICKS), cruise)
    for car in range(CARS):
        speed = cruise
        for tick in range(1, TICKS):
            if car == 0:
                braking = begin <= tick < begin + stay + int(cruise / brake)
                wanted = low if braking else cruise
            else:
                wanted = speeds[car - 1, tick - 1]
            speed += float(np.clip(wanted - speed, -brake, 1.2 * TICK_S * 2))
            speeds[car, tick] = speed
    gaps = random.uniform(18, 30, CARS)
    starts = np.cumsum(gaps[::-1] + CAR_M)[::-1]  # the first car is the farthest ahead
    positions = starts[:, None] + np.concatenate(
        [np.zeros((CARS, 1)), np.cumsum(speeds[:, :-1] * TICK_S, axis=1)], axis=1
    )
    # A follower never drives into the one ahead of it: it stops behind it instead.
    for car in range(1, CARS):
        positions[car] = np.minimum(positions[car], positions[car - 1] - CAR_M - 2.0)
        speeds[car, 1:] = np.maximum(0.0, np.diff(positions[car]) / TICK_S)
    return Scenario(f"scenario_{number:03d}", positions[::-1].copy(), speeds[::-1].copy(), float(cruise))


@dataclass(frozen=True)
class Episodes:
    """Scenarios with one draw of the radio: what the ego could know of each car at each tick."""

    known_position: Array  # [S, TICKS, CARS], as it was when sent
    known_speed: Array
    age: Array  # ticks since it was sent; -1 when nothing came yet
    lead_position: Array  # [S, TICKS], the truth about the nearest car
    lead_speed: Array
    ego_speed: Array  # [S]


def episodes(scenarios: list[Scenario], radio: Radio, random: np.random.Generator) -> Episodes:
    shape = (len(scenarios), TICKS, CARS)
    positions = np.stack([s.positions.T for s in scenarios])
    speeds = np.stack([s.speeds.T for s in scenarios])
    heard = random.random(shape) >= radio.loss
    delay = random.integers(0, radio.delay_ticks + 1, shape)
    noise = random.normal(0.0, radio.noise_m, shape)
    newest = np.full(shape, -1)
    ticks = np.arange(TICKS)
    for late in range(radio.delay_ticks + 1):
        arrives = heard & (delay == late)
        sent = np.where(arrives, ticks[None, :, None], -1)
        newest[:, late:, :] = np.maximum(newest[:, late:, :], sent[:, : TICKS - late, :])
    newest = np.maximum.accumulate(newest, axis=1)
    at = np.maximum(newest, 0)
    return Episodes(
        np.take_along_axis(positions + noise, at, axis=1),
        np.take_along_axis(speeds, at, axis=1),
        np.where(newest < 0, -1.0, ticks[None, :, None] - newest),
        positions[:, :, 0],
        speeds[:, :, 0],
        np.array([s.ego_speed for s in scenarios]),
    )
