"""Solves with a banded factor, and the choice of their method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import primitive
from gvae.checks import check_floating
from gvae.errors import ConfigError
from gvae.ops import _chain, elementwise
from gvae.ops._batching import broadcast, flat, lane_order, owners_in_order, rows_of_factors, widened
from gvae.ops.banded._storage import (
    BOTH_WAYS,
    FACTOR,
    _apart,
    _check_factor,
    _default,
    _deliver,
    _int64,
    _launch,
    _outer,
    _report,
    _result,
)
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["cho_solve_banded", "method_banded", "solve_triangular_banded"]


@primitive(contract="chol: ... M N, b: ... N", settings=FACTOR | BOTH_WAYS)
def solve_triangular_banded(
    chol: Array,
    b: Array,
    *,
    offsets: Sequence[int] | None = None,
    trans: bool = False,
    check: bool = True,
    out: Array = None,
    info: Any = None,
    method: str | None = None,
) -> Array:
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
def _(
    x_bar: Array,
    x: Array,
    chol: Array,
    b: Array,
    *,
    needs: Needs,
    offsets: Sequence[int] | None = None,
    trans: bool = False,
    check: bool = True,
    info: Array = None,
    method: str | None = None,
) -> Cotangents:
    return _solve_vjp(x_bar, x, chol, b, offsets, trans=trans, needs=needs, method=method)


def _solve(
    chol: Array,
    b: Array,
    offsets: Sequence[int] | None,
    *,
    trans: bool,
    check: bool,
    out: Array = None,
    info: Array = None,
    method: str | None = None,
) -> Array:
    offsets = _default(offsets, chol)
    batch = broadcast(chol.shape[:-2], b.shape[:-1])
    x = _result(out, (*batch, b.shape[-1]), b)
    chol, b = _apart(chol, out), _apart(b, out, same=True)
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


def _solve_vjp(
    x_bar: Array,
    x: Array,
    chol: Array,
    b: Array,
    offsets: Sequence[int] | None,
    *,
    trans: bool,
    needs: Needs,
    method: str | None = None,
) -> Cotangents:
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


def cho_solve_banded(
    chol: Array, b: Array, *, offsets: Sequence[int] | None = None, check: bool = True, out: Array = None
) -> Array:
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


def method_banded(operation: str, N: int, *, systems: int = 1, dtype: DTypeLike = np.float32) -> str:
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
