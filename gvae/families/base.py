"""What every family offers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.distributions import Distribution, Support
from gvae.errors import ConfigError
from gvae.ops import dense

__all__ = ["LOG_SCALE", "Family", "unbounded"]

LOG_SCALE = math.log(1e3)  # conditional standard deviations lie in (1e-3, 1e3)


class Family:
    """A map from raw numbers to distributions over n variables.

    n        : variables                         n_params : raw numbers per distribution
    n_shared : how many of these (the last) are by default learned once instead of emitted per data point
    name     : the text that `parse` reads back
    one_scale : whether variables have one scale in common, so that data keep their relative scales
    """

    name: str
    n_shared = 0
    one_scale = False
    distribution: type[Distribution]

    def __init__(self, n: int, n_params: int):
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ConfigError(f"{type(self).__name__}: n is {n!r}, expected an integer of at least 1")
        self.n, self.n_params = n, n_params

    def __call__(self, raw: Any, shared: Any = None) -> Distribution:
        """raw : (..., n_params); or (..., n_params - n_shared) with the shared numbers (n_shared,) beside it."""
        emitted = self.n_params - (0 if shared is None else self.n_shared)
        if raw.shape[-1:] != (emitted,):
            raise ConfigError(f"{self.name}: raw has shape {raw.shape}, expected (..., {emitted})")
        if not self.n_shared:
            if shared is not None:
                raise ConfigError(f"{self.name}: shared was given, but this family shares no numbers")
            return self._make(raw)
        if shared is None:
            raw, shared = raw[..., : -self.n_shared], raw[..., -self.n_shared :]
        return self._make(raw, shared)

    def of_layer(self, x: Any, weight: Any, bias: Any, shared: Any = None) -> Distribution:
        """The distribution whose raw numbers are x @ weight + bias."""
        return self(dense.affine(x, weight, bias), shared)

    def _make(self, raw: Any, shared: Any = None) -> Distribution:
        raise NotImplementedError

    # ---- where learning starts

    def start(self, key: np.ndarray, dtype: Any) -> np.ndarray:
        """Unconstrained parameters (n_params,) from which to learn one distribution: zeros, the standard one, unless their
        gradient vanishes there."""
        return np.zeros(self.n_params, dtype)

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        """The weight (I, n_params - n_shared) with which a network's last layer starts, given a random one.

        What says where the distribution lies (a mean, a logit, a log rate) starts as random as it is; columns of scales,
        edges, correlations and the like are zero, so that these start for every input as `start` has them.
        """
        return weight

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The numbers (n_params - n_shared,) that are emitted, of which those that say where the distribution lies are such
        that its mean is `mean` (n,), or its median where the mean has no closed form. ConfigError where neither has one."""
        raise ConfigError(f"output_bias 'data': {self.name} has no closed form of the numbers that give it a mean: zero")

    @property
    def reparameterized(self) -> bool:
        return self.distribution.reparameterized

    @property
    def support(self) -> Support:
        """Where the values of each variable lie."""
        return self.distribution.support

    def noise(self, key: np.ndarray, shape: tuple[int, ...], dtype: Any, like: Any = None) -> np.ndarray:
        """The noise of draws of shape (*shape, n), before any distribution exists. like: an array on the device wanted."""
        return self.distribution.draw_noise(key, (*shape, self.n), dtype, like)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={self.n})"


def unbounded(value: Any, limit: float) -> Any:
    """The number that `elementwise.bounded` turns into this value."""
    return limit * np.arctanh(value / limit)
