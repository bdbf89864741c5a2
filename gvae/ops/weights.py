"""Importance weights: functions of log-weights, reduced or normalised along one axis without overflow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import caller_name, check_axis, check_floating
from gvae.errors import ShapeError
from gvae.ops import arrays, elementwise
from gvae.ops._former import keyword_only
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["effective_sample_size", "log_mean_exp", "normalized_weights"]


@keyword_only
def log_mean_exp(log_weights: Array, *, axis: int = 0) -> Array:
    """Logarithm of the mean importance weight, log 1/K Σ_k e^(log_weights_k) over one axis of K >= 1 entries.

    Parameters
    ----------
    log_weights : array
    axis : int, default 0

    Returns
    -------
    array
        The log of the mean, not the mean of logs. All -inf gives -inf (with a zero gradient), a NaN gives NaN.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    Source: the bound of Burda, Grosse and Salakhutdinov (2016), eq. 8.

    Examples
    --------
    >>> log_weights = np.array([-1000.0, -1001.0, -1002.0])
    >>> gvae.ops.log_mean_exp(log_weights).round(4)
    np.float64(-1000.691)
    >>> gvae.gradient(gvae.ops.log_mean_exp, log_weights).round(4)  # the normalised weights
    array([0.6652, 0.2447, 0.09  ])
    """
    return _log_mean_exp(log_weights, axis=axis)


@primitive(saves=True, contract="log_weights: ...", settings={"axis": (0,)})
def _log_mean_exp(log_weights: Array, *, axis: int, save: bool = False) -> Any:
    result, weights = _pass(log_weights, axis, weights=save)
    return (result, weights) if save else result


@_log_mean_exp.vjp
def _(y_bar: Array, y: Array, log_weights: Array, *, needs: Needs, axis: int, saved: Any) -> Cotangents:
    # ȳ times the normalised weights. Those below eps² are lost in rounding against a weight of order 1/K; they are dropped,
    # because the subnormal numbers that they would put into every matrix product can double the time of a training step.
    kept = np.where(saved < np.finfo(saved.dtype).eps ** 2, saved.dtype.type(0), saved)  # NaN stays
    return (np.expand_dims(y_bar, axis) * kept,)


@keyword_only
def normalized_weights(log_weights: Array, *, axis: int = 0) -> Array:
    """Normalised importance weights, e^(log_weights) / Σ e^(log_weights) along one axis.

    Parameters
    ----------
    log_weights : array
    axis : int, default 0

    Returns
    -------
    array
        In the shape of log_weights; all -inf gives zeros.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.normalized_weights(np.array([-1000.0, -1001.0, -1002.0])).round(4)
    array([0.6652, 0.2447, 0.09  ])
    """
    return _normalized_weights(log_weights, axis=axis)


@primitive(contract="log_weights: ...", settings={"axis": (0,)})
def _normalized_weights(log_weights: Array, *, axis: int) -> Array:
    return _pass(log_weights, axis, weights=True)[1]


@_normalized_weights.vjp
def _(w_bar: Array, w: Array, log_weights: Array, *, needs: Needs, axis: int) -> Cotangents:
    # softmax:  w ∘ (w̄ - <w̄, w>)
    return (w * (w_bar - (w_bar * w).sum(axis=axis, keepdims=True)),)


@keyword_only
def effective_sample_size(log_weights: Array, *, axis: int = 0) -> Array:
    """Effective sample size 1 / Σ w̃² along one axis, with normalised weights w̃.

    Parameters
    ----------
    log_weights : array
    axis : int, default 0

    Returns
    -------
    array
        Between 1 and K, the size of the axis; inf where all log-weights are -inf.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> log_weights = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, -1.0, -2.0, -50.0]])
    >>> gvae.ops.effective_sample_size(log_weights, axis=1).round(4)
    array([4.    , 1.9587])
    """
    return 1 / arrays.sum(elementwise.square(normalized_weights(log_weights, axis=axis)), axis=axis)


def _pass(log_weights: Array, axis: int, weights: bool) -> tuple[Array, Array | None]:
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
