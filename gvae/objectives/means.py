"""Means over rows, draws and variables, and the score-function term for draws without a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gvae.autodiff import stop_gradient
from gvae.objectives.terms import Terms, added
from gvae.ops import arrays, elementwise

__all__ = ["less_the_others", "mean_draws", "mean_rows", "mean_units", "score_function", "warm"]


def warm(warmup: int, step: Any) -> Any:
    """The weight of the KL: from 1/warmup at step 0 linearly to 1."""
    if not warmup:
        return 1.0
    weight = (step + 1) / warmup
    return min(weight, 1.0) if isinstance(weight, float) else np.minimum(weight, 1.0)


def mean_rows(values: Any, weight: Any) -> Any:
    """The mean over rows (B,), weighted if weights are given: sum w v / sum w."""
    if weight is None:
        return arrays.mean(values)
    return elementwise.divide(arrays.sum(elementwise.multiply(values, weight)), arrays.sum(weight))


def mean_draws(values: Any, weight: Any) -> Any:
    """The mean over rows, weighted if weights are given, of (B,), or of the mean over the samples of (K, B)."""
    if weight is None:
        return arrays.mean(values)  # all rows and draws weigh the same
    return mean_rows(arrays.mean(values, axis=0) if len(values.shape) == 2 else values, weight)


def mean_units(values: Any, weight: Any) -> Any:
    """The mean over rows, and draws, of each variable: (n,) of (B, n) or (K, B, n)."""
    if weight is None:
        return arrays.mean(values, axis=tuple(range(len(values.shape) - 1)))
    rows = arrays.mean(values, axis=0) if len(values.shape) == 3 else values
    return elementwise.divide(arrays.sum(elementwise.multiply(rows, weight[:, None]), axis=0), arrays.sum(weight))


def score_function(terms: Terms, signal: Callable[[], Any]) -> Any:
    """A term (K, B) of value zero whose gradient is that of the draws without a path; None if there are none.

    grad E_q f = E_q[(f - b) grad log q], for any b that does not depend on the draw; `signal` computes f - b, (K, B).
    """
    discrete = [layer for layer in terms.layers if layer.q.path is None]
    if not discrete:
        return None
    surrogate = elementwise.multiply(stop_gradient(signal()), added([layer.q.log_prob(layer.z) for layer in discrete]))
    return elementwise.subtract(surrogate, stop_gradient(surrogate))


def less_the_others(f: Any) -> Any:
    """f (K, B) minus its mean over the other samples of the row or, with one sample, over the other rows."""
    axis = 0 if f.shape[0] > 1 else 1
    n = f.shape[axis]
    return (f - arrays.mean(f, axis=axis, keepdims=True)) * (n / (n - 1)) if n > 1 else f
