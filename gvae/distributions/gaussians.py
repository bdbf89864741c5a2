"""Gaussians, by the structure of their covariance or precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy import special

from gvae import random
from gvae.autodiff import value_of
from gvae.distributions.base import Conditionals, Distribution, check_size, check_variables, check_width, host
from gvae.errors import ConfigError
from gvae.ops import ar1, arrays, banded, elementwise, gaussian, likelihoods, lowrank, traces
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["AR1Gaussian", "BandedGaussian", "DenseGaussian", "DiagonalGaussian", "LowRankGaussian"]


class _Gaussian(Distribution):
    """Base class of the Gaussians: noise is standard normal, and the density of a draw follows from its noise."""

    reparameterized = affine = True

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        return random.normal(key, shape, dtype, like)

    @property
    def standard(self) -> Distribution:
        zero = device.namespace(self.mean).zeros(self.n, self.mean.dtype)
        return DiagonalGaussian(zero, zero)

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C|, per batch row."""
        raise NotImplementedError

    def entropy(self) -> Array:
        return 0.5 * self.logdet_covariance() + 0.5 * self.n * (1 + banded.LOG_2PI)

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        # With z = mean + R eps, |R⁻¹ (z - mean)|² = |eps|²: no solve, and nothing to overflow.
        return -0.5 * (
            elementwise.add(arrays.sum(elementwise.square(noise), axis=-1), self.logdet_covariance())
            + self.n * banded.LOG_2PI
        )

    def kl(self, p: Distribution | None = None) -> Array:
        if p is None:
            return self._kl_standard()
        check_size(self, p)
        if isinstance(p, DiagonalGaussian):  # -H(q) - E_q log p needs q's marginals only
            spread = elementwise.add(self.variance(), elementwise.square(elementwise.subtract(self.mean, p.mean)))
            node = 0.5 * elementwise.multiply(spread, elementwise.exp(-2 * p.log_scale)) + p.log_scale
            return elementwise.subtract(arrays.sum(node, axis=-1) + 0.5 * self.n * banded.LOG_2PI, self.entropy())
        return self._kl_structured(p)

    def _kl_standard(self) -> Array:
        raise NotImplementedError

    def _kl_structured(self, p: Distribution) -> Array:
        own, prior = self.banded(), p.banded() if isinstance(p, _Gaussian) else None
        if own is None or prior is None:
            return None
        return banded.kl_divergence_banded(
            own.mean,
            own.chol,
            prior.mean,
            prior.chol,
            offsets=own.offsets,
            prior_offsets=prior.offsets,
            check=own.check or prior.check,
        )

    def conditionals(self, x: np.ndarray) -> Conditionals:
        own = self.banded()
        if own is None:  # by the dense factor of the precision
            precision = np.linalg.inv(host(self.covariance()))
            mean, offsets = host(self.mean), tuple(range(self.n))
            chol = banded.dense_to_band(np.linalg.cholesky(precision), offsets=offsets)
        else:
            mean, chol, offsets = host(own.mean), host(own.chol), own.offsets
        for j in reversed(range(self.n)):
            # z_j given those after it: its precision is L_jj², its mean mu_j - sum_{k>j} L_kj (z_k - mu_k) / L_jj
            pivot, moved = chol[..., 0, j], 0.0
            for m, offset in enumerate(offsets):
                if offset and j + offset < self.n:
                    moved = moved + chol[..., m, j] * (x[:, j + offset] - mean[..., j + offset])
            yield j, _cdf_of_normal(mean[..., j] - moved / pivot, pivot)

    def banded(self) -> BandedGaussian | None:
        """The same Gaussian by a banded Cholesky factor of its precision, or None if it has none.

        Returns
        -------
        BandedGaussian or None
            None for `LowRankGaussian` and `DenseGaussian`.

        Examples
        --------
        >>> gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2)).banded()
        BandedGaussian(batch_shape=(), n=2)
        >>> gvae.distributions.DenseGaussian(np.zeros(2), np.eye(2)).banded() is None
        True
        """
        return None


class DiagonalGaussian(_Gaussian):
    """Independent Gaussians, N(mean, diag e^(2 log_scale)).

    Parameters
    ----------
    mean, log_scale : array (..., n)

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.array([1.0, 0.0]), np.log([0.5, 2.0]))
    >>> q.variance(), q.kl().round(4)
    (array([0.25, 4.  ]), np.float64(1.625))
    """

    independent = True

    def __init__(self, mean: Array, log_scale: Array):
        check_variables(self, mean=mean, log_scale=log_scale)
        self.mean, self.log_scale = mean, log_scale

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.mean.shape[:-1], self.log_scale.shape[:-1]

    def sample(self, noise: Array) -> Array:
        return gaussian.sample_diagonal(self.mean, self.log_scale, noise)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if reduce:
            return likelihoods.normal_log_prob(x, self.mean, self.log_scale)
        check_width(self, "log_prob", x=x)
        t = elementwise.subtract(x, self.mean) * elementwise.exp(-self.log_scale)
        return -0.5 * elementwise.square(t) - self.log_scale - 0.5 * banded.LOG_2PI

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C| = 2 sum log_scale.

        Returns
        -------
        array (...)
            Nats, per batch row.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.zeros(2), np.log([0.5, 4.0]))
        >>> q.logdet_covariance().round(4)  # log 4
        np.float64(1.3863)
        """
        return 2 * arrays.sum(self.log_scale, axis=-1)

    def variance(self) -> Array:
        return elementwise.exp(2 * self.log_scale)

    def covariance(self) -> Array:
        return value_of(self.variance())[..., None] * device.namespace(self.mean).eye(self.n, dtype=self.mean.dtype)

    def _kl_standard(self) -> Array:
        return gaussian.kl_divergence_diagonal(self.mean, self.log_scale)

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        # KL(N(m, s²) ‖ N(a, b²)) = log b - log s + (s² + (m - a)²) / (2 b²) - 1/2
        if p is None:
            spread = elementwise.add(self.variance(), elementwise.square(self.mean))
            return elementwise.subtract(0.5 * spread, self.log_scale) - 0.5
        if not isinstance(p, DiagonalGaussian):
            return None
        check_size(self, p)
        spread = elementwise.add(self.variance(), elementwise.square(elementwise.subtract(self.mean, p.mean)))
        ratio = elementwise.multiply(0.5 * spread, elementwise.exp(-2 * p.log_scale))
        return elementwise.add(ratio, elementwise.subtract(p.log_scale, self.log_scale)) - 0.5

    def banded(self) -> Any:
        """The same Gaussian by a Cholesky factor of its precision: the diagonal e^-log_scale.

        Returns
        -------
        BandedGaussian

        Examples
        --------
        >>> gvae.distributions.DiagonalGaussian(np.zeros(2), np.log([0.5, 4.0])).banded().chol
        array([[2.  , 0.25]])
        """
        return BandedGaussian(self.mean, elementwise.exp(-self.log_scale)[..., None, :], (0,), check=False)


class BandedGaussian(_Gaussian):
    """A Gaussian by a sparse Cholesky factor L of its precision, N(mean, (L Lᵀ)⁻¹).

    Parameters
    ----------
    mean : array (..., n)
    chol : array (..., M, n)
        L, stored by diagonals as in `gvae.ops.banded`.
    offsets : sequence of int, optional
        The diagonals that `chol` stores. Default: 0, 1, .., M - 1.
    check : bool, default True
        Whether a pivot that is not positive raises NotPositiveDefiniteError in the methods. Families, whose pivots are
        positive by construction, pass False.

    Examples
    --------
    >>> chol = np.array([[1.25, 1.25, 1.0], [-0.75, -0.75, 0.0]])
    >>> q = gvae.distributions.BandedGaussian(np.zeros(3), chol)
    >>> q.covariance().round(2)
    array([[1.  , 0.6 , 0.36],
           [0.6 , 1.  , 0.6 ],
           [0.36, 0.6 , 1.  ]])
    >>> q.log_prob(np.array([0.5, 0.4, 0.1])).round(4)
    np.float64(-2.4587)
    """

    def __init__(self, mean: Array, chol: Array, offsets: Sequence[int] | None = None, *, check: bool = True):
        check_variables(self, mean=mean, chol=chol)
        self.mean, self.chol, self.check = mean, chol, check
        self.offsets = tuple(range(chol.shape[-2])) if offsets is None else tuple(offsets)

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.mean.shape[:-1], self.chol.shape[:-2]

    def sample(self, noise: Array) -> Array:
        return banded.sample_banded(self.mean, self.chol, noise, offsets=self.offsets, check=self.check)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if reduce:
            return banded.log_prob_banded(x, self.mean, self.chol, offsets=self.offsets, check=self.check)
        check_width(self, "log_prob", x=x)
        # (Lᵀ (x - mean))_j standardises x_j given the variables after it: the terms are conditional log-densities.
        difference = elementwise.subtract(x, self.mean)
        t = banded.multiply_triangular_banded(self.chol, difference, offsets=self.offsets, trans=True)
        log_pivots = banded.log_pivots_banded(self.chol, check=self.check)
        return elementwise.subtract(log_pivots, 0.5 * elementwise.square(t)) - 0.5 * banded.LOG_2PI

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        return banded.log_prob_of_draw_banded(self.chol, noise, check=self.check)

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C| = -2 sum log L_jj.

        Returns
        -------
        array (...)
            Nats, per batch row.

        Raises
        ------
        NotPositiveDefiniteError
            With check=True: a pivot is not positive.

        Examples
        --------
        >>> chol = np.array([[1.25, 1.25, 1.0], [-0.75, -0.75, 0.0]])
        >>> gvae.distributions.BandedGaussian(np.zeros(3), chol).logdet_covariance().round(4)
        np.float64(-0.8926)
        """
        return elementwise.negative(banded.logdet_banded(self.chol, check=self.check))

    def variance(self) -> Array:
        return banded.variance_banded(self.chol, offsets=self.offsets, check=self.check)

    def covariance(self) -> Array:
        banded.logdet_banded(value_of(self.chol), check=self.check)  # raises for a pivot that is not positive
        factor = banded.band_to_dense(value_of(self.chol), offsets=self.offsets)
        root = np.linalg.inv(factor)  # L⁻¹; P⁻¹ = L⁻ᵀ L⁻¹
        return root.swapaxes(-1, -2) @ root

    def _kl_standard(self) -> Array:
        return banded.kl_divergence_banded(self.mean, self.chol, offsets=self.offsets, check=self.check)

    def kl_by_probe(self, noise: Array, p: Distribution | None = None) -> Array:
        # 1/2 (tr (L Lᵀ)⁻¹ + |mean|² - n) + log |L|, the trace by Hutchinson's estimate
        if p is not None:
            return None
        trace = traces.trace_probe_banded(self.chol, traces.signs(noise), offsets=self.offsets, check=self.check)
        square = arrays.sum(elementwise.square(self.mean), axis=-1)
        closed = 0.5 * (square - self.n + banded.logdet_banded(self.chol, check=self.check))
        return elementwise.add(0.5 * trace, closed)

    def banded(self) -> Any:
        """The distribution itself.

        Returns
        -------
        BandedGaussian

        Examples
        --------
        >>> q = gvae.distributions.BandedGaussian(np.zeros(2), np.ones((1, 2)))
        >>> q.banded() is q
        True
        """
        return self


class AR1Gaussian(_Gaussian):
    """A stationary first-order autoregression, N(mean, C) with C_ij = variance * rho^|i-j|.

    Parameters
    ----------
    mean : array (..., n)
    variance, rho : array (...)

    Attributes
    ----------
    ar1_variance : array (...)
        The parameter `variance`; the method `variance` returns it per variable.

    Examples
    --------
    >>> q = gvae.distributions.AR1Gaussian(np.zeros(3), np.float64(1.0), np.float64(0.6))
    >>> q.covariance()
    array([[1.  , 0.6 , 0.36],
           [0.6 , 1.  , 0.6 ],
           [0.36, 0.6 , 1.  ]])
    >>> q.kl().round(4)
    np.float64(0.4463)
    """

    by_variable = False

    def __init__(self, mean: Array, variance: Array, rho: Array):
        self.mean, self.ar1_variance, self.rho = mean, variance, rho

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.mean.shape[:-1], self.ar1_variance.shape, self.rho.shape

    def sample(self, noise: Array) -> Array:
        return ar1.sample_ar1(self.mean, self.ar1_variance, self.rho, noise)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        _only_reduced(self, reduce)
        return ar1.log_prob_ar1(x, self.mean, self.ar1_variance, self.rho)

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C| = n log s + (n - 1) log(1 - rho²) with s the variance.

        Returns
        -------
        array (...)
            Nats, per batch row.

        Examples
        --------
        >>> q = gvae.distributions.AR1Gaussian(np.zeros(3), np.float64(1.0), np.float64(0.6))
        >>> q.logdet_covariance().round(4)
        np.float64(-0.8926)
        """
        return -ar1.logdet_precision_ar1(self.ar1_variance, self.rho, N=self.n)

    def variance(self) -> Array:
        return arrays.broadcast_to(self.ar1_variance[..., None], shape=(*self.ar1_variance.shape, self.n))

    def covariance(self) -> Array:
        i = device.namespace(self.rho).arange(self.n)
        lag = np.abs(i[:, None] - i).astype(self.rho.dtype)
        return value_of(self.ar1_variance)[..., None, None] * value_of(self.rho)[..., None, None] ** lag

    def _kl_standard(self) -> Array:
        return ar1.kl_divergence_ar1(self.mean, self.ar1_variance, self.rho)

    def banded(self) -> Any:
        """The same Gaussian by the bidiagonal Cholesky factor of its precision.

        Returns
        -------
        BandedGaussian

        Examples
        --------
        >>> gvae.distributions.AR1Gaussian(np.zeros(3), np.float64(1.0), np.float64(0.6)).banded().chol
        array([[ 1.25,  1.25,  1.  ],
               [-0.75, -0.75, -0.  ]])
        """
        # It is the same process backwards: given z_(j+1), z_j has mean rho z_(j+1) and variance s (1 - rho²).
        return BandedGaussian(self.mean, ar1.precision_factor_ar1(self.ar1_variance, self.rho, N=self.n), check=False)


class LowRankGaussian(_Gaussian):
    """A Gaussian whose precision is a diagonal plus low rank, N(mean, (diag(d) + UᵀU)⁻¹).

    Parameters
    ----------
    mean, d : array (..., n)
    u : array (..., R, n)
        The matrix U of R rows.

    Examples
    --------
    >>> q = gvae.distributions.LowRankGaussian(np.zeros(3), np.ones(3), np.array([[1.0, 1.0, 0.0]]))
    >>> q.covariance().round(3)
    array([[ 0.667, -0.333,  0.   ],
           [-0.333,  0.667,  0.   ],
           [ 0.   ,  0.   ,  1.   ]])
    >>> q.variance().round(3)
    array([0.667, 0.667, 1.   ])
    """

    by_variable = False

    def __init__(self, mean: Array, d: Array, u: Array):
        check_variables(self, mean=mean, d=d, u=u)
        self.mean, self.d, self.u = mean, d, u

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.mean.shape[:-1], self.d.shape[:-1], self.u.shape[:-2]

    def sample(self, noise: Array) -> Array:
        return lowrank.sample_lowrank(self.mean, self.d, self.u, noise)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        _only_reduced(self, reduce)
        return lowrank.log_prob_lowrank(x, self.mean, self.d, self.u)

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C| = -log |diag(d) + UᵀU|.

        Returns
        -------
        array (...)
            Nats, per batch row.

        Examples
        --------
        >>> q = gvae.distributions.LowRankGaussian(np.zeros(3), np.ones(3), np.array([[1.0, 1.0, 0.0]]))
        >>> q.logdet_covariance().round(4)  # -log 3
        np.float64(-1.0986)
        """
        return elementwise.negative(lowrank.logdet_lowrank(self.d, self.u))

    def variance(self) -> Array:
        return lowrank.variance_lowrank(self.d, self.u)

    def covariance(self) -> Array:
        d, u = value_of(self.d), value_of(self.u)
        identity = device.namespace(d).eye(self.n, dtype=d.dtype)
        return np.linalg.inv(d[..., None] * identity + u.swapaxes(-1, -2) @ u)

    def _kl_standard(self) -> Array:
        return lowrank.kl_divergence_lowrank(self.mean, self.d, self.u)


class DenseGaussian(_Gaussian):
    """A Gaussian by a dense lower-triangular factor R of its covariance, N(mean, R Rᵀ).

    Parameters
    ----------
    mean : array (..., n)
    scale_tril : array (..., n, n)
        The factor R.

    Examples
    --------
    >>> q = gvae.distributions.DenseGaussian(np.zeros(2), np.array([[2.0, 0.0], [1.0, 1.0]]))
    >>> q.covariance()
    array([[4., 2.],
           [2., 2.]])
    >>> q.kl().round(4)
    np.float64(1.3069)
    """

    by_variable = False

    def __init__(self, mean: Array, scale_tril: Array):
        check_variables(self, mean=mean, scale_tril=scale_tril)
        self.mean, self.scale_tril = mean, scale_tril

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.mean.shape[:-1], self.scale_tril.shape[:-2]

    def sample(self, noise: Array) -> Array:
        return gaussian.sample_dense(self.mean, self.scale_tril, noise)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        _only_reduced(self, reduce)
        return gaussian.log_prob_dense(x, self.mean, self.scale_tril)

    def logdet_covariance(self) -> Array:
        """Log-determinant of the covariance, log |C| = 2 sum log R_jj.

        Returns
        -------
        array (...)
            Nats, per batch row.

        Examples
        --------
        >>> q = gvae.distributions.DenseGaussian(np.zeros(2), np.array([[2.0, 0.0], [1.0, 1.0]]))
        >>> q.logdet_covariance().round(4)  # log 4
        np.float64(1.3863)
        """
        return 2 * arrays.sum(elementwise.log(arrays.diagonal(self.scale_tril)), axis=-1)

    def variance(self) -> Array:
        return arrays.sum(elementwise.square(self.scale_tril), axis=-1)

    def covariance(self) -> Array:
        r = value_of(self.scale_tril)
        return r @ r.swapaxes(-1, -2)

    def _kl_standard(self) -> Array:
        return gaussian.kl_divergence_dense(self.mean, self.scale_tril)


def _only_reduced(d: Distribution, reduce: bool) -> None:
    if not reduce:
        raise ConfigError(f"{type(d).__name__}.log_prob: reduce=False is offered where terms per variable are natural")


def _cdf_of_normal(mean: Array, root: Array) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function of N(mean, 1 / root²)."""
    return lambda v: special.ndtr((v - mean) * root)
