"""The base class of all distributions, and the set in which their values lie."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import stop_gradient, value_of
from gvae.errors import ConfigError, ShapeError
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["Distribution", "Support"]

Conditionals: TypeAlias = Iterator[tuple[int, Callable[[np.ndarray], np.ndarray]]]  # what `Distribution.conditionals` gives


@dataclass(frozen=True)
class Support:
    """The set in which the values of each variable lie: an interval, or the whole numbers in it.

    Parameters
    ----------
    low, high : float, optional
        The ends of the interval, which belong to it unless `open`. Default: all real numbers.
    open : bool, default False
        Whether the ends are excluded.
    whole : bool, default False
        Whether only whole numbers belong to the set.

    Examples
    --------
    >>> unit, counts = gvae.distributions.Support(0, 1), gvae.distributions.Support(0, whole=True)
    >>> print(unit, "|", counts, "|", gvae.distributions.Support(0, 1, whole=True))
    [0, 1] | 0, 1, .. | 0, 1
    >>> gvae.families.parse("poisson", 3).support == counts
    True
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    whole: bool = False

    def covers(self, other: Support) -> bool:
        """Whether a density on this set gives one to almost every value in the other: whole numbers to whole numbers only.

        Parameters
        ----------
        other : Support

        Returns
        -------
        bool

        Examples
        --------
        >>> reals, bits = gvae.distributions.Support(), gvae.distributions.Support(0, 1, whole=True)
        >>> reals.covers(gvae.distributions.Support(0, 1)), reals.covers(bits), bits.covers(reals)
        (True, False, False)
        """
        return self.whole == other.whole and self.low <= other.low and self.high >= other.high

    def contains(self, x: np.ndarray) -> np.ndarray:
        """Entry by entry, whether x lies in the set; NaN does not.

        Parameters
        ----------
        x : array

        Returns
        -------
        array of bool
            In the shape of x.

        Examples
        --------
        >>> gvae.distributions.Support(0, whole=True).contains(np.array([-1.0, 0.0, 0.5, 2.0, np.nan]))
        array([False,  True, False,  True, False])
        """
        inside = (x > self.low) & (x < self.high) if self.open else (x >= self.low) & (x <= self.high)
        return inside & (x == np.floor(x)) if self.whole else inside

    def holds(self, x: np.ndarray) -> bool:
        """Whether all entries of x lie in the set.

        Parameters
        ----------
        x : array

        Returns
        -------
        bool
            True for an empty x; False if an entry is NaN.

        Notes
        -----
        For intervals, unless `whole`, this allocates no array of the size of x.

        Examples
        --------
        >>> unit = gvae.distributions.Support(0, 1)
        >>> unit.holds(np.array([0.0, 0.3, 1.0])), unit.holds(np.array([0.5, np.nan]))
        (True, False)
        """
        if self.whole or x.size == 0:
            return bool(self.contains(x).all())
        low, high = x.min(), x.max()  # NaN if there is one
        return bool(low > self.low and high < self.high if self.open else low >= self.low and high <= self.high)

    def __str__(self) -> str:
        if self == Support():
            return "all real numbers"
        if self.whole:
            few = f"{self.low:g}, {self.low + 1:g}"  # for bits, all
            return few if self.high == self.low + 1 else f"{few}, .." + ("" if self.high == math.inf else f", {self.high:g}")
        left, right = "()" if self.open else "[]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


class Distribution:
    """Base class of the distributions over the last axis of an array.

    Attributes
    ----------
    mean : array (..., n)
    reparameterized : bool
        Whether derivatives pass through draws.
    affine : bool
        Whether a draw is mean + R noise with standard normal noise: a Gaussian.
    independent : bool
        Whether the variables are known to be independent.
    has_density : bool
        Whether log_prob is known for any value, not only log_prob_of_draw for the distribution's own draws.
    by_variable : bool
        Whether log_prob(x, reduce=False) has a term for each variable.
    sequential : bool
        Whether log_prob(x, reduce=False) has the term of each variable given those before it.
    support : Support
        The set in which the values of each variable lie.
    drawn : Support or None
        The part of `support` in which draws lie; None: all of it.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.zeros((2, 3)), np.zeros(3))
    >>> q
    DiagonalGaussian(batch_shape=(2,), n=3)
    >>> z = q.sample(q.noise(gvae.random.key(0), (5,)))
    >>> z.shape, q.log_prob(z).shape, q.kl()
    ((5, 2, 3), (5, 2), array([0., 0.]))
    """

    reparameterized: bool
    affine = independent = sequential = False
    has_density = by_variable = True
    support = Support()
    drawn: Support | None = None
    mean: Array

    @property
    def path(self) -> str | None:
        """How derivatives pass through draws: "exact" where reparameterized, "surrogate", or None.

        Examples
        --------
        >>> q, taylor = gvae.families.parse("bernoulli", 2), gvae.families.parse("bernoulli:taylor", 2)
        >>> q(np.zeros(2)).path, taylor(np.zeros(2)).path
        (None, 'surrogate')
        """
        return "exact" if self.reparameterized else None

    @property
    def shown(self) -> Array:
        """What is shown of the distribution, (..., n): its mean or, where that has no closed form, `means_along` a draw.

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution(np.zeros(2)).shown
        array([1., 1.])
        """
        return self.mean

    def means_along(self, x: Array) -> Array:
        """The mean or, where that has no closed form, the mean of each variable given those before it in x.

        Parameters
        ----------
        x : array (..., n)

        Returns
        -------
        array (..., n)

        Examples
        --------
        >>> p = gvae.distributions.AutoregressiveBernoulli(np.zeros(2), np.array([[0.0, 2.0], [0.0, 0.0]]))
        >>> p.means_along(np.array([1.0, 0.0])).round(4)
        array([0.5   , 0.8808])
        """
        return self.mean

    @property
    def n(self) -> int:
        """The number of variables.

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution(np.zeros((100, 3))).n
        3
        """
        return self.mean.shape[-1]

    @property
    def discrete(self) -> bool:
        """Whether log_prob is the log of a probability and not of a density: for binary variables, counts and categories.

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution(np.zeros(3)).discrete
        True
        >>> gvae.distributions.DiagonalGaussian(np.zeros(3), np.zeros(3)).discrete
        False
        """
        return self.support.whole

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The broadcast batch axes of all parameters. Rows that share some parameters still draw noise of their own.

        Examples
        --------
        >>> gvae.distributions.DiagonalGaussian(np.zeros((100, 3)), np.zeros(3)).batch_shape
        (100,)
        """
        return np.broadcast_shapes(*self._leads())

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        """The batch axes of each parameter."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={self.batch_shape}, n={self.n})"

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        """Noise of the kind from which this class samples; families call it before a distribution exists.

        Parameters
        ----------
        key : array
            A key of `gvae.random`.
        shape : tuple of int
            The shape of the draws, (..., n).
        dtype : dtype
        like : array, optional
            An array on the device where the noise is wanted.

        Returns
        -------
        array (..., n)
            Standard normal for Gaussians, uniform in [0, 1) for independent variables that are not Gaussian. The last axis
            has n + 1 entries for `GaussianMixture`.

        Raises
        ------
        NotImplementedError
            The class does not define its noise.

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution.draw_noise(gvae.random.key(0), (2, 3), np.float64).round(2)
        array([[0.4 , 0.74, 0.97],
               [0.69, 0.02, 0.14]])
        """
        raise NotImplementedError

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        """The noise that `sample` takes.

        Parameters
        ----------
        key : array
            A key of `gvae.random`.
        sample_shape : tuple of int, default ()
            The leading axes of the draws.

        Returns
        -------
        array (..., n)
            Its shape is sample_shape + batch_shape + (n,); n + 1 on the last axis for `GaussianMixture`.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.zeros((100, 3)), np.zeros(3))
        >>> q.noise(gvae.random.key(0), (20,)).shape
        (20, 100, 3)
        """
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), self.mean.dtype, self.mean)

    def sample(self, noise: Array) -> Array:
        """The draw computed from the given noise.

        Parameters
        ----------
        noise : array (..., n)
            As returned by `noise`.

        Returns
        -------
        array (..., n)
            A differentiable function of the parameters and the noise where `reparameterized`.

        Raises
        ------
        NotImplementedError
            The class does not define it.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.array([1.0, -1.0]), np.log([0.1, 2.0]))
        >>> q.sample(np.array([[0.0, 0.0], [1.0, 1.0]]))
        array([[ 1. , -1. ],
               [ 1.1,  1. ]])
        >>> z = q.sample(q.noise(gvae.random.key(0), (1000,)))
        >>> z.mean(axis=0).round(1), z.std(axis=0).round(1)
        (array([ 1. , -1.1]), array([0.1, 2. ]))
        """
        raise NotImplementedError

    def stopped(self) -> Distribution:
        """The same distribution with its parameters as constants: derivatives pass through arguments only.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> def log_density(mean, x):
        ...     return gvae.distributions.DiagonalGaussian(mean, np.zeros(1)).stopped().log_prob(x)
        >>> gvae.gradient(log_density, np.zeros(1), np.ones(1))
        (array([0.]), array([-1.]))
        """
        other = copy.copy(self)
        for name, value in vars(self).items():
            setattr(other, name, value.stopped() if isinstance(value, Distribution) else stop_gradient(value))
        return other

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        """Log-density, or log-probability, of x.

        Parameters
        ----------
        x : array (..., n)
        reduce : bool, default True
            False returns the n terms whose sum is the log-density.

        Returns
        -------
        array (...) or array (..., n)
            Nats, per batch row. (..., n) with reduce=False.

        Raises
        ------
        ConfigError
            reduce=False, where terms per variable are not natural: `AR1Gaussian`, `LowRankGaussian`, `DenseGaussian`.
        NotImplementedError
            The class does not define it.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2))
        >>> q.log_prob(np.array([0.0, 1.0])).round(4)
        np.float64(-2.3379)
        >>> q.log_prob(np.array([0.0, 1.0]), reduce=False).round(4)
        array([-0.9189, -1.4189])
        """
        raise NotImplementedError

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        """Log-density of a draw, log p(sample) with sample = self.sample(noise).

        Parameters
        ----------
        noise : array (..., n)
        sample : array (..., n)

        Returns
        -------
        array (...)
            Nats, per batch row. Gaussians compute it from the noise, without a solve.

        Examples
        --------
        >>> q = gvae.families.parse("chain", 3)(np.linspace(-1, 1, 8))
        >>> eps = q.noise(gvae.random.key(0))
        >>> z = q.sample(eps)
        >>> q.log_prob_of_draw(eps, z).round(4), q.log_prob(z).round(4)
        (np.float64(-4.1069), np.float64(-4.1069))
        """
        return self.log_prob(sample)

    def conditionals(self, x: np.ndarray) -> Conditionals:
        """The distribution functions of the variables, each given those that come before it here.

        Parameters
        ----------
        x : array (R, n)
            The values of the variables. Those of a variable are read after it was yielded, so the caller may fill them in.

        Returns
        -------
        iterator of (int, callable)
            Every variable j once, with the function v -> P(x_j <= v | those before), (R,) to (R,) in float64, for v in the
            support.

        Raises
        ------
        ConfigError
            There is no closed form.

        Examples
        --------
        >>> q = gvae.distributions.DenseGaussian(np.zeros(2), np.array([[2.0, 0.0], [1.0, 1.0]]))
        >>> x = np.zeros((1, 2))
        >>> for j, cdf in q.conditionals(x):
        ...     x[:, j] = 1.0
        ...     print(j, cdf(np.array([1.0])).round(4))  # N(0, 2), then N(1, 2)
        1 [0.7602]
        0 [0.5]
        """
        raise ConfigError(f"{type(self).__name__} has no conditional distributions in closed form: it cannot be coded")

    def error(self, x: Array) -> np.ndarray:
        """The error of the mean, mean - x, in the units of the data.

        Parameters
        ----------
        x : array (..., n)

        Returns
        -------
        array (..., n)
            A plain float64 array.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.array([1.0, 2.0]), np.zeros(2))
        >>> q.error(np.array([0.5, 2.5]))
        array([ 0.5, -0.5])
        """
        return np.asarray(value_of(self.shown), np.float64) - x

    def entropy(self) -> Array:
        """Entropy in closed form.

        Returns
        -------
        array (...) or None
            Nats, per batch row. None where there is no closed form.

        Examples
        --------
        >>> gvae.distributions.BernoulliDistribution(np.zeros(2)).entropy().round(4)  # two fair coins: 2 log 2
        np.float64(1.3863)
        >>> gvae.distributions.PoissonDistribution(np.zeros(2)).entropy() is None
        True
        """
        return None

    def variance(self) -> Array:
        """Marginal variances.

        Returns
        -------
        array (..., n)

        Raises
        ------
        NotImplementedError
            There is no closed form. The message names the class.

        Examples
        --------
        >>> gvae.distributions.PoissonDistribution(np.log([0.5, 3.0])).variance().round(4)
        array([0.5, 3. ])
        """
        raise NotImplementedError(f"{type(self).__name__} has no variance in closed form: average over draws")

    def covariance(self) -> Array:
        """The dense covariance, for inspection.

        Returns
        -------
        array (..., n, n)
            A plain array.

        Raises
        ------
        NotImplementedError
            There is no closed form. The message names the class.

        Examples
        --------
        >>> q = gvae.distributions.AR1Gaussian(np.zeros(3), np.float64(4.0), np.float64(0.5))
        >>> q.covariance()
        array([[4., 2., 1.],
               [2., 4., 2.],
               [1., 2., 4.]])
        """
        raise NotImplementedError(f"{type(self).__name__} has no covariance in closed form: average over draws")

    @property
    def standard(self) -> Distribution:
        """The distribution that a prior of None stands for: N(0, I) for Gaussians, fair coins for binary variables.

        Examples
        --------
        >>> p = gvae.distributions.BernoulliDistribution(np.array([2.0, -1.0])).standard
        >>> p, p.mean
        (BernoulliDistribution(batch_shape=(), n=2), array([0.5, 0.5]))
        """
        raise NotImplementedError

    def kl(self, p: Distribution | None = None) -> Array:
        """KL(self ‖ p) in closed form.

        Parameters
        ----------
        p : Distribution, optional
            Default: `standard`.

        Returns
        -------
        array (...) or None
            Nats, per batch row. None where there is no closed form.

        Raises
        ------
        NotImplementedError
            The class does not define it.

        Examples
        --------
        >>> chain, band = gvae.families.parse("chain", 3), gvae.families.parse("band:2", 3)
        >>> q, p = chain(np.linspace(-1, 1, chain.n_params)), band(np.linspace(-1, 1, band.n_params))
        >>> q.kl().round(4), q.kl(p).round(4)
        (np.float64(3.2537), np.float64(3.0672))
        """
        raise NotImplementedError

    def kl_by_probe(self, noise: Array, p: Distribution | None = None) -> Array:
        """An unbiased estimate of `kl`: the trace of the covariance is estimated with one random probe.

        Parameters
        ----------
        noise : array (..., n)
            The noise of a draw; its signs are the probe.
        p : Distribution, optional
            Default: `standard`.

        Returns
        -------
        array (...) or None
            Nats; has the noise's batch axes. None where the exact trace is cheap, or p is not None.

        Examples
        --------
        >>> q = gvae.families.parse("chain", 3)(np.array([0.0, 0, 0, 0, 0, 0, 1, 1]))
        >>> eps = q.noise(gvae.random.key(0), (1000,))
        >>> q.kl().round(2), q.kl_by_probe(eps).mean().round(2)
        (np.float64(1.5), np.float64(1.47))
        """
        return None

    def kl_by_unit(self, p: Distribution | None = None) -> Array:
        """KL divergence of each variable, whose sum is `kl`.

        Parameters
        ----------
        p : Distribution, optional
            Default: `standard`.

        Returns
        -------
        array (..., n) or None
            Nats. None unless the variables of both distributions are independent and the divergence has a closed form.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.array([2.0, 0.0]), np.log([0.5, 1.0]))
        >>> q.kl_by_unit().round(4), q.kl().round(4)
        (array([2.3181, 0.    ]), np.float64(2.3181))
        """
        return None


def host(a: Array) -> np.ndarray:
    """The value of an array or Var in host memory, in float64."""
    return np.asarray(device.to_host(value_of(a)), np.float64)


def check_variables(distribution: Distribution, **parameters: Array) -> None:
    """ShapeError unless all parameters have the same number of variables: one of 1 would be shared by all."""
    sizes = {name: value.shape[-1] for name, value in parameters.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} has {n}" for name, n in sizes.items())
        raise ShapeError(f"{type(distribution).__name__}: {said} on the last axis, expected as many variables in each")


def check_width(distribution: Distribution, method: str, **arrays: Array) -> None:
    """ShapeError unless the last axis of all arrays has as many variables: one of 1 would be broadcast."""
    for name, value in arrays.items():
        if value.shape[-1:] != (distribution.n,):
            raise ShapeError(
                f"{type(distribution).__name__}.{method}: {name} has shape {value.shape}, expected (..., n={distribution.n})"
            )


def check_size(q: Distribution, p: Distribution) -> None:
    """ShapeError unless q and p, of a KL divergence, have as many variables."""
    if p.n != q.n:  # one of 1 would be broadcast
        raise ShapeError(f"{type(q).__name__}.kl: p has n={p.n} variables, expected n={q.n}")
