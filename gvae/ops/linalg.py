"""Dense linear algebra, batched, with derivatives (Giles 2008; Murray 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from gvae.autodiff import primitive, vjp
from gvae.checks import caller_name, check_arrays, check_out
from gvae.errors import NotPositiveDefiniteError
from gvae.ops import banded
from gvae.ops._batching import flat, owners
from gvae.ops.elementwise import unbroadcast
from gvae.runtime import device
from gvae.runtime.compile import Use, registered
from gvae.typing import Array, Cotangents, Needs

__all__ = ["cholesky", "eigh", "solve_triangular"]


@primitive
def cholesky(a: Array, *, check: bool = True, info: Any = None) -> Array:
    """Lower Cholesky factor L of a symmetric positive definite matrix A = L Lᵀ.

    Parameters
    ----------
    a : array (..., N, N)
        A; only the lower triangle is read. Its cotangent is symmetric.
    check : bool, default True
        False: the rows that fail are NaN instead of raising; the others are as they are with check=True.
    info : int32 array (...), optional
        Receives, per system, 0 or the 1-based order of the leading minor that failed.

    Returns
    -------
    array (..., N, N)
        L.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False. Names the failing rows and minors.

    Examples
    --------
    >>> gvae.ops.cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))
    array([[2., 0.],
           [1., 2.]])
    """
    check_arrays("a: ... N N", a=a)
    if info is not None:
        check_out(info, a.shape[:-2], np.int32, name="info", like=a)
    l, minors = _factor(a) if not device.is_cuda(a) else _factor_on_device(a)
    if info is not None:
        device.written(info)[...] = minors
    if check and minors.any():
        minors = device.to_host(minors)
        failed = minors != 0
        rows = [tuple(int(i) for i in row) for row in np.argwhere(failed)]
        first = f"row {rows[0]}, minor {minors[failed][0]}"
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise NotPositiveDefiniteError(
            f"{caller_name()}: a is not positive definite in {first}{more}", rows, minors[failed].tolist()
        )
    return l


def _factor(a: Array) -> tuple[Array, Array]:
    """The factors, NaN where there is none, and for each the order of the first failing minor, or 0."""
    try:
        return device.foreign(_good_factor, a), np.zeros(a.shape[:-2], np.int32)
    except np.linalg.LinAlgError:
        minors = _failing_minors(a)
    failed = minors != 0
    l = np.linalg.cholesky(np.where(failed[..., None, None], np.eye(a.shape[-1], dtype=a.dtype), a))
    l[failed] = np.nan
    return l, minors


def _good_factor(a: Array) -> Array:
    l = np.linalg.cholesky(a)
    if not (_diagonal(l) > 0).all():  # some LAPACK libraries let NaN pass
        raise np.linalg.LinAlgError("not positive definite")
    return l


def _factor_on_device(a: Array) -> tuple[Array, Array]:
    library = device.library()
    try:
        if library.takes(a):
            return library.cholesky(a), device.zeros(a.shape[:-2], np.int32, a)
    except np.linalg.LinAlgError:
        pass
    return _factor_as_band(a)


def _factor_as_band(a: Array) -> tuple[Array, Array]:
    """By the kernel for bands: it finds the minors itself, and the host does not wait for them."""
    minors = device.zeros(a.shape[:-2], np.int32, a)
    if a.size == 0:
        return a.copy(), minors
    ab = banded.dense_to_band(a, offsets=range(a.shape[-1]))
    l = banded.band_to_dense(banded.cholesky_banded(ab, check=False, info=minors))
    return np.where((minors != 0)[..., None, None], a.dtype.type("nan"), l), minors


@cholesky.vjp
def _(l_bar: Array, l: Array, a: Array, *, needs: Needs, check: bool = True, info: Any = None) -> Cotangents:
    # Ā = 1/2 (X + Xᵀ) with X = L⁻ᵀ Φ(Lᵀ L̄) L⁻¹, Φ = lower triangle with half the diagonal.  Murray 2016, eq. 10.
    phi = _phi(l.swapaxes(-1, -2) @ l_bar)
    x = solve_triangular(l, phi, trans=True)
    x = solve_triangular(l, x.swapaxes(-1, -2), trans=True)
    return (0.5 * (x + x.swapaxes(-1, -2)),)


def _phi(a: Array) -> Array:
    return np.tril(a) * (1 - 0.5 * device.namespace(a).eye(a.shape[-1], dtype=a.dtype))


def _diagonal(a: Array) -> Array:
    return np.diagonal(a, axis1=-2, axis2=-1)


def _failing_minors(a: Array) -> Array:
    """For each system 0, or the order of the first leading minor that is not positive (written for clarity, not speed)."""
    minors = np.zeros(a.shape[:-2], np.int32)
    for index in np.ndindex(minors.shape):
        for n in range(1, a.shape[-1] + 1):
            try:
                good = (_diagonal(np.linalg.cholesky(a[index][:n, :n])) > 0).all()
            except np.linalg.LinAlgError:
                good = False
            if not good:
                minors[index] = n
                break
    return minors


@primitive
def solve_triangular(l: Array, b: Array, *, trans: bool = False) -> Array:
    """Solve L X = B for a dense lower-triangular L, or Lᵀ X = B with trans=True.

    Parameters
    ----------
    l : array (..., N, N)
        L; only the lower triangle is read. The diagonal is not checked: where it has a zero, the result is inf or NaN.
    b : array (..., N, K)
        B.
    trans : bool, default False
        Solve with Lᵀ.

    Returns
    -------
    array (..., N, K)
        X; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    On a CPU no BLAS is used, since SciPy's BLAS next to NumPy's means two pools of threads that wait for one another:
    on two cores, a Cholesky factor by one and a solve by the other take 20 ms and more, whatever their size.

    Examples
    --------
    >>> l = np.array([[1.0, 0.0], [0.5, 1.0]])
    >>> gvae.ops.solve_triangular(l, np.array([[1.0], [2.5]]))
    array([[1.],
           [2.]])
    """
    sizes = check_arrays("l: ... N N, b: ... N K", l=l, b=b)
    batch, N, K = sizes["..."], sizes["N"], sizes["K"]
    x = device.copy(np.broadcast_to(b, (*batch, N, K)))
    if x.size == 0:
        return x
    if device.is_cuda(l) and math.prod(batch) <= N and device.library().takes(l):  # one launch for more systems is faster
        device.library().solve_triangular(np.broadcast_to(l, (*batch, N, N)), trans, x)
        return x
    owner = owners(l.shape[:-2], batch)
    panels = len(owner) * -(-K // device.LANES)
    device.launch("triangular", "solve", flat(l, 2), owner, bool(trans), flat(x, 2), n=panels, work=x.size * N // 2)
    return x


@solve_triangular.vjp
def _(x_bar: Array, x: Array, l: Array, b: Array, *, needs: Needs, trans: bool = False) -> Cotangents:
    # L X = B:  B̄ = L⁻ᵀ X̄,  L̄ = -tril(B̄ Xᵀ).  For Lᵀ X = B:  L̄ = -tril(X B̄ᵀ).  Giles 2008, sec. 2.3.
    b_bar = solve_triangular(l, x_bar, trans=not trans)
    u, v = (x, b_bar) if trans else (b_bar, x)
    l_bar = -np.tril(u @ v.swapaxes(-1, -2)) if needs[0] else None
    return (
        unbroadcast(l_bar, l.shape) if needs[0] else None,
        unbroadcast(b_bar, b.shape) if needs[1] else None,
    )


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    yield partial(_used, np.eye(3, dtype=dtype), np.ones((3, 2), dtype))


def _used(l: np.ndarray, b: np.ndarray, traced: Callable[[np.ndarray], Any]) -> None:
    value, pull = vjp(solve_triangular, traced(l), traced(b))
    pull(value)


@primitive
def eigh(a: Array) -> tuple[Array, ...]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix A = V diag(w) Vᵀ.

    Parameters
    ----------
    a : array (..., N, N)
        A; only the lower triangle is read. Its cotangent is symmetric.

    Returns
    -------
    w : array (..., N)
        The eigenvalues.
    v : array (..., N, N)
        V; the eigenvectors are its columns. Where an entry of A is not finite, both results are NaN for that system.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    The derivative of V needs distinct eigenvalues; that of w does not.

    Examples
    --------
    >>> w, v = gvae.ops.eigh(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> w
    array([1., 3.])
    >>> (v * w @ v.T).round(6)
    array([[2., 1.],
           [1., 2.]])
    """
    check_arrays("a: ... N N", a=a)
    finite = np.isfinite(np.tril(a)).all(axis=(-2, -1))
    if finite.all():
        return tuple(np.linalg.eigh(a))
    w, v = np.linalg.eigh(np.where(finite[..., None, None], a, a.dtype.type(0)))  # LAPACK may not terminate on a NaN
    w[~finite], v[~finite] = np.nan, np.nan
    return w, v


@eigh.vjp
def _(bars: Sequence[Array | None], value: tuple[Array, ...], a: Array, *, needs: Needs) -> Cotangents:
    # Ā = V (diag(w̄) + F ∘ (Vᵀ V̄)) Vᵀ, F_ij = 1 / (w_j - w_i) off the diagonal, symmetrised.  Giles 2008, sec. 3.1.
    w, v = value
    w_bar, v_bar = bars
    vt = v.swapaxes(-1, -2)
    xp = device.namespace(a)
    inner = xp.zeros(a.shape, a.dtype)
    if v_bar is not None:
        gap = w[..., None, :] - w[..., :, None]
        diagonal = xp.eye(w.shape[-1], dtype=bool)
        with np.errstate(divide="ignore"):
            f = np.where(diagonal, a.dtype.type(0), 1 / np.where(diagonal, a.dtype.type(1), gap))
        inner = inner + f * (vt @ v_bar)
    if w_bar is not None:
        inner = inner + w_bar[..., None] * xp.eye(w.shape[-1], dtype=a.dtype)
    a_bar = v @ inner @ vt
    return (0.5 * (a_bar + a_bar.swapaxes(-1, -2)),)
