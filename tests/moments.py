"""Expectations without Monte Carlo error: rows and draws whose second moments are exact, and optima by L-BFGS.

Where every map is linear and no scale depends on x, a bound depends on second moments alone, so that its value on such rows
and draws is its own expectation, and its optimum is that of the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import optimize

from gvae.autodiff import value_and_gradient


def uncorrelated(columns: int, rows: int, seed: int) -> np.ndarray:
    """Columns of mean exactly 0, variance exactly 1 and no correlation at all, (rows, columns)."""
    a = np.random.default_rng(seed).normal(size=(rows, columns))
    return np.linalg.qr(a - a.mean(axis=0))[0] * math.sqrt(rows)


def ascended(
    value: Callable[[Mapping[str, Any]], Any],
    start: Mapping[str, np.ndarray],
    fixed: tuple[str, ...] = (),
    gtol: float = 1e-8,
) -> dict[str, np.ndarray]:
    """The parameters at a maximum of `value`, a scalar of them all, from `start`; those that are `fixed` stay."""
    free = {name: v for name, v in start.items() if name not in fixed}
    places = np.cumsum([v.size for v in free.values()])[:-1]

    def unpacked(flat):
        parts = np.split(flat, places)
        return dict(start) | {n: part.reshape(v.shape) for (n, v), part in zip(free.items(), parts, strict=True)}

    def descended(flat):
        found, slope = value_and_gradient(value, unpacked(flat))
        return -found, -np.concatenate([slope[name].ravel() for name in free])

    flat = np.concatenate([v.ravel() for v in free.values()])
    ends = {"maxiter": 1000, "ftol": 0, "gtol": gtol}
    return unpacked(optimize.minimize(descended, flat, jac=True, method="L-BFGS-B", options=ends).x)
