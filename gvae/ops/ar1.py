"""Gaussians with covariance C_ij = s rho^|i-j|: a stationary first-order autoregression, in time and memory O(n).

Parameters per batch row: mean (..., N), variance s > 0 (...), correlation |rho| < 1 (...). Letters as in Ferdowsi et al.
(2019, rho-VAE), whose printed sampler lacks the factor sqrt(1 - rho²) of the innovations used here.
|C| = s^n (1 - rho²)^(n-1), and log(1 - rho²) is taken as log1p(-rho) + log1p(rho).
"""

from __future__ import annotations

from typing import Any

from gvae.checks import caller_name, check_arrays
from gvae.errors import ShapeError
from gvae.ops import arrays
from gvae.ops.banded import LOG_2PI, multiply_triangular_banded, solve_triangular_banded
from gvae.ops.elementwise import add, exp, log, log1p, multiply, negative, square, subtract
from gvae.runtime import device

__all__ = ["kl_divergence_ar1", "log_prob_ar1", "logdet_ar1", "precision_factor_ar1", "sample_ar1"]


def sample_ar1(mean: Any, variance: Any, rho: Any, eps: Any) -> Any:
    """mean + e with e_1 = sqrt(s) eps_1, e_j = rho e_(j-1) + sqrt(s (1 - rho²)) eps_j.

    mean, eps : (..., N)      variance, rho : (...)      Returns (..., N), batch axes broadcast.
    Raises ShapeError, DTypeError. Not checked: variance > 0 and |rho| < 1 (the result is NaN or not that Gaussian).
    """
    check_arrays("mean: ... N, eps: ... N, variance: ..., rho: ...", mean=mean, eps=eps, variance=variance, rho=rho)
    N = mean.shape[-1]
    # The recursion e_j - rho e_(j-1) = innovation_j is a solve with a bidiagonal factor, 1 above -rho.
    innovations = multiply(_innovation_scales(variance, rho, N), eps)
    e = solve_triangular_banded(_transition(rho, N), innovations, check=False)  # its pivots are 1
    return mean + e


def log_prob_ar1(x: Any, mean: Any, variance: Any, rho: Any) -> Any:
    """log N(x; mean, C), in nats.   x, mean : (..., N)   variance, rho : (...)   Returns (...). Raises as `sample_ar1`."""
    check_arrays("x: ... N, mean: ... N, variance: ..., rho: ...", mean=mean, x=x, variance=variance, rho=rho)
    N = mean.shape[-1]
    innovations = multiply_triangular_banded(_transition(rho, N), subtract(x, mean))
    eps = innovations / _innovation_scales(variance, rho, N)
    return -0.5 * (logdet_ar1(variance, rho, N) + arrays.sum(square(eps), axis=-1) + N * LOG_2PI)


def kl_divergence_ar1(mean: Any, variance: Any, rho: Any) -> Any:
    """KL(N(mean, C) ‖ N(0, I)) = 1/2 [ |mean|² + n (s - 1 - log s) - (n - 1) log(1 - rho²) ], in nats.

    mean : (..., N)      variance, rho : (...)      Returns (...). Raises as `sample_ar1`.
    """
    check_arrays("mean: ... N, variance: ..., rho: ...", mean=mean, variance=variance, rho=rho)
    N = mean.shape[-1]
    return 0.5 * (arrays.sum(square(mean), axis=-1) + N * (variance - 1) - logdet_ar1(variance, rho, N))


def logdet_ar1(variance: Any, rho: Any, N: int) -> Any:
    """log |C| = n log s + (n - 1) log(1 - rho²).   variance, rho : (...)   Returns (...). Raises ShapeError, DTypeError."""
    check_arrays("variance: ..., rho: ...", variance=variance, rho=rho)
    _check_size(N)
    return N * log(variance) + max(N - 1, 0) * (log1p(negative(rho)) + log1p(rho))


def precision_factor_ar1(variance: Any, rho: Any, N: int) -> Any:
    """The factor L of C⁻¹ = L Lᵀ, bidiagonal: L_jj = (s (1 - rho²))^-1/2, L_NN = s^-1/2, L_(j+1)j = -rho L_jj.

    variance, rho : (...)      Returns chol (..., 2, N), stored as in `gvae.ops.banded`. Raises ShapeError, DTypeError.
    """
    check_arrays("variance: ..., rho: ...", variance=variance, rho=rho)
    _check_size(N)
    earlier = (device.namespace(rho).arange(N) < N - 1).astype(rho.dtype)
    log_ratio = 0.5 * (log1p(negative(rho)) + log1p(rho))
    pivots = exp(negative(add(0.5 * log(variance)[..., None], log_ratio[..., None] * earlier)))
    below = multiply(negative(rho)[..., None] * earlier, pivots)
    return arrays.stack([pivots, below], axis=-2)


def _check_size(N: Any) -> None:
    if not isinstance(N, int) or N < 0:  # exactly: a NumPy integer would turn float32 into float64
        raise ShapeError(f"{caller_name()}: N is {N!r}, expected a Python integer, 0 or more")


def _transition(rho: Any, N: int) -> Any:
    """The bidiagonal factor with 1 on the diagonal and -rho below, (..., 2, N)."""
    below = arrays.broadcast_to(negative(rho)[..., None], shape=(*rho.shape, N))
    return arrays.stack([device.namespace(rho).ones((*rho.shape, N), rho.dtype), below], axis=-2)


def _innovation_scales(variance: Any, rho: Any, N: int) -> Any:
    """sqrt(s) for the first variable, sqrt(s (1 - rho²)) for the others: (..., N)."""
    log_ratio = 0.5 * (log1p(negative(rho)) + log1p(rho))
    later = (device.namespace(rho).arange(N) > 0).astype(rho.dtype)
    return exp(0.5 * log(variance)[..., None] + log_ratio[..., None] * later)
