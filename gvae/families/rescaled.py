"""Observation models of standardized columns, with densities in the units of the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gvae.distributions import Rescaled as RescaledDistribution
from gvae.distributions import Support
from gvae.distributions.base import Distribution
from gvae.errors import ConfigError
from gvae.families.base import Family
from gvae.typing import Array, Key

__all__ = ["Rescaled"]


class Rescaled(Family):
    """x = location + scale * y with y of another family of real numbers, whose name and parameters it keeps.

    Arguments and draws are y; densities are those of x: see `gvae.distributions.Rescaled`.

    Parameters
    ----------
    family : Family
    scale : array (n,)
        Positive.

    Raises
    ------
    ConfigError
        The family is not one of real numbers, or `scale` does not consist of n positive numbers.

    Examples
    --------
    >>> family = gvae.families.Rescaled(gvae.families.Diagonal(2), np.array([10.0, 0.1]))
    >>> family(np.zeros(4)).log_prob(np.ones(2), reduce=False).round(4)
    array([-3.7215,  0.8836])
    """

    distribution = RescaledDistribution

    def __init__(self, family: Family, scale: np.ndarray):
        if family.support != Support():
            raise ConfigError(f"Rescaled: {family} has the support {family.support}, expected a family of real numbers")
        scale = np.array(scale, np.float64)
        if scale.shape != (family.n,) or not (scale > 0).all():
            raise ConfigError(f"Rescaled: scale has shape {scale.shape}, expected {family.n} positive numbers")
        super().__init__(family.n, family.n_params)
        scale.flags.writeable = False
        self.family, self.scale, self.n_shared, self.name = family, scale, family.n_shared, family.name

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return RescaledDistribution(self.family(raw, shared), self.scale)

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        return self.family.start(key, dtype)

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        return self.family.start_weight(weight)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return self.family.located(raw, mean)

    @property
    def reparameterized(self) -> bool:
        return self.family.reparameterized

    def noise(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> np.ndarray:
        return self.family.noise(key, shape, dtype, like)
