"""Cholesky factors of symmetric bands, their products L Lᵀ, and the determinant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.ops import arrays
from gvae.ops._batching import flat
from gvae.ops.banded._storage import OFFSETS, _apart, _check_factor, _default, _deliver, _launch, _report, _result
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["cholesky_banded", "gram_banded", "log_pivots_banded", "logdet_banded"]


@primitive(contract="ab: ... M N", settings={"check": (False,)})
def cholesky_banded(ab: Array, *, check: bool = True, out: Array = None, info: Any = None) -> Array:
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
    _check_factor(cholesky_banded.contract, None, ab=ab)
    chol = _result(out, ab.shape, ab)
    ab = _apart(ab, out, same=True)
    factors, systems = flat(chol, 2), flat(ab, 2)
    status = device.zeros((len(systems),), np.int32, ab)
    _launch("cholesky", systems, factors, status, n=len(systems), work=2 * ab.size)
    _report(status, ab.shape[:-2], check, info, name="ab")
    return _deliver(factors, chol)


@cholesky_banded.vjp(owned=True)
def _(chol_bar: Array, chol: Array, ab: Array, *, needs: Needs, check: bool = True, info: Array = None) -> Cotangents:
    # The loops of the factorisation in reverse: Murray 2016, section 4.1, restricted to the band.
    factors = flat(chol, 2)
    work, ab_bar = device.copy(flat(chol_bar, 2)), device.empty(factors.shape, chol.dtype, chol)
    _launch("cholesky_vjp", factors, work, ab_bar, n=len(factors), work=3 * chol.size)
    return (ab_bar.reshape(ab.shape),)


@primitive(contract="chol: ... M N", settings=OFFSETS)
def gram_banded(chol: Array, *, offsets: Sequence[int] | None = None) -> Array:
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
    Diagonals that are not a difference of two offsets are zero; the factor of a sum of two such products generally fills
    them.
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
def _(ab_bar: Array, ab: Array, chol: Array, *, needs: Needs, offsets: Sequence[int] | None = None) -> Cotangents:
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


def logdet_banded(chol: Array, *, check: bool = True, info: Any = None) -> Array:
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
    _check_factor("chol: ... M N", None, chol=chol)
    return 2 * arrays.sum(_log_pivots(chol, check=check, info=info), axis=-1)


def log_pivots_banded(chol: Array, *, check: bool = True, info: Any = None) -> Array:
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
    _check_factor("chol: ... M N", None, chol=chol)
    return _log_pivots(chol, check=check, info=info)


@primitive
def _log_pivots(chol: Array, *, check: bool = True, info: Array = None, name: str = "chol") -> Array:
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
def _(y_bar: Array, y: Array, chol: Array, *, needs: Needs, **settings: Any) -> Cotangents:
    chol_bar = device.zeros(chol.shape, chol.dtype, chol)
    with np.errstate(divide="ignore", invalid="ignore"):
        chol_bar[..., 0, :] = np.where(np.isnan(y), y, y_bar / chol[..., 0, :])  # NaN in a failed system, as its value
    return (chol_bar,)
