"""Gaussian processes: the RBF kernel with a precision for each input, and its statistics under Gaussian inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays

__all__ = ["psi1", "psi2", "rbf"]


def rbf(x: Any, z: Any, precision: Any, scale: Any) -> Any:
    """The RBF kernel, k(x, z) = v exp(-1/2 Σ_q a_q (x_q - z_q)²), of each row of x with each row of z.

    Parameters
    ----------
    x : array (N, Q)
    z : array (M, Q)
    precision : array (Q,)
        a, at least 0: inverse squares of the lengths over which functions vary. Not checked.
    scale : array ()
        v, the variance of functions.

    Returns
    -------
    array (N, M)
        k(x_n, z_m), of x = z with the diagonal v.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> z = np.array([[0.0], [1.0]])
    >>> gvae.ops.rbf(z, z, np.array([2.0]), np.array(3.0)).round(4)
    array([[3.    , 1.1036],
           [1.1036, 3.    ]])
    >>> gvae.gradient(lambda x: gvae.ops.rbf(x, z, np.array([2.0]), np.array(3.0)).sum(), z).round(4)
    array([[ 2.2073],
           [-2.2073]])
    """
    return _rbf(x, z, precision, scale)


@primitive(contract="x: N Q, z: M Q, precision: Q, scale:")
def _rbf(x, z, precision, scale):
    check_arrays(_rbf.contract, where="rbf", x=x, z=z, precision=precision, scale=scale)
    return _psi1_value(x, np.zeros_like(x), z, precision, scale)


@_rbf.vjp
def _(y_bar, y, x, z, precision, scale, *, needs):
    x_bar, _, z_bar, a_bar, v_bar = _psi1_bars(y_bar, x, np.zeros_like(x), z, precision, scale)
    return x_bar, z_bar, a_bar, v_bar


def psi1(mean: Any, variance: Any, z: Any, precision: Any, scale: Any) -> Any:
    """The RBF kernel's mean under Gaussian inputs: E k(x_n, z_m) over x_n ~ N(mean_n, diag variance_n).

    Parameters
    ----------
    mean, variance : array (N, Q)
        Variances are at least 0, where psi1 is the kernel itself. Not checked.
    z : array (M, Q)
    precision : array (Q,)
        a of `rbf`.
    scale : array ()
        v of `rbf`.

    Returns
    -------
    array (N, M)
        v Π_q (a_q S_nq + 1)^-1/2 exp(-1/2 a_q (μ_nq - z_mq)² / (a_q S_nq + 1)).

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Source: Titsias and Lawrence (2010), with the kernel of Damianou and Lawrence (2013).

    Examples
    --------
    >>> mean, z, a, v = np.array([[0.0]]), np.array([[0.0], [1.0]]), np.array([2.0]), np.array(3.0)
    >>> gvae.ops.psi1(mean, np.array([[0.5]]), z, a, v).round(4)
    array([[2.1213, 1.2866]])
    >>> np.array_equal(gvae.ops.psi1(mean, 0 * mean, z, a, v), gvae.ops.rbf(mean, z, a, v))
    True
    """
    return _psi1(mean, variance, z, precision, scale)


@primitive(contract="mean: N Q, variance: N Q, z: M Q, precision: Q, scale:")
def _psi1(mean, variance, z, precision, scale):
    check_arrays(_psi1.contract, where="psi1", mean=mean, variance=variance, z=z, precision=precision, scale=scale)
    return _psi1_value(mean, variance, z, precision, scale)


@_psi1.vjp
def _(y_bar, y, mean, variance, z, precision, scale, *, needs):
    return _psi1_bars(y_bar, mean, variance, z, precision, scale)


def _psi1_value(mean, variance, z, a, v):
    c = 1 / (a * variance + 1)
    exponent = 0.5 * (a * c)[:, None] * (mean[:, None] - z) ** 2
    return v * np.sqrt(c).prod(axis=-1)[:, None] * np.exp(-exponent.sum(axis=-1))


def _psi1_bars(y_bar, mean, variance, z, a, v):
    # with c = 1 / (a S + 1), u = a c, T = Ȳ ∘ Y and t_n = Σ_m T_nm:  d(log Y)/du = -1/2 (μ - z)²,  du/da = c²,  du/dS = -u²
    c = 1 / (a * variance + 1)
    u = a * c
    of_one = y_bar * _psi1_value(mean, variance, z, a, np.ones_like(v))
    T, gap = v * of_one, mean[:, None] - z
    t, first = T.sum(axis=1)[:, None], T[..., None] * gap
    second = 0.5 * (first * gap).sum(axis=1)
    mean_bar = -u * first.sum(axis=1)
    variance_bar = u * u * second - 0.5 * t * u
    z_bar = (u[:, None] * first).sum(axis=0)
    a_bar = (-c * c * second - 0.5 * t * variance * c).sum(axis=0)
    return mean_bar, variance_bar, z_bar, a_bar, of_one.sum()


def psi2(mean: Any, variance: Any, z: Any, precision: Any, scale: Any) -> Any:
    """The RBF kernel's second moment under Gaussian inputs: Σ_n E k(z_m, x_n) k(x_n, z_m') over x_n ~ N(mean_n, diag
    variance_n).

    Parameters
    ----------
    mean, variance : array (N, Q)
        Variances are at least 0. Not checked.
    z : array (M, Q)
    precision : array (Q,)
        a of `rbf`.
    scale : array ()
        v of `rbf`.

    Returns
    -------
    array (M, M)
        v² Σ_n Π_q (2 a_q S_nq + 1)^-1/2 exp(-a_q (z_mq - z_m'q)² / 4 - a_q (μ_nq - (z_mq + z_m'q) / 2)² / (2 a_q S_nq + 1)):
        symmetric. Of its cotangent, the symmetric part counts.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Source: Titsias and Lawrence (2010), with the kernel of Damianou and Lawrence (2013).

    Examples
    --------
    >>> mean, z, a, v = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]), np.array([2.0]), np.array(3.0)
    >>> gvae.ops.psi2(mean, np.full((2, 1), 0.5), z, a, v).round(4)
    array([[5.5572, 3.371 ],
           [3.371 , 5.3356]])
    >>> k = gvae.ops.rbf(mean, z, a, v)
    >>> np.allclose(gvae.ops.psi2(mean, 0 * mean, z, a, v), k.T @ k)
    True
    """
    return _psi2(mean, variance, z, precision, scale)


@primitive(contract="mean: N Q, variance: N Q, z: M Q, precision: Q, scale:")
def _psi2(mean, variance, z, precision, scale):
    check_arrays(_psi2.contract, where="psi2", mean=mean, variance=variance, z=z, precision=precision, scale=scale)
    return scale * scale * _psi2_terms(mean, variance, z, precision).sum(axis=0)


@_psi2.vjp
def _(y_bar, y, mean, variance, z, a, v, *, needs):
    # With c = 1 / (2 a S + 1), u = a c and w = (a - u) / 4, the exponent of a term is
    #   -1/2 u ((μ - z)² + (μ - z')²) - w (z - z')²,  du/da = c²,  du/dS = -2 u².
    of_one = 0.5 * (y_bar + y_bar.T) * _psi2_terms(mean, variance, z, a)
    T = v * v * of_one
    c = 1 / (2 * a * variance + 1)
    u, w = a * c, 0.5 * a * a * variance * c
    r = T.sum(axis=2)
    t = r.sum(axis=1)[:, None]
    gap, between = mean[:, None] - z, z[:, None] - z
    A = (r[..., None] * gap**2).sum(axis=1)
    D = np.tensordot(T, between**2, 2)
    mean_bar = -2 * u * (r[..., None] * gap).sum(axis=1)
    variance_bar = 2 * u * u * (A - 0.25 * D) - t * u
    a_bar = (-t * variance * c - A * c * c - 0.5 * D * u * variance * (1 + c)).sum(axis=0)
    of_pairs = np.tensordot(T, w, (0, 0))
    z_bar = 2 * (u[:, None] * r[..., None] * gap).sum(axis=0) - 4 * (of_pairs * between).sum(axis=1)
    return mean_bar, variance_bar, z_bar, a_bar, 2 * v * of_one.sum()


def _psi2_terms(mean, variance, z, a):
    c = 1 / (2 * a * variance + 1)
    middle, between = 0.5 * (z[:, None] + z), z[:, None] - z
    exponent = (a * c)[:, None, None] * (mean[:, None, None] - middle) ** 2 + 0.25 * a * between**2
    return np.sqrt(c).prod(axis=-1)[:, None, None] * np.exp(-exponent.sum(axis=-1))
