"""Per-datum parameters of rows that no training has seen.

A model with `init_rows` has numbers of its own for each row, such as the raw numbers of q(z|x) where there is no encoder.
Training keeps those of its rows. Those of any other row are found here: up the ELBO, all else held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import gradient
from gvae.data import Batch
from gvae.nn import Parameters
from gvae.objectives import ELBO
from gvae.optim import Adam
from gvae.runtime import device

__all__ = ["ascend", "infer"]

ROWS = 500  # inferred at once


def ascend(
    model: Any,
    parameters: Mapping[str, Any],
    state: Mapping[str, Any],
    batch: Batch,
    start: Mapping[str, Any],
    noise: Callable[[int], Mapping[str, Any]],
    *,
    steps: int,
    learning_rate: float,
) -> Parameters:
    """Numbers of each row of a batch, arrays (B, ..) by name, moved from `start` up the ELBO, each row its own: so many
    steps of Adam with the draws noise(step), at a rate that falls from learning_rate to 0 along half a cosine.

    Where `parameters` have arrays of the same names, the model sees these numbers instead. It scores (`step` is None), so
    that dropout, corruption and the like are off.
    """
    best = Parameters(start)
    slope, optimizer = best.zeros(), Adam(best, learning_rate)

    def loss(numbers: Any, draws: Any) -> Any:
        return -len(batch) * ELBO()(model.terms(dict(parameters) | numbers, state, batch, draws, None))[0]

    for step in range(steps):
        draws = noise(step)
        gradient(lambda numbers, draws=draws: loss(numbers, draws), dict(best), out=dict(slope))
        optimizer.learning_rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.update(slope)
    return best


def infer(
    model: Any,
    parameters: Mapping[str, Any],
    state: Mapping[str, Any],
    batch: Batch,
    key: np.ndarray,
    *,
    steps: int = 300,
    draws: int = 4,
    learning_rate: float = 0.3,
) -> dict[str, Any]:
    """Per-datum parameters of the rows of a batch, by name; {} for a model that has none. They start as `init_rows` has
    them. All rows see the same draws, so that what is found for one does not depend on the others."""
    if not hasattr(model, "init_rows"):
        return {}
    parts = []
    for begin in range(0, len(batch), ROWS):
        part = batch[begin : begin + ROWS]
        start = {name: device.beside(values, batch.x) for name, values in model.init_rows(key, len(part)).items()}

        def noise(step: int, part: Batch = part) -> dict[str, Any]:
            one = model.noise(random.fold_in(key, step), part[:1], draws)
            return {name: values.repeat(len(part), axis=1) for name, values in one.items()}

        parts.append(ascend(model, parameters, state, part, start, noise, steps=steps, learning_rate=learning_rate))
    join = device.namespace(batch.x).concatenate
    return {name: join([part[name] for part in parts]) for name in parts[0]}
