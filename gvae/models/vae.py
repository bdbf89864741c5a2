"""The variational autoencoder with any family in each role.

z ~ p(z), x | z ~ observation(decoder(z)), q(z | x) = posterior(encoder(x)).
Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gvae import families, random
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.objectives import Layer, Terms

__all__ = ["VAE"]


class VAE:
    """n_inputs, latent : variables of x and z      hidden : widths of the encoder's layers, mirrored in the decoder

    posterior, observation : families, as objects or text
    prior                  : None for the standard prior, else a family whose parameters are learned
    decoder_hidden         : widths of the decoder's layers, where they are not to mirror the encoder's
    n_rows                 : rows of the training data, for those of its kin whose bound or step depends on it
    start                  : of the networks' last layers: "calm" or "glorot", see Conditional
    defaults               : settings of gvae.VAE that a model of the kin has, where they are left as they are
    """

    pure = True
    defaults: ClassVar[Mapping[str, Any]] = {}

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
        n_rows: int = 0,
        decoder_hidden: Sequence[int] | None = None,
        start: str = "calm",
    ):
        if not isinstance(latent, (int, np.integer)):
            raise ConfigError(f"{type(self).__name__}: latent is {latent!r}, expected a whole number; see hierarchical")
        self.dtype, self.n_rows = np.dtype(dtype), n_rows
        self.posterior = families.parse(posterior, latent)
        self.observation = families.parse(observation, n_inputs)
        self.prior = None if prior is None else families.parse(prior, latent)
        self.encoder = Conditional("encoder", n_inputs, self.posterior, hidden, activation, start)
        decoder_hidden = tuple(hidden)[::-1] if decoder_hidden is None else decoder_hidden
        self.decoder = Conditional("decoder", latent, self.observation, decoder_hidden, activation, start)

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        params = self.encoder.init(random.fold_in(key, 0), self.dtype)
        params |= self.decoder.init(random.fold_in(key, 1), self.dtype)
        if self.prior is not None:
            params["prior.raw"] = self.prior.start(random.fold_in(key, 2), self.dtype)
        return params

    def prior_of(self, params: Any) -> Distribution:
        """p(z)."""
        if self.prior is not None:
            return self.prior(params["prior.raw"])
        return self.posterior(np.zeros(self.posterior.n_params, self.dtype)).standard

    def sample_prior(self, params: Any, key: np.ndarray, n: int) -> Any:
        """n draws of z, (n, latent)."""
        p = self.prior_of(params)
        return p.sample(p.noise(key, (n,)))

    @property
    def has_closed_kl(self) -> bool:
        """Whether KL(q ‖ p) has a closed form; if not, the ELBO takes estimator A for it."""
        q = self.posterior(np.zeros(self.posterior.n_params, self.dtype))
        p = None if self.prior is None else self.prior(np.zeros(self.prior.n_params, self.dtype))
        return q.kl(p) is not None

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype, vars(batch).get("x"))}

    def encode(self, params: Any, x: Any, noise: Any, step: Any) -> Distribution:
        """q(z | x)."""
        return self.encoder(params, x)

    def decode(self, params: Any, z: Any, noise: Any) -> Distribution:
        """p(x | z)."""
        return self.decoder(params, z)

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int | None = None) -> Terms:
        q = self.encode(params, batch.x, noise, step)
        z = q.sample(noise["z"])
        p = None if self.prior is None else self.prior(params["prior.raw"])
        x = self.decode(params, z, noise)
        return Terms({"x": x.log_prob(batch.x)}, [Layer(q, p, z, noise["z"])], views={"x": x})

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        p = self.prior_of(params)
        z = p.sample(noise["z"])
        return Terms({}, [Layer(p, p, z, noise["z"])], views={"x": self.decode(params, z, noise)})

    def raw(self, params: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        return {"encoder.raw": self.encoder.raw(params, batch.x)}
