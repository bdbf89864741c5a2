"""Families of bits that depend on those before them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from gvae import random
from gvae.distributions import AutoregressiveBernoulli, NADEDistribution
from gvae.distributions.base import Distribution
from gvae.errors import ConfigError
from gvae.families.base import Family
from gvae.families.others import log_odds, with_path
from gvae.ops import arrays, draws
from gvae.typing import Array, Key

__all__ = ["NADE", "Autoregressive"]


class Autoregressive(Family):
    """Bits with logits that are linear in the bits before them, b_j + sum_{i<j} W_ij x_i: a fully visible belief network.

    Unconstrained parameters: b (n); W above its diagonal, row by row (n (n - 1) / 2, shared).

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
    >>> family = gvae.families.Autoregressive(3)
    >>> family.n_params, family.n_shared
    (6, 3)
    >>> p = family(np.array([0.0, 0.0, 0.0, 2.0, 0.0, -1.0]))
    >>> p.probabilities(np.array([1.0, 1.0, 0.0])).round(4)
    array([0.5   , 0.8808, 0.2689])
    """

    distribution = AutoregressiveBernoulli

    def __init__(self, n: int, path: str | None = None):
        super().__init__(n, 0)  # checks n
        self.n_shared = n * (n - 1) // 2
        self.n_params = n + self.n_shared
        self.path, self.name = path, with_path("autoregressive", path)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        if shared is None:  # a single variable shares nothing
            shared = raw[..., :0]
        return AutoregressiveBernoulli(raw, draws.strict_triangle(shared, n=self.n), self.path)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return log_odds(mean).astype(raw.dtype)  # exact at the start, where W is 0


class NADE(Family):
    """Bits whose logits share H hidden units, b_j + V_j . sigmoid(c + sum_{i<j} x_i W_i).

    Unconstrained parameters: b (n), c (H); W and V (n H each, shared), which start at random, as zeros are a saddle point.

    Parameters
    ----------
    n : int
        The number of variables.
    hidden : int
        The number H.

    Raises
    ------
    ConfigError
        n or H is not a positive integer.

    Notes
    -----
    Source: Larochelle and Murray (2011); with b and c emitted by a network, conditional NADE.

    Examples
    --------
    >>> family = gvae.families.NADE(3, 2)
    >>> family.n_params, family.n_shared
    (17, 12)
    >>> p = family(family.start(gvae.random.key(0), np.float64))
    >>> x = np.array([[a, b, c] for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)])
    >>> np.exp(p.log_prob(x)).sum().round(6)
    np.float64(1.0)
    """

    distribution = NADEDistribution

    def __init__(self, n: int, hidden: int):
        if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
            raise ConfigError(f"NADE: hidden is {hidden!r}, expected an integer of at least 1")
        super().__init__(n, 0)  # checks n
        self.hidden, self.name = hidden, f"nade:{hidden}"
        self.n_shared = 2 * n * hidden
        self.n_params = n + hidden + self.n_shared

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        weights = arrays.reshape(shared, shape=(*shared.shape[:-1], 2, self.n, self.hidden))
        return NADEDistribution(raw[..., : self.n], raw[..., self.n :], weights[..., 0, :, :], weights[..., 1, :, :])

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        raw, limit = super().start(key, dtype), math.sqrt(6 / (self.n + self.hidden))
        raw[-self.n_shared :] = limit * (2 * random.uniform(key, self.n_shared, np.dtype(dtype)) - 1)
        return raw
