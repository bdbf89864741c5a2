"""Families of variables that are not Gaussian: bits, categories, counts, positive numbers, numbers in the unit interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import value_of
from gvae.distributions import (
    BernoulliDistribution,
    BetaDistribution,
    CategoricalDistribution,
    ContinuousBernoulliDistribution,
    GammaDistribution,
    GaussianMixture,
    LogitNormal,
    NegativeBinomialDistribution,
    PoissonDistribution,
    Support,
    ZeroInflatedDistribution,
)
from gvae.distributions.base import Distribution
from gvae.errors import ConfigError
from gvae.families.base import LOG_SCALE, Family, unbounded
from gvae.ops import arrays, draws, elementwise, sparse
from gvae.typing import Array, Key

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "Gamma",
    "Logit",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflated",
]

LOG_RATE = math.log(1e6)
LOG_CONCENTRATION = math.log(1e4)
LOG_SHAPES = math.log(5e-3), math.log(1e4)
LEAST = 1e-3  # least probability or rate at the start: a column without ones still gives a one some probability


def with_path(name: str, path: str | None) -> str:
    """The text of a family of bits with that path, the surrogate of draws. ConfigError for an unknown one."""
    if path is not None and path not in draws.PATHS:
        raise ConfigError(f"{name}: path is {path!r}, expected one of {', '.join(draws.PATHS)}")
    return name if path is None else f"{name}:{path}"


class Bernoulli(Family):
    """Independent binary variables. Unconstrained parameters: logits (n).

    Parameters
    ----------
    n : int
        The number of variables.
    path : {None, "taylor", "straight_through"}
        The surrogate for the derivative of draws, see `gvae.ops.draws`.

    Raises
    ------
    ConfigError
        n is not a positive integer, or an unknown path.

    Examples
    --------
    >>> gvae.families.Bernoulli(2)(np.array([0.0, 2.0])).mean.round(4)
    array([0.5   , 0.8808])
    """

    distribution = BernoulliDistribution

    def __init__(self, n: int, path: str | None = None):
        super().__init__(n, n)
        self.path, self.name = path, with_path("bernoulli", path)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return BernoulliDistribution(raw, path=self.path)

    def of_layer(self, x: Array, weight: Array, bias: Array, shared: Array = None) -> Distribution:
        if sparse.is_csr(x):
            return super().of_layer(x, weight, bias, shared)
        return BernoulliDistribution(layer=(x, weight, bias), path=self.path)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return log_odds(mean).astype(raw.dtype)


class Categorical(Family):
    """Independent variables with values 0 .. C - 1.

    Unconstrained parameters: logits (n C), variable by variable, not bounded.

    Parameters
    ----------
    n : int
        The number of variables.
    classes : int
        The number C.

    Raises
    ------
    ConfigError
        n is not a positive integer, or classes is not an integer of at least 2.

    Examples
    --------
    >>> p = gvae.families.Categorical(2, 3)(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 2.0]))
    >>> np.exp(p.log_probabilities()).round(3)
    array([[0.333, 0.333, 0.333],
           [0.107, 0.107, 0.787]])
    """

    distribution = CategoricalDistribution

    def __init__(self, n: int, classes: int):
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2:
            raise ConfigError(f"Categorical: classes is {classes!r}, expected an integer of at least 2")
        super().__init__(n, n * classes)
        self.classes, self.name = classes, f"categorical:{classes}"

    @property
    def support(self) -> Support:
        return Support(0, self.classes - 1, whole=True)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return CategoricalDistribution(arrays.reshape(raw, shape=(*raw.shape[:-1], self.n, self.classes)))


class Poisson(Family):
    """Independent counts. Unconstrained parameters: log rates (n), bounded by log 1e6.

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> gvae.families.Poisson(2)(np.array([0.0, 2.0])).mean.round(3)
    array([1.   , 7.287])
    """

    name = "poisson"
    distribution = PoissonDistribution

    def __init__(self, n: int):
        super().__init__(n, n)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return PoissonDistribution(elementwise.bounded(raw, limit=LOG_RATE))

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return _of_log_rate(mean).astype(raw.dtype)


class NegativeBinomial(Family):
    """Independent counts that vary more than Poisson's, with variance m + m² / r.

    Unconstrained parameters: log means (n), bounded by log 1e6; log r (n, shared), bounded by log 1e3.

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> p = gvae.families.NegativeBinomial(1)(np.array([[0.0], [2.0]]), np.array([0.0]))
    >>> p.mean.round(3)[:, 0], p.variance().round(3)[:, 0]
    (array([1.   , 7.287]), array([ 2.   , 60.393]))
    """

    name = "negative_binomial"
    distribution = NegativeBinomialDistribution

    def __init__(self, n: int):
        super().__init__(n, 2 * n)
        self.n_shared = n

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return NegativeBinomialDistribution(
            elementwise.bounded(raw, limit=LOG_RATE), elementwise.bounded(shared, limit=LOG_SCALE)
        )

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return _of_log_rate(mean).astype(raw.dtype)


class ZeroInflated(Family):
    """Counts with more zeros than their family has.

    Each variable is 0 with a probability of its own, and otherwise distributed as in the family. Unconstrained parameters:
    those that the family has per data point; logits of the zeros (n); those that it shares.

    Parameters
    ----------
    family : NegativeBinomial or Poisson

    Raises
    ------
    ConfigError
        The family is another one.

    Examples
    --------
    >>> family = gvae.families.ZeroInflated(gvae.families.Poisson(2))
    >>> p = family(np.array([1.0, 1.0, -2.0, 2.0]))
    >>> p.mean.round(3), np.exp(p.log_prob(np.zeros(2), reduce=False)).round(3)
    (array([2.39 , 0.323]), array([0.178, 0.889]))
    """

    distribution = ZeroInflatedDistribution

    def __init__(self, family: Family):
        if not isinstance(family, (NegativeBinomial, Poisson)):
            raise ConfigError(f"zero_inflated: the family is {family}, expected negative_binomial or poisson")
        super().__init__(family.n, family.n_params + family.n)
        self.family, self.n_shared, self.name = family, family.n_shared, f"zero_inflated:{family}"

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return ZeroInflatedDistribution(self.family(raw[..., : -self.n], shared), raw[..., -self.n :])

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        own = self.family.start_weight(weight[:, : -self.n])
        return np.concatenate([own, np.zeros_like(weight[:, -self.n :])], axis=1)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        own, zeros = raw[: -self.n], raw[-self.n :]
        mean = mean * (1 + np.exp(zeros))  # the family is drawn from with probability 1 / (1 + e^l)
        return np.concatenate([self.family.located(own, mean), zeros])


class Beta(Family):
    """Independent variables in (0, 1). Unconstrained parameters: log a (n), log b (n), bounded by log 1e4.

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> p = gvae.families.Beta(2)(np.array([0.0, 1.0, 0.0, 2.0]))
    >>> p.mean.round(3), p.variance().round(3)
    (array([0.5  , 0.274]), array([0.083, 0.018]))
    """

    name = "beta"
    distribution = BetaDistribution

    def __init__(self, n: int):
        super().__init__(n, 2 * n)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        log_a, log_b = raw[..., : self.n], raw[..., self.n :]
        return BetaDistribution(
            elementwise.bounded(log_a, limit=LOG_CONCENTRATION), elementwise.bounded(log_b, limit=LOG_CONCENTRATION)
        )

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        log_a = weight[:, : self.n]
        return np.concatenate([log_a, -log_a], axis=1)  # log a = -log b: only the mean, sigmoid(2 log a), is random

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        log_a = unbounded(0.5 * log_odds(mean), LOG_CONCENTRATION)
        return np.concatenate([log_a, -log_a]).astype(raw.dtype)


class Gamma(Family):
    """Independent positive variables, or their logarithms: gamma distributions.

    Unconstrained parameters: log shapes (n), bounded by log 5e-3 and log 1e4; log means (n), of the positive variables even
    where the variables are their logarithms, bounded by log 1e6.

    Parameters
    ----------
    n : int
        The number of variables.
    log : bool, default False
        Whether the variables are the logarithms, which do not underflow where shapes are small: the family `log_gamma`.
    path : {"exact", None}, default "exact"
        None: draws carry no derivative, and objectives use the score function, as in `gamma:score`.

    Raises
    ------
    ConfigError
        n is not a positive integer, or an unknown path.

    Examples
    --------
    >>> p = gvae.families.Gamma(2)(np.array([0.0, 2.0, 0.0, 1.0]))
    >>> p.mean.round(3), p.variance().round(3)
    (array([1.   , 2.714]), array([1.   , 1.028]))
    >>> gvae.families.parse("log_gamma", 2).support, gvae.families.parse("gamma:score", 2).reparameterized
    (Support(low=-inf, high=inf, open=False, whole=False), False)
    """

    distribution = GammaDistribution

    def __init__(self, n: int, log: bool = False, path: str | None = "exact"):
        super().__init__(n, 2 * n)
        own = "log_gamma" if log else "gamma"
        if path not in ("exact", None):
            raise ConfigError(f"{own}: path is {path!r}, expected 'exact' or None")
        self.log, self.path, self.name = log, path, own if path else f"{own}:score"

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        log_shape, log_mean = raw[..., : self.n], raw[..., self.n :]
        return GammaDistribution(_log_shape(log_shape), elementwise.bounded(log_mean, limit=LOG_RATE), self.log, self.path)

    @property
    def reparameterized(self) -> bool:
        return self.path is not None

    @property
    def support(self) -> Support:
        return Support() if self.log else Support(0, math.inf, open=True)

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(weight[:, : self.n]), weight[:, self.n :]], axis=1)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        log_shape = raw[: self.n]
        if not self.log:
            return np.concatenate([log_shape, _of_log_rate(mean)]).astype(raw.dtype)
        log_mean = mean - elementwise.stirling_slope(np.exp(_log_shape(log_shape.astype(np.float64))))
        return np.concatenate([log_shape, of_bounded(log_mean)]).astype(raw.dtype)


def _log_shape(raw: Array) -> Array:
    """A smooth bound with an end for each sign: the tangents and curvatures of both sides agree at 0."""
    low, high = (elementwise.bounded(raw, limit=abs(end)) for end in LOG_SHAPES)
    return elementwise.where(value_of(raw) < 0, low, high)


class ContinuousBernoulli(Family):
    """Independent variables in [0, 1] with density proportional to e^(a x). Unconstrained parameters: a (n).

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> gvae.families.ContinuousBernoulli(2)(np.array([0.0, 2.0])).mean.round(4)
    array([0.5   , 0.6565])
    """

    name = "continuous_bernoulli"
    distribution = ContinuousBernoulliDistribution

    def __init__(self, n: int):
        super().__init__(n, n)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return ContinuousBernoulliDistribution(raw)


class Logit(Family):
    """Variables in [0, 1] whose logits are Gaussians of another family: logit:extended_grid:8x8, logit:shared:chain.

    Unconstrained parameters: those of the family.

    Parameters
    ----------
    family : Family
        A family of Gaussians.
    squeeze : float, default 0.01
        x enters as s + (1 - 2 s) x with s = squeeze, so that 0 and 1 have densities.

    Raises
    ------
    ConfigError
        The family is not one of real numbers, or squeeze is not in [0, 0.5).

    Examples
    --------
    >>> p = gvae.families.parse("logit:chain", 3)(np.zeros(8))
    >>> p.log_prob(np.array([0.0, 0.5, 1.0])).round(3)
    np.float64(-13.316)
    >>> p.mean
    array([0.5, 0.5, 0.5])
    """

    distribution = LogitNormal

    def __init__(self, family: Family, squeeze: float = 0.01):
        if family.support != Support() or isinstance(family, Gamma) or family.distribution is GaussianMixture:
            raise ConfigError(f"logit: {family} has the support {family.support}, expected a family of Gaussians")
        if not isinstance(squeeze, (int, float)) or not 0 <= squeeze < 0.5:
            raise ConfigError(f"logit: squeeze is {squeeze!r}, expected a number in [0, 0.5)")
        super().__init__(family.n, family.n_params)
        self.family, self.squeeze, self.n_shared, self.name = family, squeeze, family.n_shared, f"logit:{family}"

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return LogitNormal(self.family(raw, shared), self.squeeze)

    @property
    def reparameterized(self) -> bool:
        return self.family.reparameterized

    @property
    def support(self) -> Support:
        return Support(0, 1, open=self.squeeze == 0)

    @property
    def drawn(self) -> Support:
        return LogitNormal.drawn_with(self.squeeze)

    def noise(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> np.ndarray:
        return self.family.noise(key, shape, dtype, like)

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        return self.family.start(key, dtype)

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        return self.family.start_weight(weight)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return self.family.located(raw, log_odds(self.squeeze + (1 - 2 * self.squeeze) * mean))  # its median


def log_odds(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, LEAST, 1 - LEAST)
    return np.log(share) - np.log1p(-share)


def _of_log_rate(mean: np.ndarray) -> np.ndarray:
    """The unconstrained parameters that are bounded to the log rates of these means."""
    return of_bounded(np.log(np.maximum(mean, LEAST)))


def of_bounded(log_rate: np.ndarray) -> np.ndarray:
    """The unconstrained parameters that are bounded to these log rates, or to nine tenths of the bound."""
    return unbounded(np.clip(log_rate, -0.9 * LOG_RATE, 0.9 * LOG_RATE), LOG_RATE)
