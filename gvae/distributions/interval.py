"""Variables in the unit interval: beta, continuous Bernoulli, and Gaussians through the logistic function."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.autodiff import value_of
from gvae.distributions.base import Distribution, Support, check_size, check_variables, check_width
from gvae.distributions.discrete import Independent
from gvae.ops import arrays, elementwise
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["BetaDistribution", "ContinuousBernoulliDistribution", "LogitNormal"]


class BetaDistribution(Independent):
    """Independent variables with density x^(a - 1) (1 - x)^(b - 1) / B(a, b) on (0, 1).

    The standard is uniform. Draws come from the inverse of the distribution function and stay within the numbers that the
    dtype has between 0 and 1; they are not differentiated.

    Parameters
    ----------
    log_a, log_b : array (..., n)

    Examples
    --------
    >>> p = gvae.distributions.BetaDistribution(np.log([2.0, 0.5]), np.log([6.0, 0.5]))
    >>> p.mean.round(4), p.variance().round(4)
    (array([0.25, 0.5 ]), array([0.0208, 0.125 ]))
    >>> p.log_prob(np.array([0.2, 0.9]), reduce=False).round(4)
    array([1.0125, 0.0592])
    """

    support = Support(0, 1, open=True)

    def __init__(self, log_a: Any, log_b: Any):
        check_variables(self, log_a=log_a, log_b=log_b)
        self.log_a, self.log_b = log_a, log_b

    @property
    def mean(self) -> Array:
        """The means a / (a + b), (..., n).

        Examples
        --------
        >>> gvae.distributions.BetaDistribution(np.log([2.0]), np.log([6.0])).mean.round(4)
        array([0.25])
        """
        return elementwise.sigmoid(elementwise.subtract(self.log_a, self.log_b))

    @property
    def n(self) -> int:
        return self.log_a.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.log_a.shape[:-1], self.log_b.shape[:-1]

    def sample(self, noise: Array) -> Array:
        check_width(self, "sample", noise=noise)
        a, b = (np.exp(value_of(v).astype(np.float64)) for v in (self.log_a, self.log_b))
        info = np.finfo(noise.dtype)
        x = device.special(a).betaincinv(a, b, noise.astype(np.float64))
        return np.clip(x, info.tiny, 1 - info.epsneg).astype(noise.dtype)

    def _log_terms(self, x: Array) -> Array:
        a, b = elementwise.exp(self.log_a), elementwise.exp(self.log_b)
        powers = elementwise.multiply(a - 1, elementwise.log(x)) + elementwise.multiply(b - 1, elementwise.log1p(-x))
        return elementwise.subtract(powers, elementwise.log_beta(a, b))

    def variance(self) -> Array:
        p = self.mean
        return elementwise.divide(p * (1 - p), 1 + elementwise.add(elementwise.exp(self.log_a), elementwise.exp(self.log_b)))

    def entropy(self) -> Array:
        return elementwise.negative(self.kl())

    @property
    def standard(self) -> Distribution:
        zero = device.zeros(self.n, self.log_a.dtype, self.log_a)
        return BetaDistribution(zero, zero)

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        p = self.standard if p is None else p
        if not isinstance(p, BetaDistribution):
            return None
        check_size(self, p)
        # E_q log p needs E log x = psi(a) - psi(a + b) and E log(1 - x) = psi(b) - psi(a + b)
        a, b, a_p, b_p = (elementwise.exp(v) for v in (self.log_a, self.log_b, p.log_a, p.log_b))
        whole = elementwise.digamma(elementwise.add(a, b))
        log_x, log_rest = (elementwise.subtract(elementwise.digamma(v), whole) for v in (a, b))
        node = elementwise.multiply(elementwise.subtract(a, a_p), log_x)
        node = node + elementwise.multiply(elementwise.subtract(b, b_p), log_rest)
        return node + elementwise.subtract(elementwise.log_beta(a_p, b_p), elementwise.log_beta(a, b))


class ContinuousBernoulliDistribution(Independent):
    """Independent variables with density proportional to e^(a x) on [0, 1], where a is the logit.

    The standard is uniform. Draws are not differentiated.

    Parameters
    ----------
    logits : array (..., n)
        The numbers a.

    Notes
    -----
    log p(x) = a (x - 1/2) - log(sinh(a/2) / (a/2)). Source: Loaiza-Ganem and Cunningham (2019), whose lambda is sigmoid(a).

    Examples
    --------
    >>> p = gvae.distributions.ContinuousBernoulliDistribution(np.array([-1.0, 3.0]))
    >>> p.log_prob(np.array([0.5, 1.0]), reduce=False).round(4)
    array([-0.0413,  1.1497])
    >>> p.mean.round(4), p.kl().round(4)
    (array([0.418 , 0.7191]), np.float64(0.3475))
    """

    support = Support(0, 1)

    def __init__(self, logits: Array):
        self.logits = logits

    @property
    def mean(self) -> Array:
        """The means 1/2 + (coth(a/2) - 2/a) / 2, (..., n); 1/2 at a = 0.

        Examples
        --------
        >>> gvae.distributions.ContinuousBernoulliDistribution(np.array([-3.0, 0.0, 3.0])).mean.round(4)
        array([0.2809, 0.5   , 0.7191])
        """
        return 0.5 + 0.5 * elementwise.langevin(0.5 * self.logits)

    @property
    def n(self) -> int:
        return self.logits.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return (self.logits.shape[:-1],)

    def sample(self, noise: Array) -> Array:
        check_width(self, "sample", noise=noise)
        # F(x) = (e^(a x) - 1) / (e^a - 1), inverted at -|a|, where nothing overflows, and mirrored for a > 0
        logits = value_of(self.logits)
        mirrored, a, tiny = logits > 0, -np.abs(logits), np.finfo(noise.dtype).tiny
        v, rest = np.where(mirrored, 1 - noise, noise), np.where(mirrored, noise, 1 - noise)
        part = v * np.expm1(a)  # the ratio less 1: near 0 it has more digits than the ratio, near -1 fewer
        log_ratio = np.where(part > -0.5, np.log1p(np.maximum(part, -0.5)), np.log(np.maximum(rest + v * np.exp(a), tiny)))
        x = np.where(a < -tiny, np.minimum(log_ratio / np.where(a < -tiny, a, -1), 1), v)
        return np.where(mirrored, 1 - x, x).astype(noise.dtype)

    def _log_terms(self, x: Array) -> Array:
        half = 0.5 * self.logits
        return elementwise.subtract(elementwise.multiply(2 * x - 1, half), elementwise.log_sinhc(half))

    def variance(self) -> Array:
        return 0.25 * elementwise.langevin_slope(0.5 * value_of(self.logits))

    def entropy(self) -> Array:
        return elementwise.negative(self.kl())

    @property
    def standard(self) -> Distribution:
        return ContinuousBernoulliDistribution(device.zeros(self.n, self.logits.dtype, self.logits))

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        p = self.standard if p is None else p
        if not isinstance(p, ContinuousBernoulliDistribution):
            return None
        check_size(self, p)
        half, half_p = 0.5 * self.logits, 0.5 * p.logits
        node = elementwise.multiply(elementwise.subtract(half, half_p), elementwise.langevin(half))
        return node + elementwise.subtract(elementwise.log_sinhc(half_p), elementwise.log_sinhc(half))


class LogitNormal(Distribution):
    """Variables x in [0, 1] with logit(s + (1 - 2 s) x) ~ base, a Gaussian of any structure.

    With s > 0 the ends of [0, 1] have finite densities, and a little mass lies beyond them, up to s / (1 - 2 s).

    Parameters
    ----------
    base : Distribution
    squeeze : float, default 0.01
        The number s.

    Notes
    -----
    log p(x) = log base(y) + log |dy/dx| is a density in x itself, Jacobians included, for every s. A banded base costs one
    banded product in training and one solve for a draw. Source: Peste and Malagò's graphical model of observations.

    Examples
    --------
    >>> base = gvae.distributions.AR1Gaussian(np.zeros(3), np.float64(1.0), np.float64(0.9))
    >>> p = gvae.distributions.LogitNormal(base)
    >>> p.sample(p.noise(gvae.random.key(0))).round(3)
    array([0.469, 0.329, 0.337])
    >>> p.log_prob(np.array([0.5, 0.4, 0.4])).round(4)
    np.float64(2.6613)
    """

    support = Support(0, 1)

    def __init__(self, base: Distribution, squeeze: float = 0.01):
        self.base, self.squeeze, self.drawn = base, squeeze, self.drawn_with(squeeze)
        self.reparameterized, self.independent = base.reparameterized, base.independent

    @staticmethod
    def drawn_with(squeeze: float) -> Support:
        """Where draws lie: a little beyond [0, 1] on both sides.

        Parameters
        ----------
        squeeze : float

        Returns
        -------
        Support

        Examples
        --------
        >>> print(gvae.distributions.LogitNormal.drawn_with(0.1))
        (-0.125, 1.125)
        """
        beyond = squeeze / (1 - 2 * squeeze)
        return Support(-beyond, 1 + beyond, open=True)

    @property
    def n(self) -> int:
        return self.base.n

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.base._leads()

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.base.noise(key, sample_shape)

    def sample(self, noise: Array) -> Array:
        return self._from_logit(self.base.sample(noise))

    def _from_logit(self, y: Array) -> Array:
        return (elementwise.sigmoid(y) - self.squeeze) / (1 - 2 * self.squeeze)

    def _to_logit(self, x: Array) -> tuple[Any, Any]:
        """y and log |dy/dx| per variable."""
        inside = self.squeeze + (1 - 2 * self.squeeze) * x
        info = np.finfo(value_of(inside).dtype)  # a draw at an end may be rounded beyond it
        inside = elementwise.minimum(elementwise.maximum(inside, float(info.tiny)), 1 - float(info.epsneg))
        log_inside, log_outside = elementwise.log(inside), elementwise.log1p(-inside)
        return log_inside - log_outside, math.log(1 - 2 * self.squeeze) - log_inside - log_outside

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        check_width(self, "log_prob", x=x)
        y, slope = self._to_logit(x)
        return elementwise.add(self.base.log_prob(y, reduce), arrays.sum(slope, axis=-1) if reduce else slope)

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        y = self.base.sample(noise)  # not from the sample, which has lost it where its logit is large
        slope = math.log(1 - 2 * self.squeeze) + elementwise.softplus(y) + elementwise.softplus(-y)
        return elementwise.add(self.base.log_prob_of_draw(noise, y), arrays.sum(slope, axis=-1))

    @property
    def median(self) -> Array:
        """The median of each variable, (..., n): the image of the base's mean.

        Examples
        --------
        >>> base = gvae.distributions.DiagonalGaussian(np.array([0.0, 2.0]), np.zeros(2))
        >>> gvae.distributions.LogitNormal(base).median.round(4)
        array([0.5   , 0.8886])
        """
        return self._from_logit(self.base.mean)

    @property
    def mean(self) -> Array:
        """The means, (..., n), by Gauss-Hermite quadrature over each variable's marginal: there is no closed form.

        A plain array. Needs the base's variances.

        Notes
        -----
        The error is within 1e-6 up to a standard deviation of 3 of y, 1e-3 up to 5, 5e-2 up to 50 and 1e-1 beyond.

        Examples
        --------
        >>> base = gvae.distributions.DiagonalGaussian(np.array([0.0, 2.0]), np.zeros(2))
        >>> gvae.distributions.LogitNormal(base).mean.round(4)
        array([0.5   , 0.8516])
        """
        t, w = np.polynomial.hermite_e.hermegauss(50)
        y, s = value_of(self.base.mean), np.sqrt(value_of(self.base.variance()))
        x = sum(wk * self._from_logit(y + tk * s) for tk, wk in zip(t.tolist(), (w / w.sum()).tolist(), strict=True))
        return x.astype(y.dtype, copy=False)

    @property
    def standard(self) -> Distribution:
        return LogitNormal(self.base.standard, self.squeeze)

    def kl(self, p: Distribution | None = None) -> Array:
        """KL divergence of the bases, which an invertible map leaves unchanged; None if p has another squeeze."""
        if p is None:
            return self.base.kl()
        return self.base.kl(p.base) if isinstance(p, LogitNormal) and p.squeeze == self.squeeze else None
