"""Independent variables that are binary, categories or counts. Draws are not differentiable: objectives use the score
function."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import primitive, value_of
from gvae.distributions.base import Distribution, Support
from gvae.errors import BoundsError
from gvae.ops import arrays, dense, elementwise, likelihoods
from gvae.runtime import device

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


class Independent(Distribution):
    """What independent variables share that are drawn by inverting their distribution function at a uniform each."""

    reparameterized = False
    independent = True

    @staticmethod
    def draw_noise(key, shape, dtype, like=None):
        return random.uniform(key, shape, dtype, like)

    def log_prob(self, x, reduce=True):
        terms = self._log_terms(x)
        return arrays.sum(terms, axis=-1) if reduce else terms

    def _log_terms(self, x: Any) -> Any:
        raise NotImplementedError

    def covariance(self):
        variance = value_of(self.variance())
        return variance[..., None] * device.namespace(variance).eye(self.n, dtype=variance.dtype)


class BernoulliDistribution(Independent):
    """Independent binary variables with P(x_j = 1) = sigmoid(logits_j).   logits : (..., n)

    The standard is a fair coin per variable. log_prob takes any x in [0, 1].

    layer : instead of logits, (h, weight, bias) of the affine layer that emits them: (..., I), (I, n), (n,). Then they are
            computed when somebody looks at them; log_prob goes from h to densities in one pass.
    """

    support = Support(0, 1)
    discrete = True  # though grey levels have a log_prob too

    def __init__(self, logits: Any = None, layer: tuple[Any, Any, Any] | None = None):
        self._logits: Any = logits
        self._layer: Any = layer

    @property
    def logits(self) -> Any:
        if self._logits is None:
            self._logits = dense.affine(*self._layer)
        return self._logits

    @property
    def mean(self) -> Any:
        return elementwise.sigmoid(self.logits)

    @property
    def n(self) -> int:
        return (self._logits if self._layer is None else self._layer[1]).shape[-1]

    def _leads(self):
        return ((self._logits if self._layer is None else self._layer[0]).shape[:-1],)

    def sample(self, noise):
        probability = value_of(self.mean)
        return (noise < probability).astype(probability.dtype)

    def log_prob(self, x, reduce=True):
        if reduce and self._logits is None:
            return likelihoods.bernoulli_affine_log_prob(x, *self._layer)
        if reduce:
            return likelihoods.bernoulli_log_prob(x, self.logits)
        return elementwise.subtract(elementwise.multiply(x, self.logits), elementwise.softplus(self.logits))

    def entropy(self):
        return arrays.sum(self._entropies(), axis=-1)

    def _entropies(self):
        # softplus(a) - a sigmoid(a), written in |a| so that nothing large cancels
        size = elementwise.abs(self.logits)
        e = elementwise.exp(-size)
        return elementwise.log1p(e) + size * e / (1 + e)

    def variance(self):
        p = self.mean
        return p * (1 - p)

    def kl_by_unit(self, p=None):
        if p is None:
            return math.log(2) - self._entropies()
        if not isinstance(p, BernoulliDistribution):
            return None
        cross = elementwise.multiply(self.mean, p.logits) - elementwise.softplus(p.logits)
        return elementwise.negative(self._entropies() + cross)

    @property
    def standard(self) -> Distribution:
        return BernoulliDistribution(device.zeros(self.n, self.logits.dtype, self.logits))

    def kl(self, p=None):
        if p is None:
            return self.n * math.log(2) - self.entropy()
        if not isinstance(p, BernoulliDistribution):
            return None
        # -H(q) - E_q log p, with E_q log p = sum q a_p - softplus(a_p)
        cross = elementwise.multiply(self.mean, p.logits) - elementwise.softplus(p.logits)
        return elementwise.negative(self.entropy() + arrays.sum(cross, axis=-1))


class CategoricalDistribution(Independent):
    """Independent variables with values 0 .. C - 1 and P(x_j = c) = softmax(logits_j)_c.   logits : (..., n, C)

    x, mean and variance are those of the class numbers, which makes sense where the classes are ordered (grey levels).
    The standard is uniform.
    """

    def __init__(self, logits: Any):
        self.logits = logits

    @property
    def n(self) -> int:
        return self.logits.shape[-2]

    @property
    def support(self) -> Support:  # type: ignore[override]
        return Support(0, self.logits.shape[-1] - 1, whole=True)

    def _leads(self):
        return (self.logits.shape[:-2],)

    def log_probabilities(self) -> Any:
        """log P(x_j = c), (..., n, C)."""
        return elementwise.subtract(self.logits, arrays.logsumexp(self.logits, axis=-1, keepdims=True))

    @property
    def mean(self) -> Any:
        return self._moment(self._classes())

    def variance(self):
        p, c = elementwise.exp(self.log_probabilities()), self._classes()
        return arrays.sum(p * elementwise.square(elementwise.subtract(c, self.mean[..., None])), axis=-1)

    def _classes(self) -> Any:
        return device.namespace(self.logits).arange(self.logits.shape[-1], dtype=self.logits.dtype)

    def _moment(self, values: np.ndarray) -> Any:
        return arrays.sum(elementwise.multiply(elementwise.exp(self.log_probabilities()), values), axis=-1)

    def sample(self, noise):
        # the number of classes up to and including which there is no more than the uniform
        below = np.cumsum(np.exp(value_of(self.log_probabilities())), axis=-1)[..., :-1]
        return (noise[..., None] >= below).sum(axis=-1).astype(noise.dtype)

    def _log_terms(self, x):
        picked = arrays.sum(elementwise.multiply(_one_hot(x, classes=self.logits.shape[-1]), self.logits), axis=-1)
        return elementwise.subtract(picked, arrays.logsumexp(self.logits, axis=-1))

    def entropy(self):
        log_p = self.log_probabilities()
        return -arrays.sum(elementwise.exp(log_p) * log_p, axis=(-2, -1))

    @property
    def standard(self) -> Distribution:
        return CategoricalDistribution(device.zeros(self.logits.shape[-2:], self.logits.dtype, self.logits))

    def kl(self, p=None):
        if p is None:
            return self.n * math.log(self.logits.shape[-1]) - self.entropy()
        if not isinstance(p, CategoricalDistribution):
            return None
        log_q = self.log_probabilities()
        ratio = elementwise.subtract(log_q, p.log_probabilities())
        return arrays.sum(elementwise.multiply(elementwise.exp(log_q), ratio), axis=(-2, -1))


@functools.partial(primitive, differentiable=False)
def _one_hot(x, *, classes):
    """1 at place x of `classes`, along a new last axis; nothing is 1 for what is no class, so that is refused."""
    return device.foreign(_checked_one_hot, x, classes)  # which looks at values, in every launch as well


def _checked_one_hot(x, classes):
    if x.size and not 0 <= x.min() <= x.max() < classes:
        raise BoundsError(f"categorical: x has values {x.min():g} .. {x.max():g}, expected 0 .. {classes - 1}")
    return (x[..., None] == device.namespace(x).arange(classes, dtype=x.dtype)).astype(x.dtype)


class PoissonDistribution(Independent):
    """Independent counts with rates e^log_rate.   log_rate : (..., n). The standard has rate 1; there is no entropy in
    closed form."""

    support = COUNTS

    def __init__(self, log_rate: Any):
        self.log_rate = log_rate

    @property
    def mean(self) -> Any:
        return elementwise.exp(self.log_rate)

    @property
    def n(self) -> int:
        return self.log_rate.shape[-1]

    def _leads(self):
        return (self.log_rate.shape[:-1],)

    def sample(self, noise):
        rate, u = _on_host(self.mean, noise)
        special = device.special(u)
        k = _count(special.pdtrik(u, rate), u, lambda k: special.pdtr(k, rate))
        return device.beside(k.astype(noise.dtype), noise)

    def _log_terms(self, x):
        log_joint = elementwise.subtract(elementwise.multiply(x, self.log_rate), elementwise.exp(self.log_rate))
        return elementwise.subtract(log_joint, elementwise.lgamma(x + 1))

    def variance(self):
        return self.mean

    @property
    def standard(self) -> Distribution:
        return PoissonDistribution(device.zeros(self.n, self.log_rate.dtype, self.log_rate))

    def kl(self, p=None):
        units = self.kl_by_unit(p)
        return None if units is None else arrays.sum(units, axis=-1)

    def kl_by_unit(self, p=None):
        p = self.standard if p is None else p
        if not isinstance(p, PoissonDistribution):
            return None
        # rate_q (t + e^-t - 1) with t = log rate_q - log rate_p: nothing cancels near t = 0
        t = elementwise.subtract(self.log_rate, p.log_rate)
        return elementwise.multiply(elementwise.exp(self.log_rate), t + elementwise.expm1(-t))


class NegativeBinomialDistribution(Independent):
    """Independent counts of mean m and variance m + m² / r, Poisson's as r grows.   log_mean, log_r : (..., n)

    p(x) = Gamma(x + r) / (Gamma(r) x!) (r / (r + m))^r (m / (r + m))^x. The standard has m = r = 1. Neither entropy nor
    KL has a closed form.
    """

    support = COUNTS

    def __init__(self, log_mean: Any, log_r: Any):
        self.log_mean, self.log_r = log_mean, log_r

    @property
    def mean(self) -> Any:
        return elementwise.exp(self.log_mean)

    @property
    def n(self) -> int:
        return self.log_mean.shape[-1]

    def _leads(self):
        return self.log_mean.shape[:-1], self.log_r.shape[:-1]

    def sample(self, noise):
        log_m, log_r, u = _on_host(self.log_mean, self.log_r, noise)
        m, r = np.exp(log_m), np.exp(log_r)
        special, p = device.special(u), r / (r + m)
        k = _count(special.nbdtrik(u, r, p), u, lambda k: special.betainc(r, k + 1, p))
        return device.beside(k.astype(noise.dtype), noise)

    def _log_terms(self, x):
        r = elementwise.exp(self.log_r)
        t = elementwise.subtract(self.log_mean, self.log_r)
        # Gamma(x + r) / (Gamma(r) x!) = 1 / ((x + r) B(x + 1, r)): no large logarithms are subtracted
        log_choose = elementwise.log(elementwise.add(x, r)) + elementwise.log_beta(x + 1, r)
        log_powers = r * elementwise.softplus(t) + elementwise.multiply(x, elementwise.softplus(-t))
        return elementwise.negative(elementwise.add(log_choose, log_powers))

    def variance(self):
        return elementwise.add(self.mean, elementwise.exp(2 * self.log_mean - self.log_r))

    @property
    def standard(self) -> Distribution:
        zero = device.zeros(self.n, self.log_mean.dtype, self.log_mean)
        return NegativeBinomialDistribution(zero, zero)

    def kl(self, p=None):
        return None


class ZeroInflatedDistribution(Independent):
    """Independent counts that are 0 with probability sigmoid(logits_j), and otherwise drawn from `base`, which may draw a 0
    too.   base : counts, Poisson or negative binomial      logits : (..., n)

    p(0) = pi + (1 - pi) base(0) and p(x) = (1 - pi) base(x), by logarithms. The standard has pi = 1/2 and the base's own.
    Neither entropy nor KL has a closed form. Source: Lambert (1992); Lopez et al. (2018) for negative binomials (scVI).
    """

    support = COUNTS

    def __init__(self, base: Distribution, logits: Any):
        self.base: Any = base
        self.logits = logits

    @property
    def mean(self) -> Any:
        return elementwise.multiply(elementwise.sigmoid(-self.logits), self.base.mean)

    @property
    def n(self) -> int:
        return self.logits.shape[-1]

    def _leads(self):
        return self.logits.shape[:-1], *self.base._leads()

    def sample(self, noise):
        logits, u = _on_host(self.logits, noise)
        expit = device.special(u).expit
        zero, other = expit(logits), expit(-logits)
        of_base = np.maximum(u - zero, 0) / np.maximum(other, TINY)  # uniform where u > zero
        k = np.where(u < zero, 0, self.base.sample(np.minimum(of_base, BELOW_ONE)))
        return device.beside(k.astype(noise.dtype), noise)

    def _log_terms(self, x):
        log_p = self.base._log_terms(x)
        mixed = elementwise.where(value_of(x) == 0, _log_add_exp(self.logits, log_p), log_p)
        return elementwise.subtract(mixed, elementwise.softplus(self.logits))

    def variance(self):
        share = elementwise.multiply(elementwise.sigmoid(self.logits), elementwise.square(self.base.mean))
        return elementwise.multiply(elementwise.sigmoid(-self.logits), elementwise.add(self.base.variance(), share))

    @property
    def standard(self) -> Distribution:
        return ZeroInflatedDistribution(self.base.standard, device.zeros(self.n, self.logits.dtype, self.logits))

    def kl(self, p=None):
        return None


def _log_add_exp(a: Any, b: Any) -> Any:
    """log(e^a + e^b): the larger, and what the smaller adds to it."""
    larger = value_of(a) > value_of(b)
    difference = elementwise.subtract(a, b)
    with_a = elementwise.add(a, elementwise.softplus(-difference))
    return elementwise.where(larger, with_a, elementwise.add(b, elementwise.softplus(difference)))


def _on_host(*arrays: Any) -> tuple[np.ndarray, ...]:
    """In host memory and float64: CuPy does not have the inverses of these distribution functions."""
    return tuple(device.to_host(value_of(a)).astype(np.float64) for a in arrays)


def _count(guess: Any, u: Any, cdf: Any) -> Any:
    """The smallest k with P(x <= k) > u, from a guess that may be off by one."""
    k = np.maximum(np.ceil(guess), 0)
    k = np.where((k > 0) & (cdf(np.maximum(k - 1, 0)) > u), k - 1, k)
    return np.where(cdf(k) > u, k, k + 1)
