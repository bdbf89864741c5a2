"""What every distribution offers, and where its values lie."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae.autodiff import stop_gradient, value_of

__all__ = ["Distribution", "Support"]


@dataclass(frozen=True)
class Support:
    """Where the values of each variable lie: between low and high, which belong to it unless `open`; `whole` numbers."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    whole: bool = False

    def contains(self, x: np.ndarray) -> np.ndarray:
        """Which entries of x lie in it; a NaN does not."""
        inside = (x > self.low) & (x < self.high) if self.open else (x >= self.low) & (x <= self.high)
        return inside & (x == np.floor(x)) if self.whole else inside

    def holds(self, x: np.ndarray) -> bool:
        """Whether all entries of x lie in it. Unless they are to be whole that needs no array of the size of x."""
        if self.whole or x.size == 0:
            return bool(self.contains(x).all())
        low, high = x.min(), x.max()  # NaN if there is one
        return bool(low > self.low and high < self.high if self.open else low >= self.low and high <= self.high)

    def __str__(self) -> str:
        if self.whole:
            return f"{self.low:g}, {self.low + 1:g}, .." + ("" if self.high == math.inf else f", {self.high:g}")
        left, right = "()" if self.open else "[]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


class Distribution:
    """What every distribution offers. `n` is the number of variables, `batch_shape` the leading axes.

    reparameterized : whether derivatives pass through draws
    affine          : whether a draw is mean + R noise of standard normals: a Gaussian
    independent     : whether the variables are known to be independent
    discrete        : whether log_prob is of a probability, and not of a density: of bits, counts and categories
    """

    reparameterized: bool
    affine = independent = False
    support = Support()
    mean: Any

    @property
    def n(self) -> int:
        return self.mean.shape[-1]

    @property
    def discrete(self) -> bool:
        return self.support.whole

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes of all parameters, broadcast: rows that share some of them still draw noise of their own."""
        return np.broadcast_shapes(*self._leads())

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        """The batch axes of each parameter."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={self.batch_shape}, n={self.n})"

    @staticmethod
    def draw_noise(key: np.ndarray, shape: tuple[int, ...], dtype: Any, like: Any = None) -> np.ndarray:
        """Noise of the kind this class samples from, where `like` lives; a family uses it before any distribution exists."""
        raise NotImplementedError

    def noise(self, key: np.ndarray, sample_shape: tuple[int, ...] = ()) -> np.ndarray:
        """The noise that `sample` takes, of shape sample_shape + batch + (n,)."""
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), self.mean.dtype, self.mean)

    def sample(self, noise: Any) -> Any:
        """The draw that this noise stands for: (..., n)."""
        raise NotImplementedError

    def stopped(self) -> Distribution:
        """The same distribution with its parameters as constants: derivatives pass through arguments only."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            setattr(other, name, value.stopped() if isinstance(value, Distribution) else stop_gradient(value))
        return other

    def log_prob(self, x: Any, reduce: bool = True) -> Any:
        """log p(x) per batch row; with reduce=False the n terms of which it is the sum."""
        raise NotImplementedError

    def log_prob_of_draw(self, noise: Any, sample: Any) -> Any:
        """log p(sample) where sample = self.sample(noise)."""
        return self.log_prob(sample)

    def error(self, x: Any) -> np.ndarray:
        """mean - x, in the units of the data, as a plain float64 array."""
        return np.asarray(value_of(self.mean), np.float64) - x

    def entropy(self) -> Any:
        """Per batch row in closed form, or None where there is none."""
        return None

    def variance(self) -> Any:
        """Marginal variances (..., n). NotImplementedError, named, where there is no closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no variance in closed form: average over draws")

    def covariance(self) -> np.ndarray:
        """The dense covariance (..., n, n) as a plain array, for looking. NotImplementedError as for `variance`."""
        raise NotImplementedError(f"{type(self).__name__} has no covariance in closed form: average over draws")

    @property
    def standard(self) -> Distribution:
        """What a prior of None stands for: N(0, I) for Gaussians, fair coins for binary variables."""
        raise NotImplementedError

    def kl(self, p: Distribution | None = None) -> Any:
        """KL(self ‖ p) per batch row in closed form, or None where there is none; p=None is `standard`."""
        raise NotImplementedError

    def kl_by_probe(self, noise: Any, p: Distribution | None = None) -> Any:
        """An unbiased estimate of `kl`, whose trace of the covariance is by one random probe, the signs of a draw's noise:
        (..., noise's batch). None where the trace is no cost worth estimating, or p is not standard."""
        return None

    def kl_by_unit(self, p: Distribution | None = None) -> Any:
        """KL of each variable, (..., n), whose sum is `kl`; None unless the variables of both are independent, and it has a
        closed form."""
        return None
