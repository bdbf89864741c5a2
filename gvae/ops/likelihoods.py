"""Log-densities of data, in nats, summed over the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays
from gvae.ops._batching import flat, owners, widened
from gvae.ops.banded import LOG_2PI
from gvae.ops.dense import FLOPS, launch_product, launch_sums
from gvae.ops.elementwise import unbroadcast
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["bernoulli_affine_log_prob", "bernoulli_log_prob", "normal_log_prob"]


@primitive(saves=True, contract="x: ... N, logits: ... N")
def bernoulli_log_prob(x: Array, logits: Array, *, save: bool = False) -> Any:
    """Bernoulli log-likelihood of x under logits a, Σ_j x_j a_j - softplus(a_j).

    Parameters
    ----------
    x : array (..., N)
        In [0, 1], not necessarily binary. Not checked (`gvae.data` checks it once).
    logits : array (..., N)
    save : bool, default False
        For the tape, which passes True where a gradient is wanted: also return x - sigmoid(a).

    Returns
    -------
    array (...)
        Nats; batch axes broadcast (x is not copied over the samples).

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    One pass computes the value and, where a gradient is wanted, x - sigmoid(a). log(0) is never taken: exact for any finite
    logits.

    Examples
    --------
    >>> x, logits = np.array([0.0, 1.0, 1.0]), np.array([-2.0, 0.0, 800.0])
    >>> gvae.ops.bernoulli_log_prob(x, logits).round(4)
    np.float64(-0.8201)
    >>> gvae.gradient(lambda a: gvae.ops.bernoulli_log_prob(x, a), logits).round(4)
    array([-0.1192,  0.5   ,  0.    ])
    """
    sizes = check_arrays(bernoulli_log_prob.contract, where="bernoulli_log_prob", x=x, logits=logits)
    batch, N = sizes["..."], sizes["N"]
    a, data = flat(widened(logits, (*batch, N)), 1), flat(x, 1)
    x_rows = owners(x.shape[:-1], batch)
    log_prob = device.empty((len(a),), a.dtype, a)
    residual = device.empty(a.shape if save else (0, N), a.dtype, a)
    device.launch("likelihoods", "bernoulli", data, x_rows, a, log_prob, residual, n=len(a), work=8 * a.size)
    value = log_prob.reshape(batch)
    return (value, residual.reshape(*batch, N)) if save else value


@bernoulli_log_prob.vjp
def _(y_bar: Array, y: Array, x: Array, logits: Array, *, needs: Needs, saved: Any) -> Cotangents:
    # d/da = x - sigmoid(a),  d/dx = a
    return (
        unbroadcast(device.apply(np.multiply, logits, y_bar[..., None]), x.shape) if needs[0] else None,
        unbroadcast(device.apply(np.multiply, saved, y_bar[..., None]), logits.shape) if needs[1] else None,
    )


@primitive(saves=True, contract="x: ... N, h: ... I, weight: I N, bias: N")
def bernoulli_affine_log_prob(x: Array, h: Array, weight: Array, bias: Array, *, save: bool = False) -> Any:
    """Bernoulli log-likelihood of x under logits h @ weight + bias, which are not kept: the last layer of a decoder.

    Parameters
    ----------
    x : array (..., N)
        As for `bernoulli_log_prob`.
    h : array (..., I)
    weight : array (I, N)
    bias : array (N,)
    save : bool, default False
        For the tape, which passes True where a gradient is wanted: also return x - sigmoid(logits).

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    Each row passes from the product to its log-likelihood while it is in the caches. For a gradient, x - sigmoid(logits) is
    kept.

    Examples
    --------
    >>> x, h = np.array([0.0, 1.0, 1.0]), np.array([[0.5, -1.0], [2.0, 0.0]])
    >>> weight, bias = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]), np.zeros(3)
    >>> gvae.ops.bernoulli_affine_log_prob(x, h, weight, bias).round(4)
    array([-1.9805, -2.8382])
    >>> gvae.ops.bernoulli_log_prob(x, h @ weight + bias).round(4)
    array([-1.9805, -2.8382])
    """
    given = {"x": x, "h": h, "weight": weight, "bias": bias}
    sizes = check_arrays(bernoulli_affine_log_prob.contract, where="bernoulli_affine_log_prob", **given)
    batch, I, N = sizes["..."], sizes["I"], sizes["N"]
    rows, data = flat(widened(h, (*batch, I)), 1), flat(x, 1)
    log_prob = device.empty((len(rows),), h.dtype, h)
    residual = device.empty((len(rows) if save else 0, N), h.dtype, h)
    arrays = data, owners(x.shape[:-1], batch), rows, device.plain(weight), device.plain(bias), log_prob, residual
    work = len(rows) * N * (8 + I // FLOPS)
    device.launch("likelihoods", "bernoulli_affine", *arrays, n=len(rows), work=work)
    value = log_prob.reshape(batch)
    return (value, residual) if save else value


@bernoulli_affine_log_prob.vjp(owned=True, out=True)
def _(
    y_bar: Array,
    y: Array,
    x: Array,
    h: Array,
    weight: Array,
    bias: Array,
    *,
    needs: Needs,
    out: Sequence[Array | None],
    saved: Any,
) -> Cotangents:
    # with R = x - sigmoid(A), A = H W + b, and s the cotangents of the rows:
    # H̄ = diag(s) R Wᵀ,  W̄ = Hᵀ diag(s) R,  b̄ = Rᵀ s,  x̄ = diag(s) A
    batch, (I, N) = y.shape, weight.shape
    s, weight, rows = device.plain(y_bar).reshape(-1), device.plain(weight), flat(widened(h, (*batch, I)), 1)
    x_bar = h_bar = weight_bar = bias_bar = None
    if needs[0]:
        x_bar = unbroadcast((rows @ weight + bias).reshape(*batch, N) * y_bar[..., None], x.shape)
    if needs[1]:
        h_bar = device.empty((len(rows), I), h.dtype, h)
        launch_product("likelihoods", "bernoulli_affine_input_vjp", s, saved, weight, h_bar, out=h_bar, depth=N)
        h_bar = unbroadcast(h_bar.reshape(*batch, I), h.shape)
    if needs[2] or needs[3]:
        weight_bar = device.empty(weight.shape, y.dtype, y) if out[2] is None else out[2]
        bias_bar = device.empty(bias.shape, y.dtype, y) if out[3] is None else out[3]
        arrays = s, saved, rows, weight_bar, bias_bar
        launch_sums("likelihoods", "bernoulli_affine_weight_vjp", *arrays, n=N, work=rows.size * N)
    return x_bar, h_bar, weight_bar, bias_bar


@primitive(saves=True)
def normal_log_prob(x: Array, mean: Array, log_scale: Array, *, save: bool = False) -> Any:
    """Log-density of independent normals, Σ_j log N(x_j; mean_j, e^(2 log_scale_j)).

    Parameters
    ----------
    x, mean, log_scale : array (..., N)
    save : bool, default False
        For the tape, which passes True where a gradient is wanted: also return (x - mean) / s and 1 / s, s = e^log_scale.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.array([0.5, -1.0])
    >>> gvae.ops.normal_log_prob(x, np.zeros(2), np.log(np.array([1.0, 2.0]))).round(4)
    np.float64(-2.781)
    """
    sizes = check_arrays(
        "x: ... N, mean: ... N, log_scale: ... N", where="normal_log_prob", x=x, mean=mean, log_scale=log_scale
    )
    precision_root = np.exp(-log_scale)
    t = (x - mean) * precision_root
    log_normaliser = np.broadcast_to(log_scale, (*sizes["..."], sizes["N"])).sum(axis=-1)
    value = -0.5 * (t * t).sum(axis=-1) - log_normaliser - x.dtype.type(0.5 * LOG_2PI * sizes["N"])
    return (value, (t, precision_root)) if save else value


@normal_log_prob.vjp
def _(y_bar: Array, y: Array, x: Array, mean: Array, log_scale: Array, *, needs: Needs, saved: Any) -> Cotangents:
    # with t = (x - mean) / s:  d/dmean = t / s = -d/dx,  d/dlog s = t² - 1
    t, precision_root = saved
    y_bar = y_bar[..., None]
    mean_bar = y_bar * t * precision_root if needs[0] or needs[1] else None
    return (
        -unbroadcast(mean_bar, x.shape) if needs[0] else None,
        unbroadcast(mean_bar, mean.shape) if needs[1] else None,
        unbroadcast(y_bar * (t * t - 1), log_scale.shape) if needs[2] else None,
    )
