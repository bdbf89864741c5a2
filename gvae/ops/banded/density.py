"""Log-densities of N(mean, (L Lᵀ)⁻¹), and their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.ops import arrays, elementwise
from gvae.ops._batching import broadcast, flat, owners_by_factor, rows_of_factors
from gvae.ops.banded._storage import FACTOR, LOG_2PI, _check_factor, _default, _int64, _launch, _report, _work
from gvae.ops.banded.factor import _log_pivots
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["entropy_banded", "log_prob_banded", "log_prob_of_draw_banded"]


@primitive(contract="x: ... N, mean: ... N, chol: ... M N", settings=FACTOR)
def log_prob_banded(
    x: Array, mean: Array, chol: Array, *, offsets: Sequence[int] | None = None, check: bool = True
) -> Array:
    """Log-density of a Gaussian with a banded factor of its precision: log N(x; mean, (L Lᵀ)⁻¹).

    Parameters
    ----------
    x, mean : array (..., N)
    chol : array (..., M, N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.log_prob_banded(np.array([0.5, 0.5, 0.5]), np.zeros(3), chol).round(4)
    np.float64(-1.4274)
    """
    sizes = {"x": x, "mean": mean, "chol": chol}
    offsets = _check_factor(log_prob_banded.contract, offsets, **sizes)
    value = device.empty(broadcast(x.shape[:-1], mean.shape[:-1], chol.shape[:-2]), x.dtype, x)
    status = device.zeros((math.prod(chol.shape[:-2]),), np.int32, chol)
    inputs = _densities(x, mean, chol, offsets, value.shape)
    _launch("log_prob", *inputs, flat(value, 0), status, n=len(status), work=_work(*sizes.values()))
    _report(status, chol.shape[:-2], check, None)
    return value


@log_prob_banded.vjp(owned=True)
def _(
    y_bar: Array,
    y: Array,
    x: Array,
    mean: Array,
    chol: Array,
    *,
    needs: Needs,
    offsets: Sequence[int] | None = None,
    check: bool = True,
) -> Cotangents:
    inputs = _densities(x, mean, chol, _default(offsets, chol), y.shape)
    d_bar, chol_bar = device.empty((*y.shape, x.shape[-1]), x.dtype, x), device.empty(chol.shape, chol.dtype, chol)
    results = (flat(y_bar, 0), flat(d_bar, 1), flat(chol_bar, 2))
    _launch("log_prob_vjp", *inputs, *results, n=len(results[2]), work=2 * _work(x, mean, chol))
    x_bar = elementwise.unbroadcast(d_bar, x.shape) if needs[0] else None
    mean_bar = device.apply(np.multiply, elementwise.unbroadcast(d_bar, mean.shape), -1) if needs[1] else None
    return x_bar, mean_bar, chol_bar


@primitive(contract="chol: ... M N, eps: ... N", settings={"check": (False,)})
def log_prob_of_draw_banded(chol: Array, eps: Array, *, check: bool = True) -> Array:
    """Log-density log q(z) of the draw z = mean + L⁻ᵀ eps from q = N(mean, (L Lᵀ)⁻¹), computed from eps.

    log q(z) = sum log L_jj - |eps|²/2 - N/2 log 2π. The off-diagonal entries of L and the mean do not matter.

    Parameters
    ----------
    chol : array (..., M, N)
    eps : array (..., N)
        The noise of the draw.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    array (...)
        Nats. The value of `log_prob_banded` at the draw, without a solve, a product or any other rounding of z.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Notes
    -----
    Source: Peste and Malagò, whose sampler has this value available.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.log_prob_of_draw_banded(chol, np.array([1.0, 0.0, -1.0])).round(4)
    np.float64(-1.6774)
    """
    _check_factor(log_prob_of_draw_banded.contract, None, chol=chol, eps=eps)
    return _log_prob_of_draw(chol, eps, check)


@log_prob_of_draw_banded.vjp(owned=True)
def _(y_bar: Array, y: Array, chol: Array, eps: Array, *, needs: Needs, check: bool = True) -> Cotangents:
    return _log_prob_of_draw_vjp(y_bar, chol, eps, needs)


def _log_prob_of_draw(chol: Array, eps: Array, check: bool) -> Array:
    value = device.empty(broadcast(chol.shape[:-2], eps.shape[:-1]), eps.dtype, eps)
    status = device.zeros((math.prod(chol.shape[:-2]),), np.int32, chol)
    rows = rows_of_factors(chol.shape[:-2], value.shape)
    own = owners_by_factor(eps.shape[:-1], chol.shape[:-2], value.shape)
    inputs = (flat(chol, 2), rows, own, flat(eps, 1))
    work = eps.size + chol.size // max(chol.shape[-2], 1)
    device.launch("banded", "log_prob_of_draw", *inputs, flat(value, 0), status, n=len(status), work=work)
    _report(status, chol.shape[:-2], check, None)
    return value


def _log_prob_of_draw_vjp(y_bar: Array, chol: Array, eps: Array, needs: Needs) -> Cotangents:
    chol_bar = eps_bar = None
    if needs[0]:
        chol_bar = device.empty(chol.shape, chol.dtype, chol)
        chol_bar[..., 1:, :] = 0
        pivots = chol[..., 0, :]
        good = (pivots > 0).all(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = elementwise.unbroadcast(y_bar, chol.shape[:-2])[..., None] / pivots
        chol_bar[..., 0, :] = np.where(good, slope, slope.dtype.type("nan"))  # NaN in a failed system, as its value
    if needs[1]:
        eps_bar = elementwise.unbroadcast(-y_bar[..., None] * eps, eps.shape)
    return chol_bar, eps_bar


def _densities(x: Array, mean: Array, chol: Array, offsets: tuple[int, ...], batch: tuple[int, ...]) -> tuple[Array, ...]:
    """Arguments of the log-density kernels: the factors, and the right-hand sides, x and means that belong to each."""
    factors = chol.shape[:-2]
    own = (owners_by_factor(a.shape[:-1], factors, batch) for a in (x, mean))
    return flat(chol, 2), _int64(offsets), rows_of_factors(factors, batch), *own, flat(x, 1), flat(mean, 1)


def entropy_banded(chol: Array, *, check: bool = True, info: Any = None) -> Array:
    """Entropy of the Gaussian N(., (L Lᵀ)⁻¹): N/2 (1 + log 2π) - sum log L_jj.

    It depends neither on the mean nor on the off-diagonal entries of L.

    Parameters
    ----------
    chol : array (..., M, N)
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    info : int32 array (...), optional
        Receives, per factor, 0 or the 1-based order of the pivot that failed.

    Returns
    -------
    array (...)
        Nats.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.entropy_banded(chol).round(4)
    np.float64(2.1774)
    """
    _check_factor("chol: ... M N", None, chol=chol)
    log_pivots = _log_pivots(chol, check=check, info=info)
    return 0.5 * chol.shape[-1] * (1 + LOG_2PI) - arrays.sum(log_pivots, axis=-1)
