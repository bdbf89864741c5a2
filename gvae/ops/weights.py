"""Importance weights. Each function takes log-weights and reduces or normalises along one axis, without overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import caller_name, check_axis, check_floating
from gvae.errors import ShapeError
from gvae.ops import arrays, elementwise
from gvae.runtime import device

__all__ = ["effective_sample_size", "log_mean_exp", "normalized_weights"]


def log_mean_exp(log_weights: Any, axis: int = 0) -> Any:
    """log 1/K sum_k e^(log_weights_k) over one axis of K >= 1 entries: the log of the mean, not the mean of logs.

    All -inf gives -inf (with a zero gradient), a NaN gives NaN. Raises ShapeError, DTypeError.
    Source: the bound of Burda, Grosse and Salakhutdinov (2016), eq. 8.
    """
    return _log_mean_exp(log_weights, axis=axis)


@primitive(saves=True, contract="log_weights: ...", settings={"axis": (0,)})
def _log_mean_exp(log_weights, *, axis, save=False):
    result, weights = _pass(log_weights, axis, weights=save)
    return (result, weights) if save else result


@_log_mean_exp.vjp
def _(y_bar, y, log_weights, *, needs, axis, saved):
    # ȳ times the normalised weights. Those below eps² are lost in rounding beside a weight of order 1/K; they are dropped,
    # because the subnormal numbers that they would send through every matrix product can double a training step's time.
    kept = np.where(saved < np.finfo(saved.dtype).eps ** 2, saved.dtype.type(0), saved)  # NaN stays
    return (np.expand_dims(y_bar, axis) * kept,)


def normalized_weights(log_weights: Any, axis: int = 0) -> Any:
    """e^(log_weights) / sum e^(log_weights) along one axis; all -inf gives zeros. Raises ShapeError, DTypeError."""
    return _normalized_weights(log_weights, axis=axis)


@primitive(contract="log_weights: ...", settings={"axis": (0,)})
def _normalized_weights(log_weights, *, axis):
    return _pass(log_weights, axis, weights=True)[1]


@_normalized_weights.vjp
def _(w_bar, w, log_weights, *, needs, axis):
    # softmax:  w ∘ (w̄ - <w̄, w>)
    return (w * (w_bar - (w_bar * w).sum(axis=axis, keepdims=True)),)


def effective_sample_size(log_weights: Any, axis: int = 0) -> Any:
    """1 / sum w̃² along one axis, between 1 and K, with normalised weights w̃. Raises ShapeError, DTypeError."""
    return 1 / arrays.sum(elementwise.square(normalized_weights(log_weights, axis)), axis=axis)


def _pass(log_weights, axis, weights):
    check_floating(log_weights=log_weights)
    shape = log_weights.shape
    a = check_axis(axis, len(shape))
    if shape[a] == 0:
        raise ShapeError(f"{caller_name()}: log_weights has shape {shape}, expected at least one entry along axis {axis}")
    outer, K, inner = math.prod(shape[:a]), shape[a], math.prod(shape[a + 1 :])
    block = device.plain(log_weights).reshape(outer, K, inner)
    result = device.empty((outer, inner), block.dtype, block)
    w = device.empty(block.shape if weights else (outer, 0, inner), block.dtype, block)
    device.kernels_for("weights", log_weights).log_mean_exp(block, result, w, 0, outer)
    return result.reshape(shape[:a] + shape[a + 1 :]), w.reshape(shape) if weights else None
