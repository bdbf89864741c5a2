"""Draws from N(mean, (L Lᵀ)⁻¹)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.ops import _chain, elementwise
from gvae.ops._batching import broadcast, flat, lane_order, owners_by_factor, owners_in_order, rows_of_factors
from gvae.ops.banded._storage import FACTOR, _apart, _check_factor, _default, _deliver, _int64, _launch, _report, _result
from gvae.ops.banded.density import _log_prob_of_draw, _log_prob_of_draw_vjp
from gvae.ops.banded.solve import _solve, _solve_vjp
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["sample_and_log_prob_banded", "sample_banded"]


@primitive(contract="mean: ... N, chol: ... M N, eps: ... N", settings=FACTOR)
def sample_banded(
    mean: Array, chol: Array, eps: Array, *, offsets: Sequence[int] | None = None, check: bool = True, out: Array = None
) -> Array:
    """Draw from N(mean, (L Lᵀ)⁻¹): mean + L⁻ᵀ eps, with standard normal eps.

    Parameters
    ----------
    mean : array (..., N)
    chol : array (..., M, N)
    eps : array (..., N)
        Standard normal noise.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    out : array (..., N), optional
        Buffer for the result; may be `mean` or `eps` itself.

    Returns
    -------
    array (..., N)
        The draw; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> eps = gvae.random.normal(gvae.random.key(0), (100_000, 3), np.float64)
    >>> z = gvae.ops.sample_banded(np.zeros(3), chol, eps)
    >>> z.var(axis=0).round(2)  # variance_banded: 0.328, 0.312, 0.25
    array([0.33, 0.31, 0.25])
    """
    sizes = {"mean": mean, "chol": chol, "eps": eps}
    offsets = _check_factor(sample_banded.contract, offsets, **sizes)
    return _sample(mean, chol, eps, offsets, check, out)[0]


@sample_banded.vjp(owned=True)
def _(
    z_bar: Array,
    z: Array,
    mean: Array,
    chol: Array,
    eps: Array,
    *,
    needs: Needs,
    offsets: Sequence[int] | None = None,
    check: bool = True,
) -> Cotangents:
    return _sample_vjp(z_bar, None, mean, chol, eps, _default(offsets, chol), needs)


@primitive(contract=sample_banded.contract, settings=FACTOR)
def sample_and_log_prob_banded(
    mean: Array, chol: Array, eps: Array, *, offsets: Sequence[int] | None = None, check: bool = True
) -> tuple[Any, Any]:
    """Draw z = mean + L⁻ᵀ eps from q = N(mean, (L Lᵀ)⁻¹), with log q(z), in one pass, forward and backward.

    `sample_banded` and `log_prob_of_draw_banded` in one: log q(z) = sum log L_jj - |eps|²/2 - N/2 log 2π needs no solve and
    no z.

    Parameters
    ----------
    mean : array (..., N)
    chol : array (..., M, N)
    eps : array (..., N)
        Standard normal noise.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    z : array (..., N)
        The draw; batch axes broadcast.
    log_q : array (...)
        log q(z). Nats.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> z, log_q = gvae.ops.sample_and_log_prob_banded(np.zeros(3), chol, np.array([1.0, 0.0, -1.0]))
    >>> z
    array([ 0.375, -0.25 , -0.5  ])
    >>> log_q.round(4), gvae.ops.log_prob_banded(z, np.zeros(3), chol).round(4)
    (np.float64(-1.6774), np.float64(-1.6774))
    """
    sizes = {"mean": mean, "chol": chol, "eps": eps}
    offsets = _check_factor(sample_banded.contract, offsets, **sizes)
    return _sample(mean, chol, eps, offsets, check, density=True)


@sample_and_log_prob_banded.vjp(owned=True)
def _(
    bars: tuple[Array, ...],
    values: Array,
    mean: Array,
    chol: Array,
    eps: Array,
    *,
    needs: Needs,
    offsets: Sequence[int] | None = None,
    check: bool = True,
) -> Cotangents:
    z_bar, log_q_bar = bars
    return _sample_vjp(z_bar, log_q_bar, mean, chol, eps, _default(offsets, chol), needs)


def _sample(
    mean: Array,
    chol: Array,
    eps: Array,
    offsets: tuple[int, ...],
    check: bool,
    out: Array = None,
    density: bool = False,
) -> tuple[Array, Array]:
    """(z, log q(z)), or (z, an empty array) without density."""
    leads = mean.shape[:-1], chol.shape[:-2], eps.shape[:-1]
    batch, N = broadcast(*leads), eps.shape[-1]
    z = _result(out, (*batch, N), eps)
    log_q = device.empty(batch if density else (0,), eps.dtype, eps)
    if _chain.choose("solve", offsets, N, math.prod(batch), eps, None) == "segments":
        mean = _apart(mean, out, same=True)
        e = _solve(chol, eps, offsets, trans=True, check=check)
        if density:
            log_q[...] = _log_prob_of_draw(chol, eps, check)
        return device.apply(np.add, mean, e, out=z), log_q
    mean, chol, eps = _apart(mean, out), _apart(chol, out), _apart(eps, out, same=True)
    factors, draws = flat(chol, 2), flat(z, 1)
    status = device.zeros((len(factors),), np.int32, chol)
    inputs = (factors, _int64(offsets), *_rows_of_sample(*leads, batch), flat(mean, 1), flat(eps, 1))
    work = chol.size + mean.size + eps.size + z.size
    _launch("sample", *inputs, draws, log_q.reshape(-1), status, n=len(draws), work=work)
    _report(status, leads[1], check, None)
    return _deliver(draws, z), log_q


@lru_cache(maxsize=64)
def _rows_of_sample(
    mean: tuple[int, ...], factors: tuple[int, ...], eps: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """For the draws in `lane_order`, from all batch axes: the factors and draws, and the rows of mean and eps."""
    return (*lane_order(factors, batch), *(owners_in_order(own, factors, batch) for own in (mean, eps)))


def _sample_vjp(
    z_bar: Array, log_q_bar: Array, mean: Array, chol: Array, eps: Array, offsets: tuple[int, ...], needs: Needs
) -> Cotangents:
    # z = mean + e with Lᵀ e = eps: the cotangent of e is z̄.  log q(z) = sum log L_jj - |eps|²/2 - ..: ȳ / L_jj and -ȳ eps.
    factors, N = chol.shape[:-2], eps.shape[-1]
    batch, F = broadcast(mean.shape[:-1], factors, eps.shape[:-1]), math.prod(chol.shape[:-2])
    if z_bar is None:
        z_bar = device.zeros((*batch, N), eps.dtype, eps)
    chosen = _chain.choose("solve", offsets, N, math.prod(batch), eps, None)
    if needs[1] and chosen == "systems" and 2 * F >= device.LANES:  # factors fill the lanes: all in one pass
        own = needs[0] and mean.shape[:-1] == factors
        eps_bar, mean_bar, chol_bar = (
            device.empty((*batch, N) if needs[2] else (0, N), eps.dtype, eps),
            device.empty(mean.shape if own else (0, N), eps.dtype, eps),
            device.empty(chol.shape, chol.dtype, chol),
        )
        rows = rows_of_factors(factors, batch), owners_by_factor(eps.shape[:-1], factors, batch)
        bars = flat(z_bar, 1), device.empty((0,), eps.dtype, eps) if log_q_bar is None else flat(log_q_bar, 0)
        inputs = (flat(chol, 2), _int64(offsets), *rows, flat(eps, 1), *bars)
        results = (flat(eps_bar, 1), flat(mean_bar, 1), flat(chol_bar, 2))
        _launch("sample_vjp", *inputs, *results, n=F, work=2 * chol.size + eps.size + z_bar.size)
        if needs[0] and not own:
            mean_bar = _mean_bar(z_bar, mean)
        eps_bar = elementwise.unbroadcast(eps_bar, eps.shape) if needs[2] else None
        return mean_bar if needs[0] else None, chol_bar, eps_bar
    mean_bar = _mean_bar(z_bar, mean) if needs[0] else None
    if not any(needs[1:]):
        return mean_bar, None, None
    e = _solve(chol, eps, offsets, trans=True, check=False)
    e_bar = elementwise.unbroadcast(z_bar, e.shape)
    chol_bar, eps_bar = _solve_vjp(e_bar, e, chol, eps, offsets, trans=True, needs=needs[1:])
    if log_q_bar is not None:
        own, its = _log_prob_of_draw_vjp(elementwise.unbroadcast(log_q_bar, e.shape[:-1]), chol, eps, needs[1:])
        chol_bar, eps_bar = (a if b is None else a + b for a, b in ((chol_bar, own), (eps_bar, its)))
    return mean_bar, chol_bar, eps_bar


def _mean_bar(z_bar: Array, mean: Array) -> Array:
    bar = elementwise.unbroadcast(z_bar, mean.shape)
    return device.copy(bar) if bar is z_bar else bar
