"""A distribution of standardized values whose densities are those of the values in the units of the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.autodiff import value_of
from gvae.distributions.base import Distribution
from gvae.errors import ShapeError
from gvae.ops import elementwise
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["Rescaled"]


class Rescaled(Distribution):
    """Standardized values y ~ base with densities of x = location + scale * y.

    Arguments, draws and moments are in the standardized units of y, which float32 resolves wherever x lies. Densities are
    with respect to x. Neither entropy (None) nor KL (NotImplementedError) is offered: this is for data.

    Parameters
    ----------
    base : Distribution
    scale : array (n,)
        float64, positive.

    Notes
    -----
    log p(x) = log p(y) - sum_j log scale_j, in nats. `error` is in the units of x.

    Examples
    --------
    >>> base = gvae.distributions.DiagonalGaussian(np.zeros(2), np.zeros(2))
    >>> p = gvae.distributions.Rescaled(base, np.array([10.0, 0.1]))
    >>> p.log_prob(np.ones(2), reduce=False).round(4)
    array([-3.7215,  0.8836])
    >>> p.error(np.ones(2)), p.variance()
    (array([-10. ,  -0.1]), array([1., 1.]))
    """

    def __init__(self, base: Distribution, scale: np.ndarray):
        if np.shape(scale)[-1:] != (base.n,):
            raise ShapeError(f"Rescaled: scale has shape {np.shape(scale)}, expected ({base.n},), as base has n={base.n}")
        self.base, self.scale = base, scale
        self.reparameterized, self.independent = base.reparameterized, base.independent

    @property
    def n(self) -> int:
        return self.base.n

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.base._leads()

    def noise(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.base.noise(key, sample_shape)

    def sample(self, noise: Array) -> Array:
        return self.base.sample(noise)

    def _per_unit(self, log_density: Any, reduce: bool = True) -> Array:
        log_scale = np.log(self.scale)
        if reduce:
            return elementwise.subtract(log_density, float(log_scale.sum()))
        log_scale = log_scale.astype(log_density.dtype)
        return elementwise.subtract(log_density, device.beside(log_scale, value_of(log_density)))

    def log_prob(self, y: Array, reduce: bool = True) -> Array:
        return self._per_unit(self.base.log_prob(y, reduce), reduce)

    def log_prob_of_draw(self, noise: Array, sample: Array) -> Array:
        return self._per_unit(self.base.log_prob_of_draw(noise, sample))

    @property
    def mean(self) -> Array:
        """The base's mean, in standardized units, (..., n).

        Examples
        --------
        >>> base = gvae.distributions.DiagonalGaussian(np.array([0.0, 1.0]), np.zeros(2))
        >>> gvae.distributions.Rescaled(base, np.array([10.0, 0.1])).mean
        array([0., 1.])
        """
        return self.base.mean

    def variance(self) -> Array:
        return self.base.variance()

    def covariance(self) -> Array:
        return self.base.covariance()

    def error(self, x: Array) -> np.ndarray:
        return super().error(x) * self.scale
