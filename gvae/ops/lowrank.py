"""Gaussians with precision diag(d) + sum_r u_r u_rᵀ, in time and memory linear in N.

With V = U D^-1/2 (R x N) and the Cholesky factor A of I + V Vᵀ (R x R), the covariance has the square root

    C^1/2 = D^-1/2 (I - Vᵀ A⁻ᵀ (I + A)⁻¹ V),      since  (I - Vᵀ K V)(I - Vᵀ K V)ᵀ = (I + Vᵀ V)⁻¹  for  K = A⁻ᵀ (I + A)⁻¹.

For R = 1 this is the form of Rezende, Mohamed and Wierstra (2014) with its coefficient in the stable shape
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

__all__ = ["kl_divergence_lowrank", "log_prob_lowrank", "logdet_lowrank", "sample_lowrank", "variance_lowrank"]


def sample_lowrank(mean: Any, d: Any, u: Any, eps: Any) -> Any:
    """mean + C^1/2 eps: a draw from N(mean, (diag(d) + UᵀU)⁻¹) when eps is standard normal.

    mean, d, eps : (..., N)      u : (..., R, N)      Returns (..., N), batch axes broadcast. Cost O(N R + R³).
    Raises ShapeError, DTypeError. Not checked: d > 0 (the row is NaN).
    """
    check_arrays("mean: ... N, eps: ... N, d: ... N, u: ... R N", mean=mean, eps=eps, d=d, u=u)
    root = sqrt(d)
    v, a = _whiten(root, u)
    identity = device.namespace(u).eye(u.shape[-2], dtype=u.dtype)
    t = matmul(v, eps[..., None])
    t = linalg.solve_triangular(a, linalg.solve_triangular(add(a, identity), t), trans=True)
    return mean + divide(subtract(eps, _apply_transposed(v, t)), root)


def log_prob_lowrank(x: Any, mean: Any, d: Any, u: Any) -> Any:
    """log N(x; mean, (diag(d) + UᵀU)⁻¹), in nats.   Shapes as `sample_lowrank`; returns (...)."""
    check_arrays("x: ... N, mean: ... N, d: ... N, u: ... R N", mean=mean, x=x, d=d, u=u)
    e = subtract(x, mean)
    along = matmul(u, e[..., None])
    quadratic = arrays.sum(multiply(d, square(e)), axis=-1) + arrays.sum(square(along), axis=(-2, -1))
    return 0.5 * (logdet_lowrank(d, u) - quadratic - x.shape[-1] * LOG_2PI)


def kl_divergence_lowrank(mean: Any, d: Any, u: Any) -> Any:
    """KL(N(mean, (diag(d) + UᵀU)⁻¹) ‖ N(0, I)), in nats.   Shapes as `sample_lowrank`; returns (...)."""
    check_arrays("mean: ... N, d: ... N, u: ... R N", mean=mean, d=d, u=u)
    node = variance_lowrank(d, u) + square(mean) - 1 + log(d)
    _, a = _whiten(sqrt(d), u)
    return 0.5 * arrays.sum(node, axis=-1) + arrays.sum(_log_pivots(a), axis=-1)


def variance_lowrank(d: Any, u: Any) -> Any:
    """Marginal variances, (1 - column norms² of A⁻¹ V) / d.   d (..., N), u (..., R, N) -> (..., N)."""
    check_arrays("d: ... N, u: ... R N", d=d, u=u)
    v, a = _whiten(sqrt(d), u)
    leverage = arrays.sum(square(linalg.solve_triangular(a, v)), axis=-2)
    return divide(1 - leverage, d)


def logdet_lowrank(d: Any, u: Any) -> Any:
    """log |diag(d) + UᵀU| = sum log d + log |I + V Vᵀ|.   d (..., N), u (..., R, N) -> (...)."""
    check_arrays("d: ... N, u: ... R N", d=d, u=u)
    _, a = _whiten(sqrt(d), u)
    return arrays.sum(log(d), axis=-1) + 2 * arrays.sum(_log_pivots(a), axis=-1)


def _whiten(root: Any, u: Any) -> tuple[Any, Any]:
    """V = U D^-1/2, and A with A Aᵀ = I + V Vᵀ, which only numbers that are not finite can keep from being definite."""
    v = divide(u, root[..., None, :])
    identity = device.namespace(u).eye(u.shape[-2], dtype=u.dtype)
    return v, linalg.cholesky(add(matmul(v, arrays.swapaxes(v, axis1=-1, axis2=-2)), identity), check=False)


def _apply_transposed(v: Any, t: Any) -> Any:
    """Vᵀ t for t (..., R, 1) -> (..., N)."""
    return matmul(arrays.swapaxes(v, axis1=-1, axis2=-2), t)[..., 0]


def _log_pivots(a: Any) -> Any:
    return log(arrays.diagonal(a))
