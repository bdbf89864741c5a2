"""Mixtures of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import random
from gvae.autodiff import value_of
from gvae.distributions.base import Distribution, check_width
from gvae.distributions.gaussians import DiagonalGaussian
from gvae.errors import ShapeError
from gvae.ops import arrays, elementwise
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["GaussianMixture"]


class GaussianMixture(Distribution):
    """A mixture of C independent Gaussians, sum_c softmax(logits)_c N(mean_c, diag e^(2 log_scale_c)).

    Neither the entropy nor any KL has a closed form. A draw takes n + 1 standard normals, of which the first chooses the
    component: draws are not differentiable in the logits, so objectives use the score function.

    Parameters
    ----------
    logits : array (..., C)
    mean, log_scale : array (..., C, n)

    Attributes
    ----------
    components : DiagonalGaussian
        All components; its last batch axis is C.

    Examples
    --------
    >>> mean = np.array([[-2.0], [2.0]])
    >>> p = gvae.distributions.GaussianMixture(np.zeros(2), mean, np.log(0.5) * np.ones((2, 1)))
    >>> p.mean, p.variance()
    (array([0.]), array([4.25]))
    >>> p.sample(p.noise(gvae.random.key(0), (6,)))[:, 0].round(1)
    array([-2.7, -2.1,  3.1, -2.2,  1.9, -2.6])
    """

    reparameterized = False

    def __init__(self, logits: Array, mean: Array, log_scale: Array):
        if logits.shape[-1:] != mean.shape[-2:-1]:
            given = f"logits {logits.shape}, mean {mean.shape}"
            raise ShapeError(f"GaussianMixture: {given}, expected (..., C) and (..., C, n)")
        self.logits, self.components = logits, DiagonalGaussian(mean, log_scale)

    @property
    def n(self) -> int:
        return self.components.n

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.logits.shape[:-1], *(lead[:-1] for lead in self.components._leads())

    @staticmethod
    def draw_noise(key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        return random.normal(key, (*shape[:-1], shape[-1] + 1), dtype, like)

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        mean = self.components.mean
        return self.draw_noise(key, (*sample_shape, *self.batch_shape, self.n), mean.dtype, mean)

    def log_weights(self) -> Array:
        """Log-probabilities of the components.

        Returns
        -------
        array (..., C)
            Nats.

        Examples
        --------
        >>> p = gvae.distributions.GaussianMixture(np.log([3.0, 1.0]), np.zeros((2, 1)), np.zeros((2, 1)))
        >>> np.exp(p.log_weights()).round(4)
        array([0.75, 0.25])
        """
        return elementwise.subtract(self.logits, arrays.logsumexp(self.logits, axis=-1, keepdims=True))

    def sample(self, noise: Array) -> Array:
        mean, log_scale = value_of(self.components.mean), value_of(self.components.log_scale)
        edges = np.cumsum(np.exp(value_of(self.log_weights())), axis=-1)[..., :-1]
        u = device.special(noise).ndtr(noise[..., 0])
        chosen = (u[..., None] >= edges).sum(axis=-1)[..., None, None]

        def pick(a: np.ndarray) -> np.ndarray:
            wide = np.broadcast_to(a, (*chosen.shape[:-2], *a.shape[-2:]))
            return np.take_along_axis(wide, chosen, axis=-2)[..., 0, :]

        return pick(mean) + np.exp(pick(log_scale)) * noise[..., 1:]

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        if reduce:
            joint = elementwise.add(self.log_weights(), self.components.log_prob(x[..., None, :]))
            return arrays.logsumexp(joint, axis=-1)
        check_width(self, "log_prob", x=x)
        # log p(x_j | x_<j) = log p(x_1 .. x_j) - log p(x_1 .. x_(j-1)), each a mixture with the components' partial sums
        each = self.components.log_prob(x[..., None, :], reduce=False)
        joint = elementwise.add(self.log_weights()[..., None], arrays.cumsum(each, axis=-1))
        up_to = arrays.logsumexp(joint, axis=-2)
        before = arrays.concatenate([0 * up_to[..., :1], up_to[..., :-1]], axis=-1)
        return elementwise.subtract(up_to, before)

    @property
    def mean(self) -> Array:
        """The weighted mean of the components, (..., n).

        Examples
        --------
        >>> mean = np.array([[-2.0], [2.0]])
        >>> gvae.distributions.GaussianMixture(np.log([3.0, 1.0]), mean, np.zeros((2, 1))).mean.round(4)
        array([-1.])
        """
        return self._average(self.components.mean)

    def _average(self, values: Any) -> Array:
        return arrays.sum(elementwise.multiply(elementwise.exp(self.log_weights())[..., None], values), axis=-2)

    def variance(self) -> Array:
        deviation = elementwise.subtract(self.components.mean, self.mean[..., None, :])
        return self._average(elementwise.add(self.components.variance(), elementwise.square(deviation)))

    def covariance(self) -> Array:
        weights, deviation = np.exp(value_of(self.log_weights())), value_of(self.components.mean - self.mean[..., None, :])
        between = np.einsum("...c,...ci,...cj->...ij", weights, deviation, deviation)
        within = value_of(self._average(self.components.variance()))
        return between + within[..., None] * device.namespace(within).eye(self.n, dtype=within.dtype)

    @property
    def standard(self) -> Distribution:
        return DiagonalGaussian(*(device.zeros(self.n, self.logits.dtype, self.logits) for _ in range(2)))

    def kl(self, p: Distribution | None = None) -> Array:
        return None
