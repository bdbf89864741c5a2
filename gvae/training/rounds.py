"""A step of a minimiser that asks for values and gradients itself, at the noise of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae.autodiff import vjp
from gvae.data import Batch
from gvae.errors import ConfigError, NotPositiveDefiniteError
from gvae.training.inputs import StepInputs

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["minimized", "why_not_rounds"]


def minimized(trainer: Trainer, params: dict, batch: Batch, noise: dict, now: StepInputs) -> Callable[[], None]:
    """Minimise the negative objective over all parameters, those of rows included, with the noise held fixed. Returns a
    function that stores the result."""
    inputs, parameters = trainer.arguments(batch, noise, now.step), trainer.parameters
    trial, slope = parameters.zeros(), trainer.gradient
    own = {name: params[name].copy() for name in trainer.rows}
    own_slope = {name: np.empty_like(values) for name, values in own.items()}
    frozen = {group for group, rate in trainer.optimizer.rates.items() if rate == 0}

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        _split(x, trial.flat, *own.values())
        out = dict(slope) | own_slope
        try:
            value, pull, _ = vjp(lambda p: trainer.evaluate(p, inputs), dict(trial) | own, has_aux=True, out=out)
        except NotPositiveDefiniteError:  # a trial point of the line search; at the parameters themselves it is raised
            return math.inf, np.zeros_like(x)
        if isinstance(value, dict):
            raise ConfigError(f"{trainer.optimizer}: it minimises one objective, and each of {', '.join(value)} has its own")
        trainer._pull(value, pull, out, frozen)
        return -float(value), _joined(slope.flat, *own_slope.values())

    optimizer: Any = trainer.optimizer  # one that has `iterations`
    found = optimizer.minimized(f, _joined(parameters.flat, *own.values()))
    _split(found, trial.flat, *own.values())

    def move() -> None:
        parameters.flat[...] = trial.flat
        for name, optimizer in trainer.rows.items():
            optimizer.values[batch.index] = own[name]
        if trainer.average is not None:
            trainer.average.after_step(parameters, now.weight, slope.flat)  # whose memory is free by now

    return move


def why_not_rounds(trainer: Trainer) -> str:
    """The reason why a minimiser that chooses its own steps does not suit a trainer, or ""."""
    if trainer.device != "cpu":
        return f"device is {trainer.device!r}, expected 'cpu'"
    if trainer.alone:
        return f"alone is {trainer.alone!r}, expected None: all groups move together"
    if trainer.clip is not None:
        return f"clip is {trainer.clip!r}, expected None: its line search bounds a step"
    if hasattr(trainer.model, "update"):
        return f"{type(trainer.model).__name__} takes its steps itself"
    return ""


def _joined(*arrays: Any) -> np.ndarray:
    return np.concatenate([np.ravel(a).astype(np.float64) for a in arrays])


def _split(x: np.ndarray, *arrays: Any) -> None:
    """Fill the arrays with the parts of x."""
    begin = 0
    for a in arrays:
        a[...] = x[begin : begin + a.size].reshape(a.shape)
        begin += a.size
