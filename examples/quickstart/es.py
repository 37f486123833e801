"""Evolution strategy: pairs of opposite perturbations, ranked returns, Adam. All randomness follows from (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import policy
from world import CAR_M, CARS, TICK_S, TICKS, Array, Episodes, Radio, Scenario, episodes

PAIRS, SCENES = 10, 5
STEPS_PER_GENERATION = PAIRS * 2 * SCENES * TICKS
SIGMA, RATE = 0.1, 0.035


@dataclass(frozen=True)
class State:
    """Everything training needs to go on: weights and Adam's moments, each [SIZE], and the step they belong to."""

    step: int
    weights: Array
    first: Array
    second: Array

    @classmethod
    def begin(cls, seed: int) -> State:
        zeros = np.zeros(policy.SIZE)
        return cls(0, policy.initial(np.random.default_rng([seed, 0, 1])), zeros, zeros)


def generation(state: State, scenarios: list[Scenario], radio: Radio, seed: int) -> tuple[State, float]:
    """One generation further, and the population's mean return."""
    random = np.random.default_rng([seed, state.step, 2])
    chosen = random.choice(len(scenarios), size=min(SCENES, len(scenarios)), replace=False)
    drawn = episodes([scenarios[i] for i in sorted(chosen)], radio, random)
    noise = random.normal(0.0, 1.0, (PAIRS, policy.SIZE))
    population = state.weights + SIGMA * np.concatenate([noise, -noise])
    returns, _ = drive(population, drawn)
    mean = returns.mean(axis=1)
    ranks = np.empty(len(mean))
    ranks[np.argsort(mean, kind="stable")] = np.linspace(-0.5, 0.5, len(mean))
    gradient = ((ranks[:PAIRS] - ranks[PAIRS:])[:, None] * noise).sum(axis=0) / (PAIRS * SIGMA)
    count = state.step // STEPS_PER_GENERATION + 1
    first = 0.9 * state.first + 0.1 * gradient
    second = 0.99 * state.second + 0.01 * gradient**2
    stride = RATE * (first / (1 - 0.9**count)) / (np.sqrt(second / (1 - 0.99**count)) + 1e-8)
    weights = 0.999 * state.weights + stride
    return State(state.step + STEPS_PER_GENERATION, weights, first, second), float(mean.mean())


def evaluate(weights: Array, scenarios: list[Scenario], radio: Radio, seed: int) -> tuple[Array, Array]:
    """Return and collision (0 or 1) of one policy on every scenario, always with the same draw of the radio."""
    drawn = episodes(scenarios, radio, np.random.default_rng([seed, 3]))
    returns, crashed = drive(weights[None, :], drawn)
    return returns[0], crashed[0]


def drive(population: Array, e: Episodes) -> tuple[Array, Array]:
    """Every candidate through every episode: returns [P, S], and whether it crashed (0 or 1)."""
    candidates, scenes = len(population), len(e.ego_speed)
    position = np.zeros((candidates, scenes))
    speed = np.repeat(e.ego_speed[None, :], candidates, axis=0)
    crashed = np.zeros((candidates, scenes))
    total = np.zeros((candidates, scenes))
    for tick in range(TICKS):
        present = (e.age[:, tick] >= 0).astype(np.float64)
        gap = e.known_position[None, :, tick] - position[:, :, None] - CAR_M
        relative = e.known_speed[None, :, tick] - speed[:, :, None]
        shape = (candidates, scenes, CARS)
        order = np.broadcast_to(np.arange(CARS) / CARS, shape)
        age = np.broadcast_to(e.age[None, :, tick] / 5.0, shape)
        messages = np.stack([gap / 30.0, relative / 10.0, age, order], axis=3)
        push = policy.decide(population, messages, present, speed / 20.0)
        alive = 1.0 - crashed
        moved = np.maximum(0.0, speed + push * TICK_S)
        position = position + alive * 0.5 * (speed + moved) * TICK_S
        speed = moved * alive
        distance = e.lead_position[None, :, tick] - position - CAR_M
        hit = (distance <= 0) * alive
        wanted = 4.0 + 1.2 * speed
        comfort = 1.0 - np.minimum(1.0, np.abs(distance - wanted) / 30.0) - 0.01 * push**2 / 10.0
        total = total + alive * comfort - hit * 40.0
        crashed = crashed + hit
    return total / TICKS, crashed
