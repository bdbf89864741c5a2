"""Gaussians with precision diag(d) + sum_r u_r u_rᵀ, in time and memory linear in N.

With V = U D^-1/2 (R x N) and the Cholesky factor A of I + V Vᵀ (R x R), the covariance has the square root

    C^1/2 = D^-1/2 (I - Vᵀ A⁻ᵀ (I + A)⁻¹ V),      since  (I - Vᵀ K V)(I - Vᵀ K V)ᵀ = (I + Vᵀ V)⁻¹  for  K = A⁻ᵀ (I + A)⁻¹.

For R = 1 this is the form of Rezende, Mohamed and Wierstra (2014) with its coefficient in the stable form
1 / ((1 + t) + sqrt(1 + t)), t = u' D^-1 u, which has no 0/0 at u = 0.
"""

from __future__ import annotations

from typing import Any

from gvae.checks import check_arrays
from gvae.ops import arrays, linalg
from gvae.ops.banded import LOG_2PI
from gvae.ops.dense import matmul
from gvae.ops.elementwise import add, divide, log, multiply, sqrt, square, subtract
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["kl_divergence_lowrank", "log_prob_lowrank", "logdet_lowrank", "sample_lowrank", "variance_lowrank"]


def sample_lowrank(mean: Array, d: Array, u: Array, eps: Array) -> Array:
    """Draw from N(mean, (diag(d) + UᵀU)⁻¹): mean + C^1/2 eps, with standard normal eps.

    Parameters
    ----------
    mean : array (..., N)
    d : array (..., N)
        d > 0. Not checked: otherwise the row is NaN.
    u : array (..., R, N)
        U.
    eps : array (..., N)
        Standard normal noise.

    Returns
    -------
    array (..., N)
        The draw; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    Cost O(N R + R³).

    Examples
    --------
    >>> d, u = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 1.0, 0.0]])
    >>> eps = gvae.random.normal(gvae.random.key(0), (100_000, 3), np.float64)
    >>> z = gvae.ops.sample_lowrank(np.zeros(3), d, u, eps)
    >>> z.var(axis=0).round(2)  # variance_lowrank: 0.667, 0.667, 0.5
    array([0.67, 0.67, 0.5 ])
    """
    check_arrays("mean: ... N, eps: ... N, d: ... N, u: ... R N", mean=mean, eps=eps, d=d, u=u)
    root = sqrt(d)
    v, a = _whiten(root, u)
    identity = device.namespace(u).eye(u.shape[-2], dtype=u.dtype)
    t = matmul(v, eps[..., None])
    t = linalg.solve_triangular(a, linalg.solve_triangular(add(a, identity), t), trans=True)
    return mean + divide(subtract(eps, _apply_transposed(v, t)), root)


def log_prob_lowrank(x: Array, mean: Array, d: Array, u: Array) -> Array:
    """Log-density log N(x; mean, (diag(d) + UᵀU)⁻¹).

    Parameters
    ----------
    x, mean : array (..., N)
    d : array (..., N)
    u : array (..., R, N)
        Both as for `sample_lowrank`.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> d, u = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 1.0, 0.0]])
    >>> gvae.ops.log_prob_lowrank(np.array([0.5, 0.5, 0.0]), np.zeros(3), d, u).round(4)
    np.float64(-2.6109)
    """
    check_arrays("x: ... N, mean: ... N, d: ... N, u: ... R N", mean=mean, x=x, d=d, u=u)
    e = subtract(x, mean)
    along = matmul(u, e[..., None])
    quadratic = arrays.sum(multiply(d, square(e)), axis=-1) + arrays.sum(square(along), axis=(-2, -1))
    return 0.5 * (logdet_lowrank(d, u) - quadratic - x.shape[-1] * LOG_2PI)


def kl_divergence_lowrank(mean: Array, d: Array, u: Array) -> Array:
    """KL(N(mean, (diag(d) + UᵀU)⁻¹) ‖ N(0, I)).

    Parameters
    ----------
    mean : array (..., N)
    d : array (..., N)
    u : array (..., R, N)
        Both as for `sample_lowrank`.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> d, u = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 1.0, 0.0]])
    >>> gvae.ops.kl_divergence_lowrank(np.zeros(3), d, u).round(4)
    np.float64(0.3125)
    """
    check_arrays("mean: ... N, d: ... N, u: ... R N", mean=mean, d=d, u=u)
    node = variance_lowrank(d, u) + square(mean) - 1 + log(d)
    _, a = _whiten(sqrt(d), u)
    return 0.5 * arrays.sum(node, axis=-1) + arrays.sum(_log_pivots(a), axis=-1)


def variance_lowrank(d: Array, u: Array) -> Array:
    """Marginal variances of N(., (diag(d) + UᵀU)⁻¹): (1 - column norms² of A⁻¹ V) / d.

    Parameters
    ----------
    d : array (..., N)
    u : array (..., R, N)
        Both as for `sample_lowrank`.

    Returns
    -------
    array (..., N)
        The variances; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    V and A are those of the docstring of `gvae.ops.lowrank`: V = U D^-1/2, A Aᵀ = I + V Vᵀ.

    Examples
    --------
    >>> d, u = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 1.0, 0.0]])
    >>> gvae.ops.variance_lowrank(d, u).round(4)
    array([0.6667, 0.6667, 0.5   ])
    """
    check_arrays("d: ... N, u: ... R N", d=d, u=u)
    v, a = _whiten(sqrt(d), u)
    leverage = arrays.sum(square(linalg.solve_triangular(a, v)), axis=-2)
    return divide(1 - leverage, d)


def logdet_lowrank(d: Array, u: Array) -> Array:
    """Log-determinant of the precision, log |diag(d) + UᵀU| = sum log d + log |I + V Vᵀ| with V = U D^-1/2.

    Parameters
    ----------
    d : array (..., N)
    u : array (..., R, N)
        Both as for `sample_lowrank`.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> d, u = np.array([1.0, 1.0, 2.0]), np.array([[1.0, 1.0, 0.0]])
    >>> gvae.ops.logdet_lowrank(d, u).round(4)
    np.float64(1.7918)
    >>> np.linalg.slogdet(np.diag(d) + u.T @ u).logabsdet.round(4)
    np.float64(1.7918)
    """
    check_arrays("d: ... N, u: ... R N", d=d, u=u)
    _, a = _whiten(sqrt(d), u)
    return arrays.sum(log(d), axis=-1) + 2 * arrays.sum(_log_pivots(a), axis=-1)


def _whiten(root: Array, u: Array) -> tuple[Any, Any]:
    """V = U D^-1/2, and A with A Aᵀ = I + V Vᵀ, which is positive definite unless it has non-finite values."""
    v = divide(u, root[..., None, :])
    identity = device.namespace(u).eye(u.shape[-2], dtype=u.dtype)
    return v, linalg.cholesky(add(matmul(v, arrays.swapaxes(v, axis1=-1, axis2=-2)), identity), check=False)


def _apply_transposed(v: Array, t: Any) -> Array:
    """Vᵀ t for t (..., R, 1) -> (..., N)."""
    return matmul(arrays.swapaxes(v, axis1=-1, axis2=-2), t)[..., 0]


def _log_pivots(a: Array) -> Array:
    return log(arrays.diagonal(a))
