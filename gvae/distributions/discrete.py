"""Independent variables that are binary, categories or counts.

Draws are not differentiable: objectives use the score function, unless binary ones have a surrogate derivative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy import special

from gvae import random
from gvae.autodiff import primitive, value_of
from gvae.distributions.base import Conditionals, Distribution, Support, check_size, check_variables, check_width, host
from gvae.errors import BoundsError, ConfigError, ShapeError
from gvae.ops import arrays, dense, draws, elementwise, likelihoods
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = [
    "BernoulliDistribution",
    "CategoricalDistribution",
    "Independent",
    "NegativeBinomialDistribution",
    "PoissonDistribution",
    "ZeroInflatedDistribution",
]

COUNTS = Support(0, whole=True)
TINY, BELOW_ONE = float(np.finfo(np.float64).tiny), 1 - float(np.finfo(np.float64).epsneg)
LEAST_EXPONENT = -1000.0  # e^x is 0 below, in float64 as well


class Independent(Distribution):
    """Base class of independent variables, each drawn by inverting its distribution function at a uniform number."""

    reparameterized = False
    independent = True

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        return random.uniform(key, shape, dtype, like)

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        check_width(self, "log_prob", x=x)
        terms = self._log_terms(x)
        return arrays.sum(terms, axis=-1) if reduce else terms

    def kl(self, p: Distribution | None = None) -> Array:
        units = self.kl_by_unit(p)
        return None if units is None else arrays.sum(units, axis=-1)

    def _log_terms(self, x: Array) -> Array:
        raise NotImplementedError

    def conditionals(self, x: np.ndarray) -> Conditionals:
        cdf = self._cdf()
        return ((j, functools.partial(cdf, j)) for j in range(self.n))

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        """The function (j, v) -> P(x_j <= v)."""
        raise ConfigError(f"{type(self).__name__} has no distribution function here: it cannot be coded")

    def covariance(self) -> Array:
        variance = value_of(self.variance())
        return variance[..., None] * device.namespace(variance).eye(self.n, dtype=variance.dtype)


class BernoulliDistribution(Independent):
    """Independent binary variables with P(x_j = 1) = sigmoid(logits_j).

    The standard is a fair coin per variable. log_prob takes any x in [0, 1].

    Parameters
    ----------
    logits : array (..., n), optional
    layer : tuple of arrays, optional
        Instead of the logits, (h, weight, bias) of the affine layer that computes them: (..., I), (I, n), (n,). The logits
        are then computed on first access, and log_prob computes densities from h in one pass.
    path : {None, "taylor", "straight_through"}
        The surrogate for the derivative of draws, see `gvae.ops.draws`.

    Examples
    --------
    >>> p = gvae.distributions.BernoulliDistribution(np.array([0.0, 2.0]))
    >>> p.log_prob(np.array([[1.0, 1.0], [0.0, 0.0]])).round(4)
    array([-0.8201, -2.8201])
    >>> h, weight, bias = np.ones((1, 3)), np.ones((3, 2)), np.zeros(2)
    >>> gvae.distributions.BernoulliDistribution(layer=(h, weight, bias)).logits
    array([[3., 3.]])
    """

    support = Support(0, 1)
    drawn = Support(0, 1, whole=True)
    discrete = True  # though log_prob takes grey levels, too

    def __init__(self, logits: Array = None, layer: tuple[Any, Any, Any] | None = None, path: str | None = None):
        self._logits: Any = logits
        self._layer: Any = layer
        self._path = path

    @property
    def path(self) -> str | None:
        return None if self._path is None else "surrogate"

    @property
    def logits(self) -> Array:
        """The logits, (..., n); computed on first access if a layer is given.

        Examples
        --------
        >>> layer = np.ones((1, 3)), np.ones((3, 2)), np.zeros(2)
        >>> gvae.distributions.BernoulliDistribution(layer=layer).logits
        array([[3., 3.]])
        """
        if self._logits is None:
            self._logits = dense.affine(*self._layer)
        return self._logits

    @property
    def mean(self) -> Array:
        """The probabilities of 1, sigmoid(logits), (..., n).

        Examples
        --------
        >>> gvae.distributions.BernoulliDistribution(np.array([0.0, 2.0])).mean.round(4)
        array([0.5   , 0.8808])
        """
        return elementwise.sigmoid(self.logits)

    @property
    def n(self) -> int:
        return (self._logits if self._layer is None else self._layer[1]).shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return ((self._logits if self._layer is None else self._layer[0]).shape[:-1],)

    def sample(self, noise: Array) -> Array:
        return draws.bernoulli_draw(self.logits, noise, path=self._path)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        zero = special.expit(-host(self.logits))
        return lambda j, v: np.where(v >= 1, 1.0, zero[..., j])

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if reduce and self._logits is None:
            return likelihoods.bernoulli_affine_log_prob(x, *self._layer)
        if reduce:
            return likelihoods.bernoulli_log_prob(x, self.logits)
        check_width(self, "log_prob", x=x)
        return elementwise.subtract(elementwise.multiply(x, self.logits), elementwise.softplus(self.logits))

    def entropy(self) -> Array:
        return arrays.sum(self._entropies(), axis=-1)

    def _entropies(self) -> Array:
        # softplus(a) - a sigmoid(a), written in |a| so that nothing large cancels
        size = elementwise.abs(self.logits)
        e = elementwise.exp(-size)
        return elementwise.log1p(e) + size * e / (1 + e)

    def variance(self) -> Array:
        p = self.mean
        return p * (1 - p)

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        if p is None:
            return math.log(2) - self._entropies()
        if not isinstance(p, BernoulliDistribution):
            return None
        check_size(self, p)
        cross = elementwise.multiply(self.mean, p.logits) - elementwise.softplus(p.logits)
        return elementwise.negative(self._entropies() + cross)

    @property
    def standard(self) -> Distribution:
        return BernoulliDistribution(device.zeros(self.n, self.logits.dtype, self.logits))

    def kl(self, p: Distribution | None = None) -> Array:
        if p is None:
            return self.n * math.log(2) - self.entropy()
        if not isinstance(p, BernoulliDistribution):
            return None
        check_size(self, p)
        # -H(q) - E_q log p, with E_q log p = sum q a_p - softplus(a_p)
        cross = elementwise.multiply(self.mean, p.logits) - elementwise.softplus(p.logits)
        return elementwise.negative(self.entropy() + arrays.sum(cross, axis=-1))


class CategoricalDistribution(Independent):
    """Independent variables with values 0 .. C - 1 and P(x_j = c) = softmax(logits_j)_c.

    x, mean and variance are those of the class numbers, which is meaningful where the classes are ordered (grey levels). The
    standard is uniform.

    Parameters
    ----------
    logits : array (..., n, C)

    Notes
    -----
    log_prob raises BoundsError for values that are not whole numbers in 0 .. C - 1.

    Examples
    --------
    >>> p = gvae.distributions.CategoricalDistribution(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    >>> np.exp(p.log_prob(np.array([0.0, 2.0]), reduce=False)).round(4)
    array([0.5, 0.8])
    >>> p.mean.round(2), p.entropy().round(4)
    (array([0.75, 1.7 ]), np.float64(1.6788))
    """

    def __init__(self, logits: Array):
        self.logits = logits

    @property
    def n(self) -> int:
        return self.logits.shape[-2]

    @property
    def support(self) -> Support:  # type: ignore[override]
        return Support(0, self.logits.shape[-1] - 1, whole=True)

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return (self.logits.shape[:-2],)

    def log_probabilities(self) -> Array:
        """Log-probabilities of all classes, log P(x_j = c).

        Returns
        -------
        array (..., n, C)
            Nats.

        Examples
        --------
        >>> p = gvae.distributions.CategoricalDistribution(np.log([[2.0, 1.0, 1.0]]))
        >>> np.exp(p.log_probabilities()).round(4)
        array([[0.5 , 0.25, 0.25]])
        """
        return elementwise.subtract(self.logits, arrays.logsumexp(self.logits, axis=-1, keepdims=True))

    @property
    def mean(self) -> Array:
        """The expected class number of each variable, (..., n).

        Examples
        --------
        >>> gvae.distributions.CategoricalDistribution(np.log([[0.5, 0.25, 0.25]])).mean.round(4)
        array([0.75])
        """
        return self._moment(self._classes())

    def variance(self) -> Array:
        p, c = elementwise.exp(self.log_probabilities()), self._classes()
        return arrays.sum(p * elementwise.square(elementwise.subtract(c, self.mean[..., None])), axis=-1)

    def _classes(self) -> Array:
        return device.namespace(self.logits).arange(self.logits.shape[-1], dtype=self.logits.dtype)

    def _moment(self, values: np.ndarray) -> Array:
        return arrays.sum(elementwise.multiply(elementwise.exp(self.log_probabilities()), values), axis=-1)

    def sample(self, noise: Array) -> Array:
        return draws.categorical_draw(value_of(self.logits).astype(noise.dtype, copy=False), noise)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        below = np.cumsum(special.softmax(host(self.logits), axis=-1), axis=-1).clip(0, 1)
        return lambda j, v: (
            below[..., j, :][..., v.astype(np.int64)] if below.ndim == 2 else below[np.arange(len(v)), j, v.astype(np.int64)]
        )

    def _log_terms(self, x: Array) -> Array:
        one_hot = value_of(_one_hot(x, classes=self.logits.shape[-1]))
        picked = arrays.sum(elementwise.where(one_hot == 1, self.logits, 0.0), axis=-1)  # a logit may be -inf
        return elementwise.subtract(picked, arrays.logsumexp(self.logits, axis=-1))

    def entropy(self) -> Array:
        return arrays.sum(self._entropies(), axis=-1)

    def _entropies(self) -> Array:
        log_p = self.log_probabilities()
        return -arrays.sum(elementwise.multiply(elementwise.exp(log_p), _where_possible(log_p, log_p)), axis=-1)

    @property
    def standard(self) -> Distribution:
        return CategoricalDistribution(device.zeros(self.logits.shape[-2:], self.logits.dtype, self.logits))

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        if p is None:
            return math.log(self.logits.shape[-1]) - self._entropies()
        if not isinstance(p, CategoricalDistribution):
            return None
        check_size(self, p)
        log_q = self.log_probabilities()
        difference = elementwise.subtract(_where_possible(log_q, log_q), _where_possible(log_q, p.log_probabilities()))
        return arrays.sum(elementwise.multiply(elementwise.exp(log_q), difference), axis=-1)


def _where_possible(log_p: Array, values: Array) -> Array:
    """The values, 0 where p is 0: 0 log 0 = 0."""
    return elementwise.where(value_of(log_p) > -np.inf, values, 0.0)


@functools.partial(primitive, differentiable=False)
def _one_hot(x: Array, *, classes: int) -> Array:
    """One-hot vectors of the class numbers x, along a new last axis. Values outside of 0 .. classes - 1 are refused."""
    return device.foreign(_checked_one_hot, x, classes)  # it reads values, in every launch, too


def _checked_one_hot(x: Array, classes: int) -> Array:
    whole = (x == x.round()).all()
    if x.size and not (whole and x.min() >= 0 and x.max() < classes):
        given = f"values {x.min():g} .. {x.max():g}" if whole else "values that are not whole numbers"
        raise BoundsError(f"categorical: x has {given}, expected 0 .. {classes - 1}")
    return (x[..., None] == device.namespace(x).arange(classes, dtype=x.dtype)).astype(x.dtype)


class PoissonDistribution(Independent):
    """Independent counts with rates e^log_rate.

    The standard has rate 1. There is no entropy in closed form.

    Parameters
    ----------
    log_rate : array (..., n)

    Examples
    --------
    >>> p = gvae.distributions.PoissonDistribution(np.log([0.5, 10.0]))
    >>> p.sample(p.noise(gvae.random.key(0), (3,)))
    array([[ 0., 12.],
           [ 2., 11.],
           [ 0.,  7.]])
    >>> p.log_prob(np.array([0.0, 10.0])).round(4), p.kl().round(4)
    (np.float64(-2.5786), np.float64(14.1793))
    """

    support = COUNTS

    def __init__(self, log_rate: Array):
        self.log_rate = log_rate

    @property
    def mean(self) -> Array:
        """The rates e^log_rate, (..., n).

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution(np.log([0.5, 10.0])).mean.round(4)
        array([ 0.5, 10. ])
        """
        return elementwise.exp(self.log_rate)

    @property
    def n(self) -> int:
        return self.log_rate.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return (self.log_rate.shape[:-1],)

    def sample(self, noise: Array) -> Array:
        return draws.poisson_draw(value_of(self.log_rate).astype(noise.dtype, copy=False), noise)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        rate = np.exp(host(self.log_rate))
        return lambda j, v: special.pdtr(v, rate[..., j])

    def _log_terms(self, x: Array) -> Array:
        return elementwise.log_poisson(x, self.log_rate)

    def variance(self) -> Array:
        return self.mean

    @property
    def standard(self) -> Distribution:
        return PoissonDistribution(device.zeros(self.n, self.log_rate.dtype, self.log_rate))

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        p = self.standard if p is None else p
        if not isinstance(p, PoissonDistribution):
            return None
        check_size(self, p)
        # rate_q (t + e^-t - 1) = rate_p (t e^t - e^t + 1), t = log rate_q - log rate_p: the first overflows for t << 0
        t = elementwise.subtract(self.log_rate, p.log_rate)
        up, down = elementwise.maximum(t, 0.0), elementwise.maximum(elementwise.minimum(t, 0.0), LEAST_EXPONENT)
        larger = elementwise.multiply(elementwise.exp(self.log_rate), up + elementwise.expm1(-up))
        smaller = elementwise.subtract(elementwise.multiply(down, elementwise.exp(down)), elementwise.expm1(down))
        return elementwise.add(larger, elementwise.multiply(elementwise.exp(p.log_rate), smaller))


class NegativeBinomialDistribution(Independent):
    """Independent counts of mean m and variance m + m² / r; Poisson in the limit of large r.

    The standard has m = r = 1. Neither entropy nor KL has a closed form.

    Parameters
    ----------
    log_mean, log_r : array (..., n)

    Notes
    -----
    p(x) = Gamma(x + r) / (Gamma(r) x!) (r / (r + m))^r (m / (r + m))^x.

    Examples
    --------
    >>> p = gvae.distributions.NegativeBinomialDistribution(np.log([4.0]), np.log([2.0]))
    >>> p.variance().round(4), p.log_prob(np.array([0.0])).round(4)
    (array([12.]), np.float64(-2.1972))
    >>> p.sample(p.noise(gvae.random.key(0), (8,)))[:, 0]
    array([ 2.,  5., 12.,  5.,  0.,  1.,  6.,  4.])
    """

    support = COUNTS

    def __init__(self, log_mean: Array, log_r: Array):
        check_variables(self, log_mean=log_mean, log_r=log_r)
        self.log_mean, self.log_r = log_mean, log_r

    @property
    def mean(self) -> Array:
        """The means e^log_mean, (..., n).

        Examples
        --------
        >>> gvae.distributions.NegativeBinomialDistribution(np.log([4.0]), np.log([2.0])).mean.round(4)
        array([4.])
        """
        return elementwise.exp(self.log_mean)

    @property
    def n(self) -> int:
        return self.log_mean.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.log_mean.shape[:-1], self.log_r.shape[:-1]

    def sample(self, noise: Array) -> Array:
        check_width(self, "sample", noise=noise)
        log_m, log_r, u = draws.on_host(value_of(self.log_mean), value_of(self.log_r), noise)
        m, r, u = np.exp(log_m), np.exp(log_r), np.maximum(u, np.finfo(noise.dtype).epsneg / 2)  # as log_gamma_draw
        functions, p = device.special(u), r / (r + m)
        k = draws.smallest_count(functions.nbdtrik(u, r, p), u, lambda k: functions.betainc(r, k + 1, p))
        poisson = p == 1  # in this precision: m is far below r
        k = np.where(poisson, draws.poisson_draw(np.where(poisson, log_m, 0), u), k)  # of small rates where it is not needed
        return device.beside(k.astype(noise.dtype), noise)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        m, r = np.exp(host(self.log_mean)), np.exp(host(self.log_r))
        p = r / (r + m)
        r = np.broadcast_to(r, p.shape)
        return lambda j, v: special.betainc(r[..., j], v + 1, p[..., j])

    def _log_terms(self, x: Array) -> Array:
        r = elementwise.exp(self.log_r)
        t = elementwise.subtract(self.log_mean, self.log_r)
        # Gamma(x + r) / (Gamma(r) x!) = 1 / ((x + r) B(x + 1, r)): no large logarithms are subtracted
        log_choose = elementwise.log(elementwise.add(x, r)) + elementwise.log_beta(x + 1, r)
        log_powers = r * elementwise.softplus(t) + elementwise.multiply(x, elementwise.softplus(-t))
        return elementwise.negative(elementwise.add(log_choose, log_powers))

    def variance(self) -> Array:
        return elementwise.add(self.mean, elementwise.exp(2 * self.log_mean - self.log_r))

    @property
    def standard(self) -> Distribution:
        zero = device.zeros(self.n, self.log_mean.dtype, self.log_mean)
        return NegativeBinomialDistribution(zero, zero)

    def kl(self, p: Distribution | None = None) -> Array:
        return None


class ZeroInflatedDistribution(Independent):
    """Independent counts, 0 with probability pi_j = sigmoid(logits_j) and otherwise drawn from a count distribution.

    The base may draw a 0, too. The standard has pi = 1/2 and the base's own standard. Neither entropy nor KL has a closed
    form.

    Parameters
    ----------
    base : PoissonDistribution or NegativeBinomialDistribution
    logits : array (..., n)

    Notes
    -----
    p(0) = pi + (1 - pi) base(0) and p(x) = (1 - pi) base(x), computed by logarithms. Source: Lambert (1992); Lopez et al.
    (2018) for negative binomials (scVI).

    Examples
    --------
    >>> base = gvae.distributions.PoissonDistribution(np.log([3.0]))
    >>> p = gvae.distributions.ZeroInflatedDistribution(base, np.array([0.0]))
    >>> np.exp(p.log_prob(np.array([[0.0], [3.0]]))).round(4), p.mean.round(4)
    (array([0.5249, 0.112 ]), array([1.5]))
    """

    support = COUNTS

    def __init__(self, base: Distribution, logits: Array):
        if logits.shape[-1] != base.n:
            raise ShapeError(f"ZeroInflatedDistribution: logits are of {logits.shape[-1]} variables, and base of {base.n}")
        self.base: Any = base
        self.logits = logits

    @property
    def mean(self) -> Array:
        """The means (1 - pi) base.mean, (..., n).

        Examples
        --------
        >>> base = gvae.distributions.PoissonDistribution(np.log([3.0, 3.0]))
        >>> gvae.distributions.ZeroInflatedDistribution(base, np.array([0.0, -100.0])).mean.round(4)
        array([1.5, 3. ])
        """
        return elementwise.multiply(elementwise.sigmoid(-self.logits), self.base.mean)

    @property
    def n(self) -> int:
        return self.logits.shape[-1]

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.logits.shape[:-1], *self.base._leads()

    def sample(self, noise: Array) -> Array:
        check_width(self, "sample", noise=noise)
        logits, u = draws.on_host(value_of(self.logits), noise)
        expit = device.special(u).expit
        zero, nonzero = expit(logits), expit(-logits)
        of_base = np.maximum(u - zero, 0) / np.maximum(nonzero, TINY)  # uniform where u > zero
        k = np.where(u < zero, 0, self.base.sample(np.minimum(of_base, BELOW_ONE)))
        return device.beside(k.astype(noise.dtype), noise)

    def _cdf(self) -> Callable[[int, np.ndarray], np.ndarray]:
        logits, of_base = host(self.logits), self.base._cdf()
        zero, nonzero = special.expit(logits), special.expit(-logits)
        return lambda j, v: np.minimum(zero[..., j] + nonzero[..., j] * of_base(j, v), 1.0)

    def _log_terms(self, x: Array) -> Array:
        log_p = self.base._log_terms(x)
        mixed = elementwise.where(value_of(x) == 0, _log_add_exp(self.logits, log_p), log_p)
        return elementwise.subtract(mixed, elementwise.softplus(self.logits))

    def variance(self) -> Array:
        share = elementwise.multiply(elementwise.sigmoid(self.logits), elementwise.square(self.base.mean))
        return elementwise.multiply(elementwise.sigmoid(-self.logits), elementwise.add(self.base.variance(), share))

    @property
    def standard(self) -> Distribution:
        return ZeroInflatedDistribution(self.base.standard, device.zeros(self.n, self.logits.dtype, self.logits))

    def kl(self, p: Distribution | None = None) -> Array:
        return None


def _log_add_exp(a: Array, b: Array) -> Array:
    """log(e^a + e^b): the larger of both, plus the contribution of the smaller."""
    larger = value_of(a) > value_of(b)
    difference = elementwise.subtract(a, b)
    with_a = elementwise.add(a, elementwise.softplus(-difference))
    return elementwise.where(larger, with_a, elementwise.add(b, elementwise.softplus(difference)))
