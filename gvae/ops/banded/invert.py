"""Selected inverses of L Lᵀ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_out
from gvae.ops import _chain, arrays
from gvae.ops._batching import flat, owners
from gvae.ops.banded._storage import (
    FACTOR,
    _apart,
    _check_factor,
    _default,
    _deliver,
    _int64,
    _launch,
    _report,
    _result,
    _rows,
)
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["inverse_banded", "variance_banded"]


@primitive(saves=True, contract="chol: ... M N", settings=FACTOR)
def inverse_banded(
    chol: Array,
    *,
    offsets: Sequence[int] | None = None,
    fill: bool = False,
    check: bool = True,
    out: Array = None,
    info: Any = None,
    method: str | None = None,
    save: bool = False,
) -> Array:
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
def _(
    y_bar: Array,
    y: Array,
    chol: Array,
    *,
    needs: Needs,
    saved: Array,
    offsets: Sequence[int] | None = None,
    fill: bool = False,
    check: bool = True,
    info: Array = None,
    method: str | None = None,
) -> Cotangents:
    offsets = _default(offsets, chol)
    s_bar = device.zeros(saved.shape, saved.dtype, saved)
    s_bar[..., slice(None) if fill else device.beside(_rows(offsets), s_bar), :] = y_bar
    return (_closure_vjp(chol, offsets, saved, s_bar),)


def _closure(
    chol: Array, offsets: tuple[int, ...], check: bool, info: Array = None, method: str | None = None, out: Array = None
) -> Array:
    """The inverse at every offset 0..offsets[-1], (..., W, N)."""
    result = _result(out, (*chol.shape[:-2], offsets[-1] + 1, chol.shape[-1]), chol)
    chol = _apart(chol, out)
    factors, s = flat(chol, 2), flat(result, 2)
    status = device.zeros((len(factors),), np.int32, chol)
    if _chain.choose("inverse", offsets, chol.shape[-1], len(factors), chol, method) == "segments":
        each = owners((len(factors),), (len(factors),))
        _chain.run("INVERSE", factors, factors.reshape(2 * len(factors), chol.shape[-1]), each, each, each, s, status)
    else:
        _launch("inverse", factors, _int64(offsets), s, status, n=len(factors), work=len(offsets) * s.size)
    _report(status, chol.shape[:-2], check, info)
    return _deliver(s, result)


def _closure_vjp(chol: Array, offsets: tuple[int, ...], s: Array, s_bar: Array) -> Array:
    """The recursion in reverse over its own closure: O(N W M), as in the forward pass. s_bar is overwritten."""
    factors = flat(chol, 2)
    chol_bar = device.empty(factors.shape, chol.dtype, chol)
    settings = (_int64(offsets), flat(s, 2), flat(s_bar, 2), chol_bar)
    _launch("inverse_vjp", factors, *settings, n=len(factors), work=2 * len(offsets) * s.size)
    return chol_bar.reshape(chol.shape)


def variance_banded(chol: Array, *, offsets: Sequence[int] | None = None, check: bool = True, info: Any = None) -> Array:
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
