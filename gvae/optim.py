"""Optimisers on the flat parameter buffer. These are the only functions of gvae that change their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvae import dispatch
from gvae.checks import check_floating
from gvae.errors import ConfigError, ShapeError
from gvae.nn import Parameters

__all__ = ["Adam", "RowAdam"]


class Adam:
    """Adam, maximising or minimising by the sign of the gradient it is given; here it descends.

    rates maps parameter groups to multiples of the learning rate; 0 freezes a group. State: `m`, `v` (flat), `step`.
    Source: Kingma and Ba (2015), algorithm 1, in its bias-corrected form with rate and eps rescaled (their section 2).
    """

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        rates: Mapping[str, float] | None = None,
    ):
        _positive(learning_rate=learning_rate, eps=eps)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ConfigError(f"Adam: {name} is {beta!r}, expected a number in [0, 1)")
        unknown = set(rates or {}) - set(parameters.groups)
        if unknown:
            known = ", ".join(parameters.groups)
            raise ConfigError(f"Adam: unknown parameter group {sorted(unknown)[0]!r}; known are {known}")
        self.parameters, self.learning_rate = parameters, learning_rate
        self.beta1, self.beta2, self.eps, self.rates = beta1, beta2, eps, dict(rates or {})
        self.m, self.v = np.zeros_like(parameters.flat), np.zeros_like(parameters.flat)
        self.step = 0

    def update(self, gradient: Parameters) -> None:
        """One step down the gradient, in one pass over each group."""
        self.step += 1
        flat, dtype = self.parameters.flat, self.parameters.flat.dtype.type
        check_floating(where="Adam.update", parameters=flat, gradient=gradient.flat)
        if gradient.flat.shape != flat.shape:
            raise ShapeError(f"Adam.update: gradient has {gradient.flat.size} entries, expected {flat.size}")
        rate, eps = _corrected(self.learning_rate, self.beta1, self.beta2, self.eps, self.step)
        for group, part in self.parameters.groups.items():
            scale = self.rates.get(group, 1.0)
            if scale:
                arrays = (a[part] for a in (gradient.flat, flat, self.m, self.v))
                scalars = dtype(scale * rate), dtype(self.beta1), dtype(self.beta2), dtype(eps)
                n = part.stop - part.start
                dispatch.launch("optim", "adam", *arrays, *scalars, n=n, work=7 * n, step=1024)


class RowAdam:
    """Adam for per-datum parameters (n_rows, ...): only the rows of a batch move, each with its own step count."""

    def __init__(self, values: np.ndarray, learning_rate: float, *, beta1=0.9, beta2=0.999, eps=1e-8):
        _positive(learning_rate=learning_rate, eps=eps)
        self.values, self.learning_rate = values, learning_rate
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m, self.v = np.zeros_like(values), np.zeros_like(values)
        self.steps = dispatch.zeros((len(values),), np.int64, values)

    def update(self, index: np.ndarray, gradient: np.ndarray) -> None:
        """One step down the gradient (B, ...) of the rows `index` (B,), which are distinct."""
        self.steps[index] += 1
        dtype = self.values.dtype
        g = gradient
        m = self.m[index] = self.beta1 * self.m[index] + (1 - self.beta1) * g
        v = self.v[index] = self.beta2 * self.v[index] + (1 - self.beta2) * g * g
        steps = self.steps[index].reshape(-1, *[1] * (g.ndim - 1))
        rate = (self.learning_rate * np.sqrt(1 - self.beta2**steps) / (1 - self.beta1**steps)).astype(dtype)
        eps = (self.eps * np.sqrt(1 - self.beta2**steps)).astype(dtype)
        self.values[index] -= rate * m / (np.sqrt(v) + eps)


def _corrected(rate: float, beta1: float, beta2: float, eps: float, step: int) -> tuple[float, float]:
    """Rate and eps that make the uncorrected update equal to the bias-corrected one."""
    root = math.sqrt(1 - beta2**step)
    return rate * root / (1 - beta1**step), eps * root


def _positive(**numbers: Any) -> None:
    for name, x in numbers.items():
        if isinstance(x, bool) or not isinstance(x, (int, float)) or not x > 0 or not math.isfinite(x):
            raise ConfigError(f"{name} is {x!r}, expected a positive number")
