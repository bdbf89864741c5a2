"""Corrupted inputs of encoders in training, at a level of noise that falls from a high one to a low one.

x~ ~ c_nu(x~ | x), z ~ q(z | x~): the bound is E_c E_q [log p(x, z) - log q(z | x~)], in which the clean x is explained. It
is a lower bound on log p(x): with the posterior q~(z | x) = E_c q(z | x~), the entropy's concavity makes it at most the ELBO
of q~. Where rows are scored, encoders read the clean x. Source: Geras and Sutton (2015), scheduled denoising autoencoders,
carried over to the VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import random, settings
from gvae.ops import elementwise
from gvae.ops.draws import keep
from gvae.settings import Choice, Maybe, Number, Numbers, Whole, setting
from gvae.typing import Array, Key, Noise

__all__ = ["Corruption", "Settings"]

KINDS = ("masking", "gaussian", "flipping")


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a model whose encoders may read corrupted rows."""

    corruption: str | None = setting(
        default=None,
        help="corruption of the encoders' input in training: masking, each input is 0 with probability nu; gaussian, noise "
        "of standard deviation nu is added; flipping, x becomes 1 - x with probability nu; None: they read x",
        kind=Maybe(Choice(*KINDS)),
    )
    levels: tuple[float, float] = setting(
        default=(0.5, 0.1),
        help="nu at the first step, and from step anneal on; linear in between",
        kind=Numbers(Number(most=1, zero=True), 2),
    )
    anneal: int = setting(default=5000, help="steps over which nu goes from its first level to its last", kind=Whole())


@dataclass(frozen=True)
class Corruption:
    """The corruption of rows, and the schedule of its level.

    Parameters
    ----------
    kind : str
        One of KINDS.
    levels : tuple of float, default (0.5, 0.1)
        nu at the first step, and from step `anneal` on; linear in between.
    anneal : int, default 5000
    """

    kind: str
    levels: tuple[float, float] = (0.5, 0.1)
    anneal: int = 5000

    @classmethod
    def of(cls, settings: Any) -> Corruption | None:
        """The corruption that settings describe; None where they have none."""
        return None if settings.corruption is None else cls(settings.corruption, settings.levels, settings.anneal)

    def level(self, step: Any) -> Any:
        """nu at a step."""
        first, last = self.levels
        done = step / self.anneal
        done = min(done, 1.0) if isinstance(done, float) else np.minimum(done, 1.0)
        return first + (last - first) * done

    def noise(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> np.ndarray:
        """Noise for draws of `shape`, (K, B, D)."""
        draw = random.normal if self.kind == "gaussian" else random.uniform
        return draw(key, shape, dtype, like)

    def __call__(self, x: Any, noise: Noise, step: Any) -> Any:
        """The corrupted rows x~ (K, B, D) of x (B, D)."""
        nu = self.level(step)
        if self.kind == "gaussian":
            return elementwise.add(x, elementwise.multiply(noise, nu))
        kept = keep(noise, nu)
        if self.kind == "masking":
            return elementwise.multiply(x, kept)
        return elementwise.add(elementwise.multiply(x, 2 * kept - 1), 1 - kept)
