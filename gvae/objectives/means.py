"""Means over rows, draws and variables, and the weight of a warm-up."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.ops import arrays, elementwise
from gvae.typing import Array

__all__ = ["mean_draws", "mean_rows", "mean_units", "warm"]


def warm(warmup: int, step: Any) -> Any:
    """The weight of the KL: from 1/warmup at step 0 linearly to 1."""
    if not warmup:
        return 1.0
    weight = (step + 1) / warmup
    return min(weight, 1.0) if isinstance(weight, float) else np.minimum(weight, 1.0)


def mean_rows(values: Any, weight: Array) -> Any:
    """The mean over rows (B,), weighted if weights are given: sum w v / sum w."""
    if weight is None:
        return arrays.mean(values)
    return elementwise.divide(arrays.sum(elementwise.multiply(values, weight)), arrays.sum(weight))


def mean_draws(values: Any, weight: Array) -> Any:
    """The mean over rows, weighted if weights are given, of (B,), or of the mean over the samples of (K, B)."""
    if weight is None:
        return arrays.mean(values)  # all rows and draws weigh the same
    return mean_rows(arrays.mean(values, axis=0) if len(values.shape) == 2 else values, weight)


def mean_units(values: Any, weight: Array) -> Any:
    """The mean over rows, and draws, of each variable: (n,) of (B, n) or (K, B, n)."""
    if weight is None:
        return arrays.mean(values, axis=tuple(range(len(values.shape) - 1)))
    rows = arrays.mean(values, axis=0) if len(values.shape) == 3 else values
    return elementwise.divide(arrays.sum(elementwise.multiply(rows, weight[:, None]), axis=0), arrays.sum(weight))
