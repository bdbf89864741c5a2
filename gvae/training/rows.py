"""Per-datum parameters of rows that were not trained on.

A model with `init_rows` has parameters for each row, such as the unconstrained parameters of q(z|x) where there is no
encoder. Training keeps those of the training rows. Those of other rows are inferred here, by gradient ascent on the ELBO,
with all other parameters held fixed.
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
from gvae.objectives import ELBO, noise_of_rows
from gvae.optim import Adam
from gvae.protocol import Model
from gvae.runtime import device
from gvae.typing import Arrays, Key

__all__ = ["ascend", "has_rows", "infer"]

ROWS = 500  # rows inferred together


def has_rows(model: Model) -> bool:
    """Whether a model has parameters for each row.

    Parameters
    ----------
    model : Model

    Returns
    -------
    bool

    Examples
    --------
    >>> gvae.training.has_rows(gvae.models.NonlinearFactorAnalysis(4, 2)), gvae.training.has_rows(gvae.models.VAE(4, 2))
    (True, False)
    """
    return hasattr(model, "init_rows") and bool(model.init_rows(random.key(0), 1))


def ascend(
    model: Model,
    parameters: Mapping[str, Any],
    state: Arrays,
    batch: Batch,
    start: Mapping[str, Any],
    noise: Callable[[int], Mapping[str, Any]],
    *,
    steps: int,
    learning_rate: float,
) -> Parameters:
    """Optimise per-row parameters of a batch by gradient ascent on the ELBO, each row independently, by Adam.

    The model scores the rows (its `step` is None): dropout, corruption and the like are off.

    Parameters
    ----------
    model : Model
    parameters : mapping of str to array
        The shared parameters, held fixed. An array of a name that is also in `start` is replaced by the per-row parameters.
    state : mapping of str to array
        The model's state.
    batch : Batch
        B rows.
    start : mapping of str to array (B, ...)
        The initial per-row parameters, by name.
    noise : callable
        noise(step) is the noise of a step, as the model's `noise` draws it.
    steps : int
        The number of steps.
    learning_rate : float
        The initial learning rate; it falls to 0 along half a cosine.

    Returns
    -------
    Parameters
        The optimised arrays (B, ...), by the names in `start`.

    Examples
    --------
    >>> model = gvae.models.NonlinearFactorAnalysis(4, 2, hidden=(3,))
    >>> key, batch = gvae.random.key(0), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> start, noise = model.init_rows(key, 4), model.noise(key, batch)
    >>> rows = gvae.training.ascend(model, model.init(key), {}, batch, start, lambda step: noise, steps=5, learning_rate=0.1)
    >>> {name: values.shape for name, values in rows.items()}
    {'encoder.raw': (4, 4)}
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
    model: Model,
    parameters: Mapping[str, Any],
    state: Arrays,
    batch: Batch,
    key: Key,
    *,
    steps: int = 300,
    draws: int = 4,
    learning_rate: float = 0.3,
) -> dict[str, Any]:
    """Infer the per-datum parameters of the rows of a batch, with the shared parameters held fixed.

    Parameters
    ----------
    model : Model
    parameters : mapping of str to array
        The shared parameters.
    state : mapping of str to array
        The model's state.
    batch : Batch
        B rows.
    key : array (4,)
        The key of the initial values and of the noise.
    steps : int, default 300
        Steps of Adam.
    draws : int, default 4
        Monte Carlo draws per row and step.
    learning_rate : float, default 0.3
        The initial learning rate; it falls to 0 along half a cosine.

    Returns
    -------
    dict of str to array (B, ...)
        By name; {} for a model without per-datum parameters of scored rows. They start as the model's `init_rows`, or
        `start_rows`, returns them. All rows have the same noise: the result for a row does not depend on the other rows.

    Examples
    --------
    >>> model = gvae.models.NonlinearFactorAnalysis(4, 2, hidden=(3,))
    >>> key, batch = gvae.random.key(0), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> rows = gvae.training.infer(model, model.init(key), {}, batch, key, steps=5)
    >>> {name: values.shape for name, values in rows.items()}
    {'encoder.raw': (4, 4)}
    """
    if not has_rows(model) or not getattr(model, "infers_rows", True):
        return {}
    there: Any = model  # with the optional methods of models that have rows
    parts = []
    for begin in range(0, len(batch), ROWS):
        part = batch[begin : begin + ROWS]
        own = there.start_rows(parameters, state, part) if hasattr(model, "start_rows") else there.init_rows(key, len(part))
        start = {name: device.beside(values, batch.x) for name, values in own.items()}

        def noise(step: int, part: Batch = part) -> dict[str, Any]:
            one = model.noise(random.fold_in(key, step), part[:1], draws)
            return noise_of_rows(one, np.zeros(len(part), np.int64))

        parts.append(ascend(model, parameters, state, part, start, noise, steps=steps, learning_rate=learning_rate))
    join = device.namespace(batch.x).concatenate
    return {name: join([part[name] for part in parts]) for name in parts[0]}
