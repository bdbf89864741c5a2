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
from gvae.ops._former import keyword_only, renamed_op
from gvae.ops.banded import LOG_2PI, multiply_triangular_banded, solve_triangular_banded
from gvae.ops.elementwise import add, exp, log, log1p, multiply, negative, square, subtract
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["kl_divergence_ar1", "log_prob_ar1", "logdet_precision_ar1", "precision_factor_ar1", "sample_ar1"]


def sample_ar1(mean: Array, variance: Array, rho: Array, eps: Array) -> Array:
    """Draw from an AR(1) Gaussian: mean + e, e_1 = sqrt(s) eps_1, e_j = rho e_(j-1) + sqrt(s (1 - rho²)) eps_j.

    Parameters
    ----------
    mean : array (..., N)
    variance : array (...)
        s > 0. Not checked: otherwise the draw is NaN.
    rho : array (...)
        The correlation of neighbours, |rho| < 1. Not checked either.
    eps : array (..., N)
        Standard normal noise.

    Returns
    -------
    array (..., N)
        The draw; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> eps = gvae.random.normal(gvae.random.key(0), (1000, 3), np.float64)
    >>> z = gvae.ops.sample_ar1(np.zeros(3), np.float64(4.0), np.float64(0.9), eps)
    >>> np.corrcoef(z.T).round(1)
    array([[1. , 0.9, 0.8],
           [0.9, 1. , 0.9],
           [0.8, 0.9, 1. ]])
    """
    check_arrays("mean: ... N, eps: ... N, variance: ..., rho: ...", mean=mean, eps=eps, variance=variance, rho=rho)
    N = mean.shape[-1]
    # The recursion e_j - rho e_(j-1) = innovation_j is a solve with a bidiagonal factor, 1 above -rho.
    innovations = multiply(_innovation_scales(variance, rho, N), eps)
    e = solve_triangular_banded(_transition(rho, N), innovations, check=False)  # its pivots are 1
    return mean + e


def log_prob_ar1(x: Array, mean: Array, variance: Array, rho: Array) -> Array:
    """Log-density of an AR(1) Gaussian: log N(x; mean, C).

    Parameters
    ----------
    x, mean : array (..., N)
    variance, rho : array (...)
        As for `sample_ar1`.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.array([0.5, 0.4, 0.1])
    >>> gvae.ops.log_prob_ar1(x, np.zeros(3), np.float64(1.0), np.float64(0.9)).round(4)
    np.float64(-1.4056)
    """
    check_arrays("x: ... N, mean: ... N, variance: ..., rho: ...", mean=mean, x=x, variance=variance, rho=rho)
    N = mean.shape[-1]
    innovations = multiply_triangular_banded(_transition(rho, N), subtract(x, mean))
    eps = innovations / _innovation_scales(variance, rho, N)
    return 0.5 * (logdet_precision_ar1(variance, rho, N=N) - arrays.sum(square(eps), axis=-1) - N * LOG_2PI)


def kl_divergence_ar1(mean: Array, variance: Array, rho: Array) -> Array:
    """KL(N(mean, C) ‖ N(0, I)) = 1/2 [ |mean|² + n (s - 1 - log s) - (n - 1) log(1 - rho²) ].

    Parameters
    ----------
    mean : array (..., N)
    variance, rho : array (...)
        As for `sample_ar1`.

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.kl_divergence_ar1(np.zeros(3), np.float64(1.0), np.float64(0.9)).round(4)
    np.float64(1.6607)
    """
    check_arrays("mean: ... N, variance: ..., rho: ...", mean=mean, variance=variance, rho=rho)
    N = mean.shape[-1]
    return 0.5 * (arrays.sum(square(mean), axis=-1) + N * (variance - 1) + logdet_precision_ar1(variance, rho, N=N))


def logdet_precision_ar1(variance: Array, rho: Array, *, N: int) -> Array:
    """Log-determinant of the precision, log |C⁻¹| = -n log s - (n - 1) log(1 - rho²).

    Parameters
    ----------
    variance, rho : array (...)
        As for `sample_ar1`.
    N : int
        The number of variables n.

    Returns
    -------
    array (...)
        Nats. `logdet_banded` and `logdet_lowrank` are those of precisions, too.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.logdet_precision_ar1(np.float64(1.0), np.float64(0.9), N=3).round(4)
    np.float64(3.3215)
    """
    check_arrays("variance: ..., rho: ...", variance=variance, rho=rho)
    _check_size(N)
    return negative(N * log(variance) + max(N - 1, 0) * (log1p(negative(rho)) + log1p(rho)))


def _logdet_covariance_ar1(variance: Array, rho: Array, N: int) -> Array:
    """log |C|, which was `logdet_ar1`."""
    return negative(logdet_precision_ar1(variance, rho, N=N))


@keyword_only
def precision_factor_ar1(variance: Array, rho: Array, *, N: int) -> Array:
    """Cholesky factor L of the precision C⁻¹ = L Lᵀ: bidiagonal, a chain.

    L_jj = (s (1 - rho²))^-1/2, L_NN = s^-1/2, L_(j+1)j = -rho L_jj.

    Parameters
    ----------
    variance, rho : array (...)
        As for `sample_ar1`.
    N : int
        The number of variables.

    Returns
    -------
    array (..., 2, N)
        L, stored by diagonals as in `gvae.ops.banded`.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.precision_factor_ar1(np.float64(1.0), np.float64(0.6), N=3)
    array([[ 1.25,  1.25,  1.  ],
           [-0.75, -0.75, -0.  ]])
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


def _transition(rho: Array, N: int) -> Array:
    """The bidiagonal factor with 1 on the diagonal and -rho below, (..., 2, N)."""
    below = arrays.broadcast_to(negative(rho)[..., None], shape=(*rho.shape, N))
    return arrays.stack([device.namespace(rho).ones((*rho.shape, N), rho.dtype), below], axis=-2)


def _innovation_scales(variance: Array, rho: Array, N: int) -> Array:
    """sqrt(s) for the first variable, sqrt(s (1 - rho²)) for the others: (..., N)."""
    log_ratio = 0.5 * (log1p(negative(rho)) + log1p(rho))
    later = (device.namespace(rho).arange(N) > 0).astype(rho.dtype)
    return exp(0.5 * log(variance)[..., None] + log_ratio[..., None] * later)


def __getattr__(name: str) -> Any:
    return renamed_op(__name__, name)
