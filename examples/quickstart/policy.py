"""A Deep Sets policy: each message goes through the same small net, the results are summed, and a second net decides.

So any number of cars in any order is one input, and a lost message is a missing element. Weights are one flat vector a
candidate; a whole population is evaluated at once.
"""

from __future__ import annotations

import numpy as np
from world import FEATURES, Array

HIDDEN = 8
OWN = 1
_SHAPES = ((FEATURES, HIDDEN), (1, HIDDEN), (HIDDEN + OWN, HIDDEN), (1, HIDDEN), (HIDDEN, 1), (1, 1))
SIZE = sum(rows * columns for rows, columns in _SHAPES)
STRONGEST_BRAKE, STRONGEST_PUSH = 7.0, 3.0  # m/s²


def initial(random: np.random.Generator) -> Array:
    """Small random weights and a foot on the accelerator."""
    weights: Array = random.normal(0.0, 0.1, SIZE)
    weights[-1] = 0.5
    return weights


def decide(population: Array, messages: Array, present: Array, own: Array) -> Array:
    """Accelerations (m/s²) [P, S] for `population` [P, SIZE], messages [P, S, CARS, FEATURES], present [S, CARS], own [P, S]."""
    phi, phi_bias, rho, rho_bias, out, out_bias = _parts(population)
    candidates, scenes, cars, _ = messages.shape
    each = np.tanh(messages.reshape(candidates, scenes * cars, FEATURES) @ phi + phi_bias)
    pooled = (each.reshape(candidates, scenes, cars, HIDDEN) * present[None, :, :, None]).sum(axis=2)
    state = np.concatenate([pooled, own[:, :, None]], axis=2)
    action = np.tanh(np.tanh(state @ rho + rho_bias) @ out + out_bias)[:, :, 0]
    return np.where(action < 0, action * STRONGEST_BRAKE, action * STRONGEST_PUSH)


def _parts(population: Array) -> list[Array]:
    parts, at = [], 0
    for rows, columns in _SHAPES:
        parts.append(population[:, at : at + rows * columns].reshape(-1, rows, columns))
        at += rows * columns
    return parts
