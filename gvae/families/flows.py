"""Families transformed by flows."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import DTypeLike

from gvae.distributions import DiagonalGaussian, PlanarGaussian
from gvae.distributions.base import Distribution
from gvae.distributions.flows import started_steps
from gvae.families.base import LOG_SCALE, Family
from gvae.ops import arrays, elementwise
from gvae.typing import Array, Key

__all__ = ["Planar"]


class Planar(Family):
    """Independent Gaussians transformed by planar flows, N(0, I) at the start.

    Unconstrained parameters: n means and n log scales, then u, w and b of each step.

    Parameters
    ----------
    n : int
    steps : int

    Raises
    ------
    ConfigError

    Notes
    -----
    Source: Rezende and Mohamed (2015).

    Examples
    --------
    >>> family = gvae.families.parse("planar:2", 3)
    >>> family.n_params, family(family.start(gvae.random.key(0), np.float64))
    (20, PlanarGaussian(batch_shape=(), n=3))
    """

    distribution = PlanarGaussian

    def __init__(self, n: int, steps: int):
        super().__init__(n, 2 * n + steps * (2 * n + 1))
        self.steps, self.name = steps, f"planar:{steps}"

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        n, S = self.n, self.steps
        mean, log_scale = raw[..., :n], elementwise.bounded(raw[..., n : 2 * n], limit=LOG_SCALE)
        ends = 2 * n + S * n, 2 * n + 2 * S * n
        u, w = (arrays.reshape(part, shape=(*part.shape[:-1], S, n)) for part in _between(raw, 2 * n, *ends))
        return PlanarGaussian(DiagonalGaussian(mean, log_scale), u, w, raw[..., ends[1] :])

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        u, w, b = started_steps(key, self.steps, self.n, dtype)
        return np.concatenate([np.zeros(2 * self.n, dtype), u.ravel(), w.ravel(), b])

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        return np.concatenate([weight[:, : self.n], np.zeros_like(weight[:, self.n :])], axis=1)


def _between(raw: Array, *ends: int) -> list[Array]:
    """The parts of the last axis between these positions."""
    return [raw[..., a:b] for a, b in itertools.pairwise(ends)]
