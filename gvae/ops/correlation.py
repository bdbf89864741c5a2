"""Canonical correlations of two views, with a derivative that needs no derivatives of eigenvectors (Andrew et al. 2013)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays
from gvae.errors import ConfigError, ShapeError
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["canonical_correlation"]

ROUNDING = 16  # times eps: what rounding of entries, and of the few terms that they are sums of, may leave of a constant


@primitive
def canonical_correlation(f: Array, g: Array, *, ridge: float = 0.0) -> Array:
    """Sum of the canonical correlations of two views: of the singular values of T = Sxx^-1/2 Sxy Syy^-1/2.

    Parameters
    ----------
    f : array (B, n)
        Rows of the first view.
    g : array (B, m)
        The same rows of the second.
    ridge : float, default 0.0
        What is added to the diagonals of Sxx and Syy, relative to the mean variance of the view's columns.

    Returns
    -------
    scalar
        Between 0 and min(n, m). NaN where an entry of f or g is not finite.

    Raises
    ------
    ShapeError
        Also for B <= 2 max(n, m): with so few rows, all views are strongly correlated.
    DTypeError
    ConfigError
        ridge is not a number of at least 0.

    Notes
    -----
    Covariances are over B - 1, and all arithmetic is in float64, on the host. Directions in which a view has no variance but
    for rounding in its dtype do not count, with a ridge or without: the inverse square roots are pseudo-inverses. The result
    does not depend on the units of a view, however large or small its entries.

    The derivative is finite at equal singular values, which only eigenvectors of T depend on. At a singular value of 0,
    where the sum has a kink, its part of the derivative is 0. The ridge depends on the view, and its derivative is included.
    Source: Andrew, Arora, Bilmes and Livescu (2013).

    Examples
    --------
    >>> f = gvae.random.normal(gvae.random.key(0), (100, 2), np.float64)
    >>> g = f @ np.array([[1.0, 2.0], [0.0, 1.0]])  # the same view in other coordinates
    >>> gvae.ops.canonical_correlation(f, g).round(6)
    np.float64(2.0)
    >>> gvae.ops.canonical_correlation(f, f[:, :1], ridge=0.25).round(2)
    np.float64(0.8)
    """
    sizes = check_arrays("f: B N, g: B M", f=f, g=g)
    check_ridge("canonical_correlation", ridge)
    least = 2 * max(sizes["N"], sizes["M"])
    if sizes["B"] <= least:
        raise ShapeError(
            f"canonical_correlation: f and g have {sizes['B']} rows, expected more than {least}, twice the columns of the "
            "wider view, because views of fewer rows always correlate: give larger batches, or fewer columns"
        )
    return device.foreign(_value, f, g, ridge)


@canonical_correlation.vjp
def _(bar: Array, value: Array, f: Array, g: Array, *, needs: Needs, ridge: float = 0.0) -> Cotangents:
    # The sum of singular values is maximal over orthonormal U, V in tr(U' T V), hence stationary in them: no derivative of
    # U and V enters. With D12 = Sxx^-1/2 U V' Syy^-1/2 and D11 = -1/2 Sxx^-1/2 U diag(rho) U' Sxx^-1/2, rows being samples,
    #   dF = (2 F D11 + G D12') / (B - 1).   Andrew et al. 2013, sec. 3.
    # The ridge r = ridge tr(Sxx) / n enters Sxx + r I: dr has the weight tr(D11), and dr/dF = 2 (ridge/n) F / (B - 1).
    both = device.foreign(_derivative, bar, f, g, ridge)
    n = f.shape[1]
    return (both[:, :n] if needs[0] else None, both[:, n:] if needs[1] else None)


@dataclass(frozen=True)
class Whitened:
    """Two views, centred, and what their canonical correlations follow from, in float64 on the host.

    F (B, n), G (B, m) : the centred views, over 2**units    means, units : their means, (n,) and (m,), and exponents
    A (n, n), C (m, m) : Sxx^-1/2 and Syy^-1/2 of F and G    U, rho, V    : A Sxy C = U diag(rho) V', (n, k), (k,), (m, k)

    Of k = min(n, m) pairs, those beyond the rank of a view are 0. All is NaN if an entry of a view is not finite.
    """

    F: np.ndarray
    G: np.ndarray
    means: tuple[np.ndarray, np.ndarray]
    units: tuple[Any, Any]
    A: np.ndarray
    C: np.ndarray
    U: np.ndarray
    rho: np.ndarray
    V: np.ndarray

    @classmethod
    def of(cls, f: np.ndarray, g: np.ndarray, ridge: float) -> Whitened:
        """From two views of at least two rows; NaN where an entry is not finite."""
        if not (np.isfinite(f).all() and np.isfinite(g).all()):  # LAPACK may not terminate on a NaN
            n, m, nan = f.shape[1], g.shape[1], partial(np.full, fill_value=math.nan)
            roots, pairs = (nan((n, n)), nan((m, m))), (nan((n, min(n, m))), nan(min(n, m)), nan((m, min(n, m))))
            return cls(nan(f.shape), nan(g.shape), (nan(n), nan(m)), (0, 0), *roots, *pairs)
        F, f_mean, f_unit, f_noise = _centred(f)
        G, g_mean, g_unit, g_noise = _centred(g)
        A, f_rank = _inverse_root(F, f_noise, ridge)
        C, g_rank = _inverse_root(G, g_noise, ridge)
        U, rho, Vt = np.linalg.svd(A @ (F.T @ G / (len(F) - 1)) @ C, full_matrices=False)
        counts = np.arange(len(rho)) < min(f_rank, g_rank)  # the rank of A Sxy C is not above it: the rest is rounding
        means = np.ldexp(f_mean, f_unit), np.ldexp(g_mean, g_unit)
        return cls(F, G, means, (f_unit, g_unit), A, C, U * counts, rho * counts, Vt.T * counts)


def _centred(x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, np.ndarray, Any, np.ndarray]:
    """x (N, n) less the means of its columns, over 2**exponent, in float64; the means over it; the exponent; and for each
    column the sum of squares that rounding in the dtype of x may leave if it is constant.

    Over that power of 2 (of x, or with axis=0 of each of its columns) entries are at most 1: squares do not overflow, those
    that underflow are rounding, and no bit is lost.
    """
    exponent = np.frexp(np.abs(x).max(axis=axis, initial=0))[1]
    scaled = np.ldexp(np.asarray(x, np.float64), -exponent)
    mean = scaled.mean(axis=0)
    rounding = ROUNDING * np.finfo(x.dtype).eps + len(x) * np.finfo(np.float64).eps  # of entries, and of their sum
    return scaled - mean, mean, exponent, rounding**2 * np.einsum("ij,ij->j", scaled, scaled)


def _inverse_root(F: np.ndarray, noise: np.ndarray, ridge: float) -> tuple[np.ndarray, int]:
    """(S + r I)^-1/2 of the covariance S of centred rows F, in the directions in which they vary, and how many these are.

    A direction varies if its variance is above what rounding leaves of none: in F.T @ F, and in the entries of F, whose
    sums of squares over rows are `noise`, by columns.
    """
    w, v = np.linalg.eigh(F.T @ F / (len(F) - 1))
    varies = w > np.maximum(w.max(initial=0) * max(F.shape) * np.finfo(w.dtype).eps, noise @ (v * v) / (len(F) - 1))
    w = np.maximum(w, 0) + ridge * w.sum() / max(len(w), 1)
    return (v * np.where(varies, 1 / np.sqrt(np.where(varies, w, 1)), 0)) @ v.T, int(varies.sum())


def _value(f: Array, g: Array, ridge: float) -> Array:
    x, y = device.to_host(f), device.to_host(g)
    return device.beside(np.array(Whitened.of(x, y, ridge).rho.sum(), x.dtype), f)[()]


def _derivative(bar: Array, f: Array, g: Array, ridge: float) -> Array:
    """The derivatives of f and g, side by side: (B, n + m)."""
    x, y = device.to_host(f), device.to_host(g)
    p = Whitened.of(x, y, ridge)
    U, V = p.A @ p.U, p.C @ p.V
    kept = p.rho > len(p.rho) * np.finfo(np.float64).eps * 10  # the others are 0, except for rounding
    across = (U * kept) @ V.T
    parts = []
    for F, G, D12, half, unit in ((p.F, p.G, across, U, p.units[0]), (p.G, p.F, across.T, V, p.units[1])):
        D11 = -0.5 * (half * p.rho) @ half.T
        part = (2 * F @ D11 + G @ D12.T + 2 * ridge / max(F.shape[1], 1) * np.trace(D11) * F) / (len(F) - 1)
        parts.append(np.ldexp(part, -unit))
    both = float(device.to_host(bar)) * np.concatenate(parts, axis=1)
    return device.beside(both.astype(x.dtype), f)


def check_ridge(where: str, ridge: Any) -> None:
    """ConfigError unless ridge is a number of at least 0."""
    if not isinstance(ridge, (int, float)) or isinstance(ridge, bool) or not 0 <= ridge < math.inf:
        raise ConfigError(f"{where}: ridge is {ridge!r}, expected a number of at least 0")


def paired(z: Array, w: Array) -> np.ndarray:
    """The correlation of each column of z (N, n) with the same column of w, (n,), in float64; 0 where one is constant, NaN
    where an entry is not finite."""
    (a, _, _, a_noise), (b, _, _, b_noise) = _centred(z, axis=0), _centred(w, axis=0)
    aa, bb = (a * a).sum(axis=0), (b * b).sum(axis=0)
    constant = (aa <= a_noise) | (bb <= b_noise)
    return np.where(constant, 0.0, (a * b).sum(axis=0) / np.where(constant, 1, np.sqrt(aa * bb)))
