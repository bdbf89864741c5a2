"""The variational autoencoder with any family in each role.

z ~ p(z), x | z ~ observation(decoder(z)), q(z | x) = posterior(encoder(x)).
Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae import families, random
from gvae.families import Conditional, Family
from gvae.objectives import Layer, Terms

__all__ = ["VAE"]


class VAE:
    """n_inputs, latent : variables of x and z      hidden : widths of the encoder's layers, mirrored in the decoder

    posterior, observation : families, as objects or text
    prior                  : None for the standard prior, else a family whose parameters are learned
    """

    pure = True

    def __init__(
        self,
        n_inputs: int,
        latent: int = 16,
        posterior: str | Family = "chain",
        observation: str | Family = "bernoulli",
        hidden: Sequence[int] = (200, 200),
        activation: str = "elu",
        prior: str | Family | None = None,
        dtype: Any = np.float32,
    ):
        self.dtype = np.dtype(dtype)
        self.posterior = families.parse(posterior, latent)
        self.observation = families.parse(observation, n_inputs)
        self.prior = None if prior is None else families.parse(prior, latent)
        self.encoder = Conditional("encoder", n_inputs, self.posterior, hidden, activation)
        self.decoder = Conditional("decoder", latent, self.observation, tuple(hidden)[::-1], activation)

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        params = self.encoder.init(random.fold_in(key, 0), self.dtype)
        params |= self.decoder.init(random.fold_in(key, 1), self.dtype)
        if self.prior is not None:
            params["prior.raw"] = np.zeros(self.prior.n_params, self.dtype)
        return params

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype)}

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int = 0) -> Terms:
        q = self.encoder(params, batch.x)
        z = q.sample(noise["z"])
        p = None if self.prior is None else self.prior(params["prior.raw"])
        x = self.decoder(params, z)
        return Terms({"x": x.log_prob(batch.x)}, [Layer(q, p, z, noise["z"])], views={"x": x})

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        if self.prior is None:
            p = self.posterior(np.zeros(self.posterior.n_params, self.dtype)).standard
        else:
            p = self.prior(params["prior.raw"])
        z = p.sample(noise["z"])
        return Terms({}, [Layer(p, p, z, noise["z"])], views={"x": self.decoder(params, z)})

    def raw(self, params: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        return {"encoder.raw": self.encoder.raw(params, batch.x)}
