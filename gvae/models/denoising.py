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

from gvae import random, settings
from gvae.autodiff import primitive
from gvae.models import vae
from gvae.models.vae import VAE
from gvae.ops import elementwise
from gvae.settings import Choice, Number, Numbers, Whole, setting

__all__ = ["Denoising"]


@settings.group("model")
class Settings(vae.Settings):
    """Those of a denoising VAE."""

    corruption: str = setting(
        default="masking",
        help="masking: each input is 0 with probability nu; gaussian: noise of standard deviation nu is added",
        kind=Choice("masking", "gaussian"),
    )
    levels: tuple[float, float] = setting(
        default=(0.5, 0.1),
        help="nu at the first step, and from step anneal on; linear in between",
        kind=Numbers(Number(most=1, zero=True), 2),
    )
    anneal: int = setting(default=5000, help="steps over which nu goes from its first level to its last", kind=Whole())


class Denoising(VAE):
    """A VAE whose encoder sees corrupted rows in training, and rows as they are where they are scored. Settings: see
    gvae.DenoisingVAE."""

    Settings = Settings
    pure = True

    def build(self, settings):
        super().build(settings)
        self.corruption, self.levels, self.anneal = settings.corruption, settings.levels, settings.anneal

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

    def encode(self, params, name, batch, noise, step):
        seen = batch.x if step is None else self.corrupted(batch.x, noise["corruption"], step)
        return self.encoder(params, seen)


@functools.partial(primitive, differentiable=False)
def _at_least(u, nu):
    """1 where u >= nu, else 0."""
    return (u >= nu).astype(u.dtype)
