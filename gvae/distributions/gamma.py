"""Positive variables: the gamma distribution, of a variable or of its logarithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gvae.autodiff import value_of
from gvae.distributions.base import Distribution, Support, check_size, check_variables, host
from gvae.distributions.discrete import Independent
from gvae.errors import ConfigError
from gvae.ops import arrays, draws, elementwise
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["GammaDistribution"]


class GammaDistribution(Independent):
    """Independent positive variables z with density b^a z^(a - 1) e^(-b z) / Gamma(a), b = a / mean, or their logarithms.

    The standard has shape a = 1 and mean 1. Draws are exact quantiles, and differentiable.

    Parameters
    ----------
    log_shape, log_mean : array (..., n)
        log a, and the logarithm of the mean of z.
    log : bool, default False
        Whether the variables are log z: densities, moments and draws are then theirs. At small shapes a share of draws of z
        underflows, and log z does not.
    path : {"exact", None}, default "exact"
        None: draws carry no derivative, and objectives use the score function.

    Raises
    ------
    ConfigError
        An unknown path.

    Notes
    -----
    With m = log(z / mean), s(a) = log Γ(a) - a log a + a and d = log(mean_q / mean_p), in nats:

        log density of log z = -a (e^m - 1 - m) - s(a)
        KL(q ‖ p) = s(a_p) - s(a_q) - (a_p - a_q) s'(a_q) + a_p (e^d - 1 - d)

    where no large terms cancel. Draws of z below the smallest normal number of the dtype are that number, with derivative 0.
    Source of the derivative of draws: Figurnov, Mohamed and Mnih (2018), implicit reparameterization.

    Examples
    --------
    >>> q = gvae.distributions.GammaDistribution(np.log([2.0, 0.5]), np.log([3.0, 1.0]))
    >>> q.mean, q.variance()
    (array([3., 1.]), array([4.5, 2. ]))
    >>> q.log_prob(np.array([3.0, 0.1]), reduce=False).round(4)
    array([-1.7123,  0.1824])
    >>> q.sample(np.array([0.5, 0.5])).round(4), q.kl().round(4)
    (array([2.5175, 0.4549]), np.float64(1.2336))
    >>> y = gvae.distributions.GammaDistribution(np.log([0.01]), np.zeros(1), log=True)
    >>> y.sample(np.array([0.01])).round(2)
    array([-456.48])
    """

    def __init__(self, log_shape: Any, log_mean: Array, log: bool = False, path: str | None = "exact"):
        if path not in ("exact", None):
            raise ConfigError(f"GammaDistribution: path is {path!r}, expected 'exact' or None")
        check_variables(self, log_shape=log_shape, log_mean=log_mean)
        self.log_shape, self.log_mean, self.log = log_shape, log_mean, log
        self.reparameterized = path is not None

    @property
    def support(self) -> Support:  # type: ignore[override]
        return Support() if self.log else Support(0, math.inf, open=True)

    @property
    def shape(self) -> Array:
        """The shapes a, (..., n).

        Examples
        --------
        >>> gvae.distributions.GammaDistribution(np.log([2.0, 0.5]), np.zeros(2)).shape
        array([2. , 0.5])
        """
        return elementwise.exp(self.log_shape)

    @property
    def mean(self) -> Array:
        """The means, (..., n): those of log z, log_mean + ψ(a) - log a, where the variables are log z.

        Examples
        --------
        >>> log_shape, log_mean = np.log([2.0, 0.5]), np.log([3.0, 1.0])
        >>> gvae.distributions.GammaDistribution(log_shape, log_mean).mean
        array([3., 1.])
        >>> gvae.distributions.GammaDistribution(log_shape, log_mean, log=True).mean.round(4)
        array([ 0.8282, -1.2704])
        """
        if self.log:
            return elementwise.add(self.log_mean, elementwise.stirling_slope(self.shape))
        return elementwise.exp(self.log_mean)

    @property
    def n(self) -> int:
        return self.log_shape.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.log_shape.shape[:-1], self.log_mean.shape[:-1]

    def sample(self, noise: Array) -> Array:
        log_shape, log_mean = self.log_shape, self.log_mean
        if not self.reparameterized:
            log_shape, log_mean = (value_of(v).astype(noise.dtype, copy=False) for v in (log_shape, log_mean))
        scaled = draws.log_gamma_draw(elementwise.exp(log_shape), noise)
        y = elementwise.add(scaled, elementwise.subtract(log_mean, log_shape))
        # where e^y would underflow, its derivative is 0, and so is that of the maximum
        return y if self.log else elementwise.maximum(elementwise.exp(y), float(np.finfo(noise.dtype).tiny))

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        a, log_rate = np.exp(host(self.log_shape)), host(self.log_shape) - host(self.log_mean)
        a = np.broadcast_to(a, log_rate.shape)

        def cdf(j: int, v: np.ndarray) -> np.ndarray:
            log_z = v if self.log else np.log(np.maximum(v, np.finfo(np.float64).tiny))
            t = np.minimum(log_z + log_rate[..., j], 700.0)
            tail = np.exp(a[..., j] * t - special.gammaln(a[..., j] + 1))  # P(a, e^t) as t -> -inf, where e^t underflows
            found = np.where(t < -40, tail, special.gammainc(a[..., j], np.exp(t)))
            return found if self.log else np.where(v > 0, found, 0.0)

        return cdf

    def _log_terms(self, x: Array) -> Array:
        a, log_z = self.shape, x if self.log else elementwise.log(x)
        m = elementwise.subtract(log_z, self.log_mean)
        terms = elementwise.add(elementwise.multiply(a, m - elementwise.expm1(m)), -elementwise.stirling(a))
        return terms if self.log else elementwise.subtract(terms, log_z)

    def variance(self) -> Array:
        if not self.log:
            return elementwise.exp(elementwise.subtract(2 * self.log_mean, self.log_shape))
        a = value_of(self.shape)
        return device.special(a).zeta(2, a)

    def entropy(self) -> Array:
        # for log z: s(a) - a s'(a); for z the mean of log z is added, as dz = z d log z
        a = self.shape
        slope = elementwise.stirling_slope(a)
        terms = elementwise.subtract(elementwise.stirling(a), elementwise.multiply(a, slope))
        return arrays.sum(terms if self.log else elementwise.add(terms, elementwise.add(self.log_mean, slope)), axis=-1)

    @property
    def standard(self) -> Distribution:
        zero = device.zeros(self.n, self.log_shape.dtype, self.log_shape)
        return GammaDistribution(zero, zero, self.log)

    def kl(self, p: Distribution | None = None) -> Array:
        units = self.kl_by_unit(p)
        return None if units is None else arrays.sum(units, axis=-1)

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        p = self.standard if p is None else p
        if not isinstance(p, GammaDistribution) or p.log != self.log:
            return None
        check_size(self, p)
        a, a_p, d = self.shape, p.shape, elementwise.subtract(self.log_mean, p.log_mean)
        of_mean = elementwise.multiply(a_p, elementwise.expm1(d) - d)
        of_shape = elementwise.multiply(elementwise.subtract(a, a_p), elementwise.stirling_slope(a))
        of_shape = elementwise.add(of_shape, elementwise.subtract(elementwise.stirling(a_p), elementwise.stirling(a)))
        return elementwise.add(of_shape, of_mean)
