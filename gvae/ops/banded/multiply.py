"""Products with a banded factor."""

from __future__ import annotations

from collections.abc import Sequence

from gvae.autodiff import primitive
from gvae.errors import ShapeError
from gvae.ops import elementwise
from gvae.ops._batching import broadcast, flat, lane_order, widened
from gvae.ops.banded._storage import BOTH_WAYS, OFFSETS, _apart, _check_factor, _deliver, _int64, _launch, _outer, _result
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["multiply_triangular_banded"]

LONG = 1 << 16  # columns from which threads share one product


@primitive(contract="chol: ... M N, x: ... N", settings=OFFSETS | BOTH_WAYS)
def multiply_triangular_banded(
    chol: Array, x: Array, *, offsets: Sequence[int] | None = None, trans: bool = False, out: Array = None
) -> Array:
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
        Buffer for the result. It must not overlap `x`.

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
    chol = _apart(chol, out)
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
def _(
    y_bar: Array, y: Array, chol: Array, x: Array, *, needs: Needs, offsets: Sequence[int] | None = None, trans: bool = False
) -> Cotangents:
    # y = L x:  x̄ = Lᵀ ȳ,  L̄ = ȳ xᵀ on the pattern.  For y = Lᵀ x the two vectors change places.
    chol_bar = x_bar = None
    if needs[0]:
        u, v = (x, y_bar) if trans else (y_bar, x)
        chol_bar = _outer(u, v, chol, offsets)
    if needs[1]:
        x_bar = multiply_triangular_banded(chol, y_bar, offsets=offsets, trans=not trans)
        x_bar = elementwise.unbroadcast(x_bar, x.shape)
    return chol_bar, x_bar
