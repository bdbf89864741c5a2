"""Binary vectors whose variables depend on those before them: by linear logits, or by the hidden units of NADE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from scipy import special

from gvae import random
from gvae.autodiff import value_of
from gvae.distributions.base import Conditionals, Distribution, Support, check_width, host
from gvae.distributions.discrete import BernoulliDistribution
from gvae.ops import arrays, dense, draws, elementwise, likelihoods
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["AutoregressiveBernoulli", "NADEDistribution"]

SHOWN = 1000  # the key of the draw that is shown, under key(0), from which the caller may draw as well


class Sequential(Distribution):
    """Base of distributions of bits that are drawn one after the other. Means have no closed form."""

    reparameterized = False
    sequential = True
    support = Support(0, 1, whole=True)
    bias: Array

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        return random.uniform(key, shape, dtype, like)

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), self.bias.dtype, value_of(self.bias))

    @property
    def n(self) -> int:
        return self.bias.shape[-1]

    @property
    def mean(self) -> Array:
        """Not available in closed form: use `shown` or `means_along`.

        Examples
        --------
        >>> gvae.families.parse("nade:3", 2)(np.zeros(17)).mean
        Traceback (most recent call last):
            ...
        NotImplementedError: NADEDistribution has no mean in closed form: average over draws, or see probabilities(x)
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no mean in closed form: average over draws, or see probabilities(x)"
        )

    def probabilities(self, x: Array) -> Array:
        """The probability that each variable is 1, given those before it in x.

        Parameters
        ----------
        x : array (..., n)

        Returns
        -------
        array (..., n)

        Examples
        --------
        >>> p = gvae.distributions.AutoregressiveBernoulli(np.zeros(2), np.array([[0.0, 2.0], [0.0, 0.0]]))
        >>> p.probabilities(np.array([[0.0, 0.0], [1.0, 0.0]])).round(4)
        array([[0.5   , 0.5   ],
               [0.5   , 0.8808]])
        """
        return elementwise.sigmoid(self._logits_of(x))

    def _logits_of(self, x: Array) -> Array:
        raise NotImplementedError

    def means_along(self, x: Array) -> Array:
        return self.probabilities(x)

    @property
    def shown(self) -> Array:
        """The probabilities of each variable given those before it in one draw, (..., n)."""
        return self.means_along(self.sample(self.noise(random.fold_in(random.key(0), SHOWN))))

    @property
    def standard(self) -> Distribution:
        return BernoulliDistribution(device.zeros(self.n, self.bias.dtype, value_of(self.bias)))

    def kl(self, p: Distribution | None = None) -> Array:
        return None


class AutoregressiveBernoulli(Sequential):
    """Binary variables with P(x_j = 1 | x_<j) = sigmoid(bias_j + sum_{i<j} x_i weight_ij).

    A fully visible belief network. The standard is a fair coin per variable. Neither mean nor KL has a closed form.

    Parameters
    ----------
    bias : array (..., n)
    weight : array (..., n, n)
        Zero on and below the diagonal.
    path : {None, "taylor", "straight_through"}
        The surrogate for the derivative of draws, see `gvae.ops.draws`.

    Notes
    -----
    Sources: Neal (1992); Frey, Hinton and Dayan (1996).

    Examples
    --------
    >>> p = gvae.distributions.AutoregressiveBernoulli(np.zeros(2), np.array([[0.0, 2.0], [0.0, 0.0]]))
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> np.exp(p.log_prob(x)).round(4)
    array([0.25  , 0.25  , 0.0596, 0.4404])
    >>> p.sample(np.array([0.4, 0.8]))
    array([1., 1.])
    """

    def __init__(self, bias: Array, weight: Array, path: str | None = None):
        self.bias, self.weight, self._path = bias, weight, path

    @property
    def path(self) -> str | None:
        return None if self._path is None else "surrogate"

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.bias.shape[:-1], self.weight.shape[:-2]

    def logits(self, x: Array) -> Array:
        """The logits of all variables, each given those before it in x.

        Parameters
        ----------
        x : array (..., n)

        Returns
        -------
        array (..., n)

        Examples
        --------
        >>> p = gvae.distributions.AutoregressiveBernoulli(np.ones(2), np.array([[0.0, 2.0], [0.0, 0.0]]))
        >>> p.logits(np.array([1.0, 0.0]))
        array([1., 3.])
        """
        if len(self.weight.shape) == 2 and len(x.shape) > 1:
            return elementwise.add(dense.matmul(x, self.weight), self.bias)
        return elementwise.add(dense.matmul(x[..., None, :], self.weight)[..., 0, :], self.bias)

    def _logits_of(self, x: Array) -> Array:
        return self.logits(x)

    def sample(self, noise: Array) -> Array:
        return draws.autoregressive_draw(self.bias, self.weight, noise, path=self._path)

    def conditionals(self, x: np.ndarray) -> Conditionals:
        bias, weight = host(self.bias), host(self.weight)
        for j in range(self.n):
            yield j, _cdf_of_bit(bias[..., j] + (x[:, :j] * weight[..., :j, j]).sum(axis=-1))

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        a = self.logits(x)
        if reduce:
            return likelihoods.bernoulli_log_prob(x, a)
        return elementwise.subtract(elementwise.multiply(x, a), elementwise.softplus(a))


class NADEDistribution(Sequential):
    """Binary variables whose logits share hidden units: t_j = bias_j + V_j . sigmoid(hidden + sum_{i<j} x_i W_i).

    The standard is a fair coin per variable. Neither mean nor KL has a closed form, and draws are not differentiable.

    Parameters
    ----------
    bias : array (..., n)
    hidden : array (..., H)
    weight, out_weight : array (..., n, H)
        W and V.

    Notes
    -----
    Source: Larochelle and Murray (2011).

    Examples
    --------
    >>> W, V = np.array([[100.0], [0.0]]), np.array([[0.0], [2.0]])
    >>> p = gvae.distributions.NADEDistribution(np.zeros(2), np.zeros(1), W, V)
    >>> x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> np.exp(p.log_prob(x)).round(4)
    array([0.1345, 0.3655, 0.0596, 0.4404])
    """

    def __init__(self, bias: Array, hidden: Array, weight: Array, out_weight: Array):
        self.bias, self.hidden, self.weight, self.out_weight = bias, hidden, weight, out_weight

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        weights = self.weight.shape[:-2], self.out_weight.shape[:-2]
        return self.bias.shape[:-1], self.hidden.shape[:-1], *weights

    def _parts(self) -> tuple[Any, ...]:
        return self.bias, self.hidden, self.weight, self.out_weight

    def sample(self, noise: Array) -> Array:
        return draws.nade_draw(noise, *map(value_of, self._parts()))

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if reduce:
            return draws.nade_log_prob(x, *self._parts())
        check_width(self, "log_prob", x=x)
        t = self._logits_of(x)
        return elementwise.subtract(elementwise.multiply(x, t), elementwise.softplus(t))

    def conditionals(self, x: np.ndarray) -> Conditionals:
        bias, hidden, W, V = map(host, self._parts())
        a = np.broadcast_to(hidden, (len(x), hidden.shape[-1])).copy()
        units = special.expit(a)
        for j in range(self.n):
            yield j, _cdf_of_bit(bias[..., j] + (units * V[..., j, :]).sum(axis=-1))
            one = np.flatnonzero(x[:, j])  # the hidden units of the other rows stay
            a[one] += np.broadcast_to(W[..., j, :], a.shape)[one] * x[one, j, None]
            units[one] = special.expit(a[one])

    def _logits_of(self, x: Array) -> Array:
        """All at once, from the hidden units before each variable, (..., n, H)."""
        steps = elementwise.multiply(x[..., None], self.weight)
        before = elementwise.subtract(arrays.cumsum(steps, axis=-2), steps)
        units = elementwise.sigmoid(elementwise.add(self.hidden[..., None, :], before))
        return elementwise.add(self.bias, arrays.sum(elementwise.multiply(units, self.out_weight), axis=-1))


def _cdf_of_bit(a: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    zero = special.expit(-a)
    return lambda v: np.where(v >= 1, 1.0, zero)
