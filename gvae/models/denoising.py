"""A VAE whose encoder sees corrupted data, the corruption falling from a high level to a low one during training.

x~ ~ c_nu(x~ | x), z ~ q(z | x~): the bound is E_c E_q [log p(x, z) - log q(z | x~)], with the clean x to be explained. It is
a lower bound of log p(x): with the posterior q~(z | x) = E_c q(z | x~), the entropy's concavity makes it at most the ELBO of
q~. At level 0 it is the VAE, as it is where rows are scored: the encoder then sees the clean x. Source: Geras and Sutton
(2015), scheduled denoising autoencoders, carried over to the VAE.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import primitive
from gvae.errors import ConfigError
from gvae.models.vae import VAE
from gvae.ops import elementwise

__all__ = ["Denoising"]

CORRUPTIONS = ("masking", "gaussian")


class Denoising(VAE):
    """corruption : "masking" (each input is 0 with probability nu) or "gaussian" (standard deviation nu is added)

    levels : nu at the first step and from step `anneal` on, linear in between      other settings: VAE's
    """

    pure = True

    def __init__(
        self,
        *args: Any,
        corruption: str = "masking",
        levels: tuple[float, float] = (0.5, 0.1),
        anneal: int = 5000,
        **settings: Any,
    ):
        super().__init__(*args, **settings)
        if corruption not in CORRUPTIONS:
            raise ConfigError(f"unknown corruption {corruption!r}; known are {', '.join(CORRUPTIONS)}")
        if any(not 0 <= level <= 1 for level in levels) or anneal < 1:
            raise ConfigError(f"Denoising: levels are {levels!r}, anneal {anneal!r}; expected levels in [0, 1], anneal >= 1")
        self.corruption, self.levels, self.anneal = corruption, levels, anneal

    def level(self, step: Any) -> Any:
        """nu at a step."""
        first, last = self.levels
        done = step / self.anneal
        done = min(done, 1.0) if isinstance(done, float) else np.minimum(done, 1.0)
        return first + (last - first) * done

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        draw = random.uniform if self.corruption == "masking" else random.normal
        shape = (samples, *batch.x.shape)
        corruption = draw(random.fold_in(key, 1), shape, self.dtype, batch.x)
        return super().noise(key, batch, samples) | {"corruption": corruption}

    def corrupted(self, x: Any, noise: Any, step: Any) -> Any:
        """x~ (K, B, D)."""
        nu = self.level(step)
        if self.corruption == "gaussian":
            return elementwise.add(x, elementwise.multiply(noise, nu))
        return elementwise.multiply(x, _at_least(noise, nu))

    def encode(self, params, x, noise, step):
        seen = x if step is None else self.corrupted(x, noise["corruption"], step)
        return super().encode(params, seen, noise, step)


@functools.partial(primitive, differentiable=False)
def _at_least(u, nu):
    """1 where u >= nu, else 0."""
    return (u >= nu).astype(u.dtype)
