"""Canonical correlations of two views, with a derivative that needs no derivatives of eigenvectors (Andrew et al. 2013)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays
from gvae.errors import ConfigError, ShapeError
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["canonical_correlation"]


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
    Covariances are over B - 1, and all arithmetic is in float64, on the host. Directions in which a view has no variance do
    not count: without a ridge, the inverse square roots are pseudo-inverses.

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

    F (B, n), G (B, m) : the centred views           means       : their means, (n,) and (m,)
    A (n, n), C (m, m) : Sxx^-1/2 and Syy^-1/2       U, rho, V   : A Sxy C = U diag(rho) V', (n, k), (k,), (m, k)
    """

    F: np.ndarray
    G: np.ndarray
    means: tuple[np.ndarray, np.ndarray]
    A: np.ndarray
    C: np.ndarray
    U: np.ndarray
    rho: np.ndarray
    V: np.ndarray

    @classmethod
    def of(cls, f: np.ndarray, g: np.ndarray, ridge: float) -> Whitened:
        """From two views of at least two rows, whose entries are finite."""
        f, g = (np.asarray(x, np.float64) for x in (f, g))
        means = f.mean(axis=0), g.mean(axis=0)
        F, G = f - means[0], g - means[1]
        A, C = _inverse_root(F, ridge), _inverse_root(G, ridge)
        U, rho, Vt = np.linalg.svd(A @ (F.T @ G / (len(F) - 1)) @ C, full_matrices=False)
        return cls(F, G, means, A, C, U, rho, Vt.T)


def _inverse_root(F: np.ndarray, ridge: float) -> np.ndarray:
    """(S + r I)^-1/2 of the covariance S of centred rows F, its pseudo-inverse where S + r I is singular."""
    w, v = np.linalg.eigh(F.T @ F / (len(F) - 1))
    w = np.maximum(w, 0) + ridge * w.sum() / max(len(w), 1)
    kept = (
        w > w.max(initial=0) * max(F.shape) * np.finfo(w.dtype).eps
    )  # what rounding leaves of a direction without variance
    return (v * np.where(kept, 1 / np.sqrt(np.where(kept, w, 1)), 0)) @ v.T


def _value(f: Array, g: Array, ridge: float) -> Array:
    x, y = device.to_host(f), device.to_host(g)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):  # LAPACK may not terminate on a NaN
        return device.beside(np.array(math.nan, x.dtype), f)[()]
    return device.beside(np.array(Whitened.of(x, y, ridge).rho.sum(), x.dtype), f)[()]


def _derivative(bar: Array, f: Array, g: Array, ridge: float) -> Array:
    """The derivatives of f and g, side by side: (B, n + m)."""
    x, y = device.to_host(f), device.to_host(g)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return device.beside(np.full((len(x), x.shape[1] + y.shape[1]), math.nan, x.dtype), f)
    p = Whitened.of(x, y, ridge)
    U, V = p.A @ p.U, p.C @ p.V
    kept = p.rho > len(p.rho) * np.finfo(np.float64).eps * 10  # the others are 0, except for rounding
    across = (U * kept) @ V.T
    parts = []
    for F, G, D12, half in ((p.F, p.G, across, U), (p.G, p.F, across.T, V)):
        D11 = -0.5 * (half * p.rho) @ half.T
        parts.append((2 * F @ D11 + G @ D12.T + 2 * ridge / max(F.shape[1], 1) * np.trace(D11) * F) / (len(F) - 1))
    both = float(device.to_host(bar)) * np.concatenate(parts, axis=1)
    return device.beside(both.astype(x.dtype), f)


def check_ridge(where: str, ridge: Any) -> None:
    """ConfigError unless ridge is a number of at least 0."""
    if not isinstance(ridge, (int, float)) or isinstance(ridge, bool) or not 0 <= ridge < math.inf:
        raise ConfigError(f"{where}: ridge is {ridge!r}, expected a number of at least 0")


def paired(z: Array, w: Array) -> np.ndarray:
    """The correlation of each column of z (N, n) with the same column of w, (n,), in float64; 0 where one is constant."""
    z, w = (np.asarray(a, np.float64) for a in (z, w))
    a, b = z - z.mean(axis=0), w - w.mean(axis=0)
    scale = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    # what rounding leaves of a constant column is not a variance
    varies = scale > np.finfo(np.float64).eps * len(z) * np.abs(z).max(axis=0, initial=0) * np.abs(w).max(axis=0, initial=0)
    return np.where(varies, (a * b).sum(axis=0) / np.where(varies, scale, 1), 0.0)
