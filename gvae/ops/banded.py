"""Gaussians whose precision P = L Lᵀ has a sparse lower-triangular factor L, stored by diagonals.

Storage: chol[..., k, j] = L[j + offsets[k], j], shape (..., M, N), with offsets strictly increasing from 0 (by default
0, 1, .., M-1: SciPy's lower band form with leading batch axes). Entries with j + offsets[k] >= N do not exist: they are
never read, are written as zero, and their cotangent is zero. Batch axes lead and broadcast; a factor shared by many
right-hand sides is never copied. A chain has offsets (0, 1); an extended grid of c columns (0, 1, c).

Letters as in Rue and Held (2005) and in `gvae.kernels.cpu.banded`. Densities and divergences are in nats.

Failure: a pivot L_jj passes only if it is positive. check=True raises NotPositiveDefiniteError with the rows and minors;
check=False makes the failing systems NaN and does not affect the others. `info`, an int32 array of the factors' batch
shape, receives 0 or the 1-based order of the pivot that failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import caller_name, check_arrays, check_floating, check_offsets, check_out
from gvae.errors import ConfigError, NotPositiveDefiniteError, ShapeError
from gvae.ops import _chain, arrays, elementwise
from gvae.ops._batching import (
    broadcast,
    flat,
    lane_order,
    owners,
    owners_by_factor,
    owners_in_order,
    rows_of_factors,
    widened,
)
from gvae.ops._former import renamed_op
from gvae.runtime import device

__all__ = [
    "band_to_dense",
    "cho_solve_banded",
    "cholesky_banded",
    "dense_to_band",
    "entropy_banded",
    "gram_banded",
    "inverse_banded",
    "kl_divergence_banded",
    "log_pivots_banded",
    "log_prob_banded",
    "log_prob_of_draw_banded",
    "logdet_banded",
    "method_banded",
    "multiply_triangular_banded",
    "sample_and_log_prob_banded",
    "sample_banded",
    "solve_triangular_banded",
    "variance_banded",
]

LOG_2PI = math.log(2 * math.pi)
# Patterns for which kernels are compiled ahead of their use: a chain, a band, a lattice
OFFSETS: dict[str, Sequence[Any]] = {"offsets": ((0, 1), (0, 1, 2, 3), (0, 1, 4))}
FACTOR = OFFSETS | {"check": (False,)}  # compiling ahead stops where values are inspected
BOTH_WAYS: dict[str, Sequence[Any]] = {"trans": (False, True)}
LONG = 1 << 16  # columns from which threads share one product


@primitive(contract="ab: ... M N", settings={"check": (False,)})
def cholesky_banded(ab: Any, *, check: bool = True, out: Any = None, info: Any = None) -> Any:
    """Cholesky factor L of a symmetric positive definite band matrix A = L Lᵀ, on all diagonals 0 .. M-1.

    Corresponds to `scipy.linalg.cholesky_banded` with lower=True.

    Parameters
    ----------
    ab : array (..., M, N)
        A in lower band form: ab[..., d, j] = A[j + d, j].
    check : bool, default True
        False: a system that is not positive definite becomes NaN instead of raising.
    out : array (..., M, N), optional
        Buffer for the factor; may be `ab` itself.
    info : int32 array (...), optional
        Receives, per system, 0 or the 1-based order of the leading minor that failed.

    Returns
    -------
    array (..., M, N)
        L, stored as `ab` is.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Notes
    -----
    The cotangent of `ab` is in lower band form, too: an off-diagonal entry stands for both symmetric ones.

    Cost O(N M²). Backward stable: |A - L Lᵀ| is of order M eps |A| (Higham 2002, thm 10.3).

    Examples
    --------
    >>> ab = np.array([[4.0, 5.0, 5.0], [-2.0, -2.0, 0.0]])
    >>> gvae.ops.cholesky_banded(ab)
    array([[ 2.,  2.,  2.],
           [-1., -1.,  0.]])
    """
    check_arrays(cholesky_banded.contract, ab=ab)
    chol = _result(out, ab.shape, ab)
    factors, systems = flat(chol, 2), flat(ab, 2)
    status = device.zeros((len(systems),), np.int32, ab)
    _launch("cholesky", systems, factors, status, n=len(systems), work=2 * ab.size)
    _report(status, ab.shape[:-2], check, info, name="ab")
    return _deliver(factors, chol)


@cholesky_banded.vjp(owned=True)
def _(chol_bar, chol, ab, *, needs, check=True, info=None):
    # The loops of the factorisation in reverse: Murray 2016, section 4.1, restricted to the band.
    factors = flat(chol, 2)
    work, ab_bar = device.copy(flat(chol_bar, 2)), device.empty(factors.shape, chol.dtype, chol)
    _launch("cholesky_vjp", factors, work, ab_bar, n=len(factors), work=3 * chol.size)
    return (ab_bar.reshape(ab.shape),)


@primitive(contract="chol: ... M N", settings=OFFSETS)
def gram_banded(chol: Any, *, offsets: Sequence[int] | None = None) -> Any:
    """Product A = L Lᵀ of a banded lower-triangular L with its transpose, on all diagonals 0 .. offsets[-1].

    Parameters
    ----------
    chol : array (..., M, N)
        Any L: the diagonal is not checked.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.

    Returns
    -------
    array (..., offsets[-1] + 1, N)
        A in lower band form, as `cholesky_banded` takes it: ab[..., d, j] = A[j + d, j].

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    Diagonals that are no difference of two offsets are zero; the factor of a sum of two such products fills them in general.
    The cotangent of the result is in lower band form, too: an off-diagonal entry stands for both symmetric ones.

    Cost O(N M²), by diagonals. The error is of order M eps | |L| |L|ᵀ | in each entry.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> ab = gvae.ops.gram_banded(chol)
    >>> ab
    array([[ 4.,  5.,  5.],
           [-2., -2.,  0.]])
    >>> np.array_equal(gvae.ops.cholesky_banded(ab), chol)
    True
    """
    offsets = _check_factor(gram_banded.contract, offsets, chol=chol)
    ab = device.zeros((*chol.shape[:-2], offsets[-1] + 1, chol.shape[-1]), chol.dtype, chol)
    for d, i, j, where, n in _pairs_of_diagonals(offsets, chol.shape[-1]):
        ab[..., d, where] += chol[..., i, :n] * chol[..., j, :n]
    return ab


@gram_banded.vjp(owned=True)
def _(ab_bar, ab, chol, *, needs, offsets=None):
    # A_(k+p)(k+o) += L_(k+p)k L_(k+o)k of two offsets p >= o: each factor's cotangent is the entry's times the other factor.
    chol_bar = device.zeros(chol.shape, chol.dtype, chol)
    for d, i, j, where, n in _pairs_of_diagonals(_default(offsets, chol), chol.shape[-1]):
        bar = ab_bar[..., d, where]
        chol_bar[..., i, :n] += bar * chol[..., j, :n]
        chol_bar[..., j, :n] += bar * chol[..., i, :n]
    return (chol_bar,)


def _pairs_of_diagonals(offsets: Sequence[int], N: int) -> Iterator[tuple[int, int, int, slice, int]]:
    """What diagonals i and j of L add to diagonal d of L Lᵀ, and where: from their first n entries."""
    for j, o in enumerate(offsets):
        for i in range(j, len(offsets)):
            n = N - offsets[i]
            if n > 0:
                yield offsets[i] - o, i, j, slice(o, o + n), n


@primitive(contract="chol: ... M N, b: ... N", settings=FACTOR | BOTH_WAYS)
def solve_triangular_banded(
    chol: Any,
    b: Any,
    *,
    offsets: Sequence[int] | None = None,
    trans: bool = False,
    check: bool = True,
    out: Any = None,
    info: Any = None,
    method: str | None = None,
) -> Any:
    """Solve L x = b, or Lᵀ x = b with trans=True, for a banded factor L.

    Parameters
    ----------
    chol : array (..., M, N)
    b : array (..., N)
        Not checked: that it is finite.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    trans : bool, default False
        Solve with Lᵀ.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    out : array (..., N), optional
        Buffer for x; may be `b` itself.
    info : int32 array (...), optional
        Receives, per factor, 0 or the 1-based order of the pivot that failed.
    method : {"systems", "segments"}, optional
        For a chain; by default the faster one for its shape (see `method_banded`). "segments" requires offsets (0, 1).

    Returns
    -------
    array (..., N)
        x; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.
    ConfigError
        An unknown `method`, or "segments" with offsets other than (0, 1).

    Notes
    -----
    Cost O(M N) per right-hand side. Backward stable: the residual is of order M eps |L| |x| (Higham 2002, thm 8.5), where
    every 1 / L_jj is a normal number.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.solve_triangular_banded(chol, np.array([2.0, 3.0, 1.0]))
    array([1. , 2. , 1.5])
    >>> gvae.ops.solve_triangular_banded(chol, np.array([1.0, 1.0, 2.0]), trans=True)
    array([1., 1., 1.])
    """
    offsets = _check_factor(solve_triangular_banded.contract, offsets, chol=chol, b=b)
    return _solve(chol, b, offsets, trans=trans, check=check, out=out, info=info, method=method)


@solve_triangular_banded.vjp(owned=True)
def _(x_bar, x, chol, b, *, needs, offsets=None, trans=False, check=True, info=None, method=None):
    return _solve_vjp(x_bar, x, chol, b, offsets, trans=trans, needs=needs, method=method)


def _solve(chol, b, offsets, *, trans, check, out=None, info=None, method=None):
    offsets = _default(offsets, chol)
    batch = broadcast(chol.shape[:-2], b.shape[:-1])
    x = _result(out, (*batch, b.shape[-1]), b)
    if out is not None and out is not b and device.overlap(out, b):
        b = b.copy()
    factors, vectors, solutions = flat(chol, 2), flat(b, 1), flat(x, 1)
    status = device.zeros((len(factors),), np.int32, chol)
    owner, row = lane_order(chol.shape[:-2], batch)
    b_row = owners_in_order(b.shape[:-1], chol.shape[:-2], batch)
    if _chain.choose("solve", offsets, b.shape[-1], len(row), b, method) == "segments":
        kind, columns = "BACKWARD" if trans else "FORWARD", solutions[:, None]
        _chain.run(kind, factors, vectors, owner, row, b_row, columns, status)
    else:
        settings = (_int64(offsets), owner, row, b_row, vectors, solutions, trans, status)
        _launch("solve_triangular", factors, *settings, n=len(row), work=chol.size + b.size + x.size)
    _report(status, chol.shape[:-2], check, info)
    return _deliver(solutions, x)


def _solve_vjp(x_bar, x, chol, b, offsets, *, trans, needs, method=None):
    # L x = b:  b̄ = L⁻ᵀ x̄,  L̄ = -b̄ xᵀ on the pattern.  For Lᵀ x = b the two vectors change places.  Giles 2008, sec. 2.3.
    offsets, F, batch = _default(offsets, chol), math.prod(chol.shape[:-2]), x.shape[:-1]
    chosen = _chain.choose("solve", offsets, x.shape[-1], math.prod(batch), x, method)
    if needs[0] and chosen == "systems" and 2 * F >= device.LANES:  # factors fill the lanes: both in one pass
        factors, rows = flat(chol, 2), rows_of_factors(chol.shape[:-2], batch)
        b_bar, chol_bar = (
            device.empty(x.shape if needs[1] else (0, x.shape[-1]), x.dtype, x),
            device.empty(chol.shape, chol.dtype, chol),
        )
        inputs = (_int64(offsets), rows, flat(x, 1), flat(widened(x_bar, x.shape), 1), trans)
        results = (flat(b_bar, 1), flat(chol_bar, 2))
        _launch("solve_triangular_vjp", factors, *inputs, *results, n=F, work=2 * (x.size + chol.size))
        return chol_bar, elementwise.unbroadcast(b_bar, b.shape) if needs[1] else None
    b_bar = _solve(chol, x_bar, offsets, trans=not trans, check=False, method=method)
    chol_bar = None
    if needs[0]:
        u, v = (x, b_bar) if trans else (b_bar, x)
        chol_bar = _outer(u, v, chol, offsets, sign=-1)
    return chol_bar, elementwise.unbroadcast(b_bar, b.shape) if needs[1] else None


def cho_solve_banded(chol: Any, b: Any, *, offsets: Sequence[int] | None = None, check: bool = True, out: Any = None) -> Any:
    """Solve (L Lᵀ) x = b for a banded Cholesky factor L: a solve with the precision.

    Parameters
    ----------
    chol : array (..., M, N)
    b : array (..., N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    out : array (..., N), optional
        Buffer for x; may be `b` itself.

    Returns
    -------
    array (..., N)
        x; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> x = gvae.ops.cho_solve_banded(chol, np.array([2.0, 1.0, 3.0]))
    >>> x
    array([1., 1., 1.])
    >>> precision = gvae.ops.band_to_dense(chol) @ gvae.ops.band_to_dense(chol).T
    >>> precision @ x
    array([2., 1., 3.])
    """
    _check_factor(solve_triangular_banded.contract, offsets, chol=chol, b=b)
    y = solve_triangular_banded(chol, b, offsets=offsets, check=check)
    return solve_triangular_banded(chol, y, offsets=offsets, trans=True, check=check, out=out)


@primitive(contract="chol: ... M N, x: ... N", settings=OFFSETS | BOTH_WAYS)
def multiply_triangular_banded(
    chol: Any, x: Any, *, offsets: Sequence[int] | None = None, trans: bool = False, out: Any = None
) -> Any:
    """Product L x, or Lᵀ x with trans=True, with a banded lower-triangular L.

    Parameters
    ----------
    chol : array (..., M, N)
        Any L: the diagonal is not checked.
    x : array (..., N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    trans : bool, default False
        Multiply by Lᵀ.
    out : array (..., N), optional
        Buffer for the result; it may not overlap `x`.

    Returns
    -------
    array (..., N)
        The product; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.multiply_triangular_banded(chol, np.array([1.0, 2.0, 1.0]))
    array([2., 3., 0.])
    >>> gvae.ops.multiply_triangular_banded(chol, np.array([1.0, 2.0, 1.0]), trans=True)
    array([0., 3., 2.])
    """
    offsets = _check_factor(multiply_triangular_banded.contract, offsets, chol=chol, x=x)
    batch = broadcast(chol.shape[:-2], x.shape[:-1])
    y = _result(out, (*batch, x.shape[-1]), x)
    if out is not None and device.overlap(out, x):
        raise ShapeError("multiply_triangular_banded: out overlaps x, expected an array of its own")
    factors, vectors, products = flat(chol, 2), flat(widened(x, y.shape), 1), flat(y, 1)
    owner, row = lane_order(chol.shape[:-2], batch)
    if len(row) < device.LANES and y.shape[-1] >= LONG:  # too few systems to share: share their columns
        for f, r in zip(owner, row, strict=True):
            one = (factors[f], _int64(offsets), vectors[r], products[r], trans)
            work = factors[f].size + 2 * y.shape[-1]
            device.launch("banded", "multiply_columns", *one, n=y.shape[-1], work=work, step=1024)
    else:
        settings = (_int64(offsets), owner, row, vectors, products, trans)
        _launch("multiply_triangular", factors, *settings, n=len(vectors), work=chol.size + 2 * y.size)
    return _deliver(products, y)


@multiply_triangular_banded.vjp(owned=True)
def _(y_bar, y, chol, x, *, needs, offsets=None, trans=False):
    # y = L x:  x̄ = Lᵀ ȳ,  L̄ = ȳ xᵀ on the pattern.  For y = Lᵀ x the two vectors change places.
    chol_bar = x_bar = None
    if needs[0]:
        u, v = (x, y_bar) if trans else (y_bar, x)
        chol_bar = _outer(u, v, chol, offsets)
    if needs[1]:
        x_bar = multiply_triangular_banded(chol, y_bar, offsets=offsets, trans=not trans)
        x_bar = elementwise.unbroadcast(x_bar, x.shape)
    return chol_bar, x_bar


@primitive(saves=True, contract="chol: ... M N", settings=FACTOR)
def inverse_banded(
    chol: Any,
    *,
    offsets: Sequence[int] | None = None,
    fill: bool = False,
    check: bool = True,
    out: Any = None,
    info: Any = None,
    method: str | None = None,
    save: bool = False,
) -> Any:
    """Selected inverse: the entries of (L Lᵀ)⁻¹ on the factor's own pattern.

    Row 0 has the marginal variances, the rows below the covariances of neighbours.

    Parameters
    ----------
    chol : array (..., M, N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    fill : bool, default False
        True: the entries at every offset 0, 1, .., offsets[-1], all of which the recursion computes anyway.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    out : array, optional
        Buffer for the result, of its shape.
    info : int32 array (...), optional
        Receives, per factor, 0 or the 1-based order of the pivot that failed.
    method : {"systems", "segments"}, optional
        For a chain; by default the faster one for its shape (see `method_banded`). "segments" requires offsets (0, 1).
    save : bool, default False
        For the tape: return the inverse at every offset 0, 1, .., offsets[-1] as well, which the derivative needs.

    Returns
    -------
    array (..., M, N), or (..., offsets[-1] + 1, N) with fill=True
        The entries. An off-diagonal entry stands for both symmetric ones, so its cotangent is the sum of the two dense ones.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.
    ConfigError
        An unknown `method`, or "segments" with offsets other than (0, 1).

    Notes
    -----
    Cost O(N * offsets[-1] * (M - 1)), memory O(N * offsets[-1]); never N x N. Source: Takahashi et al. (1973).

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.inverse_banded(chol).round(3)
    array([[0.328, 0.312, 0.25 ],
           [0.156, 0.125, 0.   ]])
    >>> dense = gvae.ops.band_to_dense(chol)
    >>> np.linalg.inv(dense @ dense.T).round(3)
    array([[0.328, 0.156, 0.062],
           [0.156, 0.312, 0.125],
           [0.062, 0.125, 0.25 ]])
    """
    offsets = _check_factor(inverse_banded.contract, offsets, chol=chol)
    whole = fill or len(offsets) == offsets[-1] + 1
    if out is not None and not whole:
        check_out(out, chol.shape, chol.dtype, like=chol)
    s = _closure(chol, offsets, check, info, method, out if whole else None)
    value = s if whole else np.take(s, device.beside(_rows(offsets), s), axis=-2, out=out)
    return (value, s) if save else value


@inverse_banded.vjp(owned=True)
def _(y_bar, y, chol, *, needs, saved, offsets=None, fill=False, check=True, info=None, method=None):
    offsets = _default(offsets, chol)
    s_bar = device.zeros(saved.shape, saved.dtype, saved)
    s_bar[..., slice(None) if fill else device.beside(_rows(offsets), s_bar), :] = y_bar
    return (_closure_vjp(chol, offsets, saved, s_bar),)


def _closure(chol, offsets, check, info=None, method=None, out=None):
    """The inverse at every offset 0..offsets[-1], (..., W, N)."""
    result = _result(out, (*chol.shape[:-2], offsets[-1] + 1, chol.shape[-1]), chol)
    factors, s = flat(chol, 2), flat(result, 2)
    status = device.zeros((len(factors),), np.int32, chol)
    if _chain.choose("inverse", offsets, chol.shape[-1], len(factors), chol, method) == "segments":
        each = owners((len(factors),), (len(factors),))
        _chain.run("INVERSE", factors, factors.reshape(-1, chol.shape[-1]), each, each, each, s, status)
    else:
        _launch("inverse", factors, _int64(offsets), s, status, n=len(factors), work=len(offsets) * s.size)
    _report(status, chol.shape[:-2], check, info)
    return _deliver(s, result)


def _closure_vjp(chol, offsets, s, s_bar):
    """The recursion in reverse over its own closure: O(N W M), as in the forward pass. s_bar is overwritten."""
    factors = flat(chol, 2)
    chol_bar = device.empty(factors.shape, chol.dtype, chol)
    settings = (_int64(offsets), flat(s, 2), flat(s_bar, 2), chol_bar)
    _launch("inverse_vjp", factors, *settings, n=len(factors), work=2 * len(offsets) * s.size)
    return chol_bar.reshape(chol.shape)


def logdet_banded(chol: Any, *, check: bool = True, info: Any = None) -> Any:
    """Log-determinant of the precision, log |L Lᵀ| = 2 sum log L_jj.

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
    >>> gvae.ops.logdet_banded(chol).round(4)
    np.float64(4.1589)
    """
    check_arrays("chol: ... M N", chol=chol)
    return 2 * arrays.sum(_log_pivots(chol, check=check, info=info), axis=-1)


def entropy_banded(chol: Any, *, check: bool = True, info: Any = None) -> Any:
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
    check_arrays("chol: ... M N", chol=chol)
    log_pivots = _log_pivots(chol, check=check, info=info)
    return 0.5 * chol.shape[-1] * (1 + LOG_2PI) - arrays.sum(log_pivots, axis=-1)


def variance_banded(chol: Any, *, offsets: Sequence[int] | None = None, check: bool = True, info: Any = None) -> Any:
    """Variance of each variable: the diagonal of (L Lᵀ)⁻¹, which is row 0 of `inverse_banded`.

    Cost and accuracy are those of `inverse_banded`.

    Parameters
    ----------
    chol : array (..., M, N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    info : int32 array (...), optional
        Receives, per factor, 0 or the 1-based order of the pivot that failed.

    Returns
    -------
    array (..., N)
        The marginal variances.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.variance_banded(chol).round(3)
    array([0.328, 0.312, 0.25 ])
    """
    _check_factor("chol: ... M N", offsets, chol=chol)
    inverse = inverse_banded(chol, offsets=offsets, check=check, info=info)
    return arrays.getitem(inverse, (..., 0, slice(None)))


def log_pivots_banded(chol: Any, *, check: bool = True, info: Any = None) -> Any:
    """Logarithms of the pivots, log L_jj.

    Parameters
    ----------
    chol : array (..., M, N)
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.
    info : int32 array (...), optional
        Receives, per factor, 0 or the 1-based order of the pivot that failed.

    Returns
    -------
    array (..., N)
        log L_jj; all NaN in a failed system.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[1.0, 2.0, 4.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.log_pivots_banded(chol).round(4)
    array([0.    , 0.6931, 1.3863])
    """
    check_arrays("chol: ... M N", chol=chol)
    return _log_pivots(chol, check=check, info=info)


@primitive
def _log_pivots(chol, *, check=True, info=None, name="chol"):
    """log L_jj, (..., N); all NaN in a system that has a pivot which is not positive."""
    pivots = chol[..., 0, :]
    bad = ~(pivots > 0)
    status = device.zeros(pivots.shape[:-1], np.int32, chol)
    failing = bad.any(axis=-1)
    if device.unseen(chol) or failing.any():
        status[...] = np.where(failing, bad.argmax(axis=-1) + 1, 0) if bad.size else 0
        pivots = np.where(failing[..., None], pivots.dtype.type("nan"), pivots)
    _report(status.ravel(), status.shape, check, info, name=name)
    return np.log(pivots)


@_log_pivots.vjp(owned=True)
def _(y_bar, y, chol, *, needs, **settings):
    chol_bar = device.zeros(chol.shape, chol.dtype, chol)
    with np.errstate(divide="ignore", invalid="ignore"):  # a failed system is NaN or inf here, as is its value
        chol_bar[..., 0, :] = y_bar / chol[..., 0, :]
    return (chol_bar,)


@primitive(contract="mean: ... N, chol: ... M N, eps: ... N", settings=FACTOR)
def sample_banded(
    mean: Any, chol: Any, eps: Any, *, offsets: Sequence[int] | None = None, check: bool = True, out: Any = None
) -> Any:
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
def _(z_bar, z, mean, chol, eps, *, needs, offsets=None, check=True):
    return _sample_vjp(z_bar, None, mean, chol, eps, _default(offsets, chol), needs)


@primitive(contract=sample_banded.contract, settings=FACTOR)
def sample_and_log_prob_banded(
    mean: Any, chol: Any, eps: Any, *, offsets: Sequence[int] | None = None, check: bool = True
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
def _(bars, values, mean, chol, eps, *, needs, offsets=None, check=True):
    z_bar, log_q_bar = bars
    return _sample_vjp(z_bar, log_q_bar, mean, chol, eps, _default(offsets, chol), needs)


def _sample(mean, chol, eps, offsets, check, out=None, density=False):
    """(z, log q(z)), or (z, an empty array) without density."""
    leads = mean.shape[:-1], chol.shape[:-2], eps.shape[:-1]
    batch, N = broadcast(*leads), eps.shape[-1]
    z = _result(out, (*batch, N), eps)
    log_q = device.empty(batch if density else (0,), eps.dtype, eps)
    if _chain.choose("solve", offsets, N, math.prod(batch), eps, None) == "segments":
        e = _solve(chol, eps, offsets, trans=True, check=check)
        if density:
            log_q[...] = _log_prob_of_draw(chol, eps, check)
        return device.apply(np.add, mean, e, out=z), log_q
    if out is not None and device.overlap(out, mean):
        mean = mean.copy()
    if out is not None and out is not eps and device.overlap(out, eps):
        eps = eps.copy()
    factors, draws = flat(chol, 2), flat(z, 1)
    status = device.zeros((len(factors),), np.int32, chol)
    inputs = (factors, _int64(offsets), *_rows_of_sample(*leads, batch), flat(mean, 1), flat(eps, 1))
    work = chol.size + mean.size + eps.size + z.size
    _launch("sample", *inputs, draws, log_q.reshape(-1), status, n=len(draws), work=work)
    _report(status, leads[1], check, None)
    return _deliver(draws, z), log_q


@lru_cache(maxsize=64)
def _rows_of_sample(mean, factors, eps, batch):
    """For the draws in `lane_order`, from all batch axes: the factors and draws, and the rows of mean and eps."""
    return (*lane_order(factors, batch), *(owners_in_order(own, factors, batch) for own in (mean, eps)))


def _sample_vjp(z_bar, log_q_bar, mean, chol, eps, offsets, needs):
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


def _mean_bar(z_bar, mean):
    bar = elementwise.unbroadcast(z_bar, mean.shape)
    return device.copy(bar) if bar is z_bar else bar


@primitive(contract="x: ... N, mean: ... N, chol: ... M N", settings=FACTOR)
def log_prob_banded(x: Any, mean: Any, chol: Any, *, offsets: Sequence[int] | None = None, check: bool = True) -> Any:
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
def _(y_bar, y, x, mean, chol, *, needs, offsets=None, check=True):
    inputs = _densities(x, mean, chol, _default(offsets, chol), y.shape)
    d_bar, chol_bar = device.empty((*y.shape, x.shape[-1]), x.dtype, x), device.empty(chol.shape, chol.dtype, chol)
    results = (flat(y_bar, 0), flat(d_bar, 1), flat(chol_bar, 2))
    _launch("log_prob_vjp", *inputs, *results, n=len(results[2]), work=2 * _work(x, mean, chol))
    x_bar = elementwise.unbroadcast(d_bar, x.shape) if needs[0] else None
    mean_bar = device.apply(np.multiply, elementwise.unbroadcast(d_bar, mean.shape), -1) if needs[1] else None
    return x_bar, mean_bar, chol_bar


@primitive(contract="chol: ... M N, eps: ... N", settings={"check": (False,)})
def log_prob_of_draw_banded(chol: Any, eps: Any, *, check: bool = True) -> Any:
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
    check_arrays(log_prob_of_draw_banded.contract, chol=chol, eps=eps)
    return _log_prob_of_draw(chol, eps, check)


@log_prob_of_draw_banded.vjp(owned=True)
def _(y_bar, y, chol, eps, *, needs, check=True):
    return _log_prob_of_draw_vjp(y_bar, chol, eps, needs)


def _log_prob_of_draw(chol, eps, check):
    value = device.empty(broadcast(chol.shape[:-2], eps.shape[:-1]), eps.dtype, eps)
    status = device.zeros((math.prod(chol.shape[:-2]),), np.int32, chol)
    rows = rows_of_factors(chol.shape[:-2], value.shape)
    own = owners_by_factor(eps.shape[:-1], chol.shape[:-2], value.shape)
    inputs = (flat(chol, 2), rows, own, flat(eps, 1))
    work = eps.size + chol.size // max(chol.shape[-2], 1)
    device.launch("banded", "log_prob_of_draw", *inputs, flat(value, 0), status, n=len(status), work=work)
    _report(status, chol.shape[:-2], check, None)
    return value


def _log_prob_of_draw_vjp(y_bar, chol, eps, needs):
    chol_bar = eps_bar = None
    if needs[0]:
        chol_bar = device.empty(chol.shape, chol.dtype, chol)
        chol_bar[..., 1:, :] = 0
        with np.errstate(divide="ignore", invalid="ignore"):  # a failed system's value is NaN already
            np.divide(elementwise.unbroadcast(y_bar, chol.shape[:-2])[..., None], chol[..., 0, :], out=chol_bar[..., 0, :])
    if needs[1]:
        eps_bar = elementwise.unbroadcast(-y_bar[..., None] * eps, eps.shape)
    return chol_bar, eps_bar


def _densities(x, mean, chol, offsets, batch):
    """Arguments of the log-density kernels: the factors, and the right-hand sides, x and means that belong to each."""
    factors = chol.shape[:-2]
    own = (owners_by_factor(a.shape[:-1], factors, batch) for a in (x, mean))
    return flat(chol, 2), _int64(offsets), rows_of_factors(factors, batch), *own, flat(x, 1), flat(mean, 1)


def _work(*arrays_):
    return sum(a.size for a in arrays_)


def kl_divergence_banded(
    mean: Any,
    chol: Any,
    prior_mean: Any = None,
    prior_chol: Any = None,
    *,
    offsets: Sequence[int] | None = None,
    prior_offsets: Sequence[int] | None = None,
    check: bool = True,
) -> Any:
    """KL(N(mean, (L Lᵀ)⁻¹) ‖ prior), where the prior is N(0, I) or N(prior_mean, (L_p L_pᵀ)⁻¹).

    Parameters
    ----------
    mean : array (..., N)
    chol : array (..., M, N)
    prior_mean : array (..., N), optional
        0 by default.
    prior_chol : array (..., M_p, N), optional
        L_p; by default the prior's covariance is the identity.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    prior_offsets : sequence of int, optional
        The diagonals of `prior_chol`; only with it.
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

    Notes
    -----
    To N(0, I) it is summed node by node, 1/2 (S_jj + mean_j² - 1) + log L_jj with S = (L Lᵀ)⁻¹, so that
    nothing large cancels.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.kl_divergence_banded(np.zeros(3), chol).round(4)
    np.float64(1.0248)
    >>> independent = np.array([[2.0, 2.0, 2.0]])  # a prior with covariance I / 4
    >>> gvae.ops.kl_divergence_banded(np.zeros(3), chol, prior_chol=independent).round(3)
    np.float64(0.281)
    """
    offsets = _check_factor("mean: ... N, chol: ... M N", offsets, mean=mean, chol=chol)
    if prior_mean is not None:
        check_arrays("mean: ... N, prior_mean: ... N", mean=mean, prior_mean=prior_mean)
    if prior_chol is not None:
        factors = {"mean": mean, "prior_chol": prior_chol}
        pattern = _check_factor("mean: ... N, prior_chol: ... M N", prior_offsets, name="prior_offsets", **factors)
    elif prior_offsets is not None:
        raise ShapeError(f"{caller_name()}: prior_offsets is {prior_offsets!r}, expected None without prior_chol")
    difference = mean if prior_mean is None else elementwise.subtract(mean, prior_mean)
    if prior_chol is None:
        return _kl_standard(difference, chol, offsets=offsets, check=check)

    # tr(L_pᵀ S L_p) = sum_j sum_kl L_p[j + o_k, j] L_p[j + o_l, j] S[j + o_k, j + o_l]: S is needed on the prior's pattern,
    # so q's factor is widened with zero diagonals until its closure reaches the prior's last offset.
    log_pivots = _log_pivots(chol, check=check)
    if pattern[-1] > offsets[-1]:
        chol, offsets = _widen(chol, offsets, pattern[-1])
    s = inverse_banded(chol, offsets=offsets, fill=True, check=check)
    N = chol.shape[-1]
    prior_log_pivots = _log_pivots(prior_chol, check=check, name="prior_chol")
    total = arrays.sum(elementwise.subtract(log_pivots, prior_log_pivots) - 0.5, axis=-1)
    for k, o_k in enumerate(pattern):
        for l, o_l in enumerate(pattern[: k + 1]):
            n = N - o_k  # columns j for which both entries exist
            if n <= 0:
                continue
            pair = arrays.getitem(prior_chol, (..., k, slice(n))) * arrays.getitem(prior_chol, (..., l, slice(n)))
            product = elementwise.multiply(pair, arrays.getitem(s, (..., o_k - o_l, slice(o_l, o_l + n))))
            total = total + (0.5 if k == l else 1.0) * arrays.sum(product, axis=-1)
    w = multiply_triangular_banded(prior_chol, difference, offsets=pattern, trans=True)
    return total + 0.5 * arrays.sum(elementwise.square(w), axis=-1)


@primitive(saves=True, contract="mean: ... N, chol: ... M N", settings=FACTOR)
def _kl_standard(mean, chol, *, offsets, check, save=False):
    """KL to N(0, I) in one pass over the nodes; used in every training step of a structured posterior."""
    s = _closure(chol, offsets, check)
    with np.errstate(divide="ignore", invalid="ignore"):  # a failed system's s is NaN, and so is its value
        node = 0.5 * (s[..., 0, :] + mean * mean - 1) + np.log(chol[..., 0, :])
    value = node.sum(axis=-1)
    return (value, s) if save else value


@_kl_standard.vjp(owned=True)
def _(y_bar, y, mean, chol, *, needs, offsets, check, saved):
    # node = 1/2 (S_jj + mean_j² - 1) + log L_jj:  mean̄ = ȳ mean,  L̄ from S̄_jj = ȳ / 2, and ȳ / L_jj on the diagonal
    mean_bar = chol_bar = None
    if needs[0]:
        mean_bar = elementwise.unbroadcast(y_bar[..., None] * mean, mean.shape)
    if needs[1]:
        own = elementwise.unbroadcast(y_bar, chol.shape[:-2])[..., None]
        s_bar = device.zeros(saved.shape, saved.dtype, saved)
        s_bar[..., 0, :] = 0.5 * own
        chol_bar = _closure_vjp(chol, offsets, saved, s_bar)
        with np.errstate(divide="ignore", invalid="ignore"):
            chol_bar[..., 0, :] += own / chol[..., 0, :]
    return mean_bar, chol_bar


def method_banded(operation: str, N: int, *, systems: int = 1, dtype: Any = np.float32) -> str:
    """Default method of solving or inverting a chain (offsets 0, 1) of N variables: the one used where no `method` is given.

    Parameters
    ----------
    operation : {"solve", "inverse"}
    N : int
        The number of variables.
    systems : int, default 1
        Right-hand sides, or factors to invert.
    dtype : dtype, default np.float32
        float32 or float64.

    Returns
    -------
    str
        "systems" (LANES systems side by side, each from end to end) or "segments" (each system cut into segments that run
        side by side): the faster of the two at the nearest shape of gvae/kernels/methods.json.

    Raises
    ------
    ConfigError, DTypeError

    Examples
    --------
    >>> gvae.ops.method_banded("solve", 1_000)
    'systems'
    >>> gvae.ops.method_banded("solve", 1_000_000)
    'segments'
    """
    if operation not in ("solve", "inverse"):
        raise ConfigError(f"method_banded: operation is {operation!r}, expected 'solve' or 'inverse'")
    dtype = check_floating(dtype=np.empty(0, dtype))
    return _chain.choose(operation, (0, 1), N, systems, np.empty(0, dtype), None)


def band_to_dense(
    band: Any, *, offsets: Sequence[int] | None = None, symmetric: bool = False, upper: bool = False
) -> np.ndarray:
    """Dense matrix of a stored factor or, with symmetric=True, of a stored symmetric band: for inspection.

    Parameters
    ----------
    band : array (..., M, N)
        As this module stores it.
    offsets : sequence of int, optional
        The diagonals of `band`; by default 0, 1, .., M-1.
    symmetric : bool, default False
        Mirror the entries.
    upper : bool, default False
        `band` is in LAPACK's upper form instead, band[..., M - 1 - d, j] = A[j - d, j]; the matrix is upper triangular.

    Returns
    -------
    array (..., N, N)
        The matrices, zero outside of the pattern.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.band_to_dense(np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]]))
    array([[ 2.,  0.,  0.],
           [-1.,  2.,  0.],
           [ 0., -1.,  2.]])
    """
    offsets = _check_factor("band: ... M N", offsets, band=band)
    N = band.shape[-1]
    dense = device.zeros((*band.shape[:-2], N, N), band.dtype, band)
    for below, above, entries in _entries(dense, band, offsets, upper):
        below[...] = entries
        if symmetric:
            above[...] = entries
    return dense


def dense_to_band(dense: Any, *, offsets: Sequence[int], upper: bool = False) -> np.ndarray:
    """Diagonals `offsets` of dense matrices, stored by diagonals, zero where an entry does not exist.

    Parameters
    ----------
    dense : array (..., N, N)
    offsets : sequence of int
        The diagonals to store, strictly increasing from 0.
    upper : bool, default False
        The upper diagonals, in LAPACK's form (see `band_to_dense`), instead of the lower ones as this module stores them.

    Returns
    -------
    array (..., M, N)
        The diagonals.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> precision = np.array([[4.0, -2.0, 0.0], [-2.0, 5.0, -2.0], [0.0, -2.0, 5.0]])
    >>> gvae.ops.dense_to_band(precision, offsets=(0, 1))
    array([[ 4.,  5.,  5.],
           [-2., -2.,  0.]])
    """
    check_arrays("dense: ... N N", dense=dense)
    offsets = check_offsets(offsets)
    N = dense.shape[-1]
    band = device.zeros((*dense.shape[:-2], len(offsets), N), dense.dtype, dense)
    for below, _, entries in _entries(device.plain(dense), band, offsets, upper):
        entries[...] = below
    return band


def _entries(dense, band, offsets, upper):
    """Views of each diagonal: in the dense matrices, its mirror image there, and as stored. With upper=True the first is the
    upper one."""
    N = band.shape[-1]
    flat = dense.reshape(*dense.shape[:-2], N * N)
    for k, o in enumerate(offsets):
        n = max(N - o, 0)
        below, above = flat[..., o * N :: N + 1], flat[..., min(o, N * N) : n * N : N + 1]
        if upper:
            yield above, below, band[..., len(offsets) - 1 - k, N - n :]
        else:
            yield below, above, band[..., k, :n]


def _widen(chol: Any, offsets: tuple[int, ...], last: int) -> tuple[Any, tuple[int, ...]]:
    """The same factor with one more diagonal, `last`, of zeros, so that its closure includes that diagonal."""
    zero = device.zeros((*chol.shape[:-2], 1, chol.shape[-1]), chol.dtype, chol)
    return arrays.concatenate([chol, zero], axis=-2), (*offsets, last)


def _outer(u, v, chol, offsets, sign=1):
    """sign * sum u vᵀ over the right-hand sides of each factor, on the factor's pattern: shape of chol."""
    offsets = _default(offsets, chol)
    shape = broadcast(u.shape, v.shape)
    u, v = widened(u, shape), widened(v, shape)
    band = device.empty((math.prod(chol.shape[:-2]), *chol.shape[-2:]), chol.dtype, chol)
    rows = rows_of_factors(chol.shape[:-2], u.shape[:-1])
    settings = (rows, _int64(offsets), sign, band)
    device.launch("banded", "outer", flat(u, 1), flat(v, 1), *settings, n=len(band), work=2 * u.size + band.size)
    return band.reshape(chol.shape)


def _launch(name, *arguments, n, work):
    device.launch("banded", name, *arguments, n=n, work=work, step=device.LANES)


def _default(offsets, chol) -> tuple[int, ...]:
    return tuple(range(chol.shape[-2])) if offsets is None else tuple(offsets)


def _check_factor(contract: str, offsets: Any, *, name: str = "offsets", **arguments: Any) -> tuple[int, ...]:
    M = check_arrays(contract, **arguments)["M"]
    if offsets is None and M > 0:
        return tuple(range(M))
    return check_offsets(() if offsets is None else offsets, M, name=name)


def _result(out, shape, like):
    if out is None:
        return device.empty(shape, like.dtype, like)
    check_out(out, shape, like.dtype, like=like)
    return out


def _deliver(result, x):
    """x, into which `result` is copied where the kernel wrote to a copy (the caller's x has another layout)."""
    if result is not x and not device.overlap(result, x):
        x[...] = result.reshape(x.shape)
    return x


@lru_cache(maxsize=256)
def _int64(offsets: tuple[int, ...]) -> np.ndarray:
    return np.array(offsets, np.int64)


@lru_cache(maxsize=256)
def _rows(offsets: tuple[int, ...]) -> np.ndarray:
    rows = np.array(offsets, np.int64)
    rows.flags.writeable = False
    return rows


def _report(status, batch: tuple[int, ...], check: bool, info: Any, name: str = "chol") -> None:
    """Turn the kernels' status into `info` and, with check=True, into an error that names every failing system."""
    if info is not None:
        check_out(info, batch, np.int32, name="info", like=status)
        info[...] = status.reshape(batch)
    if check and status.any():
        status = device.to_host(status)
        failed = np.flatnonzero(status)
        rows = [tuple(int(i) for i in np.unravel_index(f, batch)) for f in failed]
        minors = [int(status[f]) for f in failed]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise NotPositiveDefiniteError(
            f"{caller_name()}: {name} has a pivot that is not positive in row {rows[0]}, column {minors[0] - 1}{more}, "
            "expected every L_jj > 0",
            rows,
            minors,
        )


def __getattr__(name: str) -> Any:
    return renamed_op(__name__, name)
