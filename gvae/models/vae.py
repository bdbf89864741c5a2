"""The variational autoencoder with any family in each role.

z ~ p(z), x | z ~ observation(decoder(z)), q(z | x) = posterior(encoder(x)).
Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import families, random, settings
from gvae.distributions import Distribution
from gvae.families import Conditional, Family
from gvae.models.base import Base
from gvae.models.parts import known_observation, network_widths
from gvae.objectives import Layer, Terms
from gvae.settings import Choice, Families, Layers, Maybe, Widths, setting

__all__ = ["VAE"]

ACTIVATIONS = ("elu", "tanh", "relu", "leaky_relu", "softplus", "sigmoid", "identity")


@settings.group("model")
class Settings(settings.Settings):
    """Those of a VAE."""

    latent: int = setting(default=16, help="number of latent variables", kind=Layers(several=False), kw_only=False)
    posterior: str | Family = setting(
        default="chain",
        help="family of q(z|x): diagonal, chain, band:3, grid:4x4, extended_grid:4x4, ar1, lowrank:2, full, ...",
        kind=Families(),
        kw_only=False,
    )
    observation: str | Family = setting(
        default="auto",
        help="family of p(x|z): bernoulli, gaussian, poisson, categorical:17, logit:chain, ...; auto: bernoulli for "
        "bits and for images of grey levels, gaussian for all other numbers",
        kind=Families(),
        kw_only=False,
    )
    hidden: tuple[int, ...] = setting(
        default=(200, 200), help="widths of the encoder's hidden layers", kind=Widths(), kw_only=False
    )
    activation: str = setting(default="elu", help="of the hidden layers", kind=Choice(*ACTIVATIONS), kw_only=False)
    prior: str | Family | None = setting(
        default=None,
        help="family of p(z), whose parameters are learned: random_walk, ar1, mixture:10, ...; None: N(0, I)",
        kind=Maybe(Families()),
    )
    decoder_hidden: tuple[int, ...] | None = setting(
        default=None,
        help="widths of the decoder's hidden layers; None: those of the encoder, mirrored",
        kind=Maybe(Widths()),
    )
    start: str = setting(
        default="calm",
        help="calm: scales, edges and the like of every distribution that a network emits start as in the standard "
        "one, whatever the input; glorot: as random as the rest of the network",
        kind=Choice(*families.STARTS),
    )


class VAE(Base):
    """A VAE of n_inputs variables x. Settings: see gvae.VAE; families may be given as objects too, and observation "auto"
    is bernoulli, for there are no data to look at."""

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings):
        n_inputs, latent, hidden = self.sizes["x"], settings.latent, settings.hidden
        shared = settings.activation, settings.start
        self.posterior = families.parse(settings.posterior, latent)
        self.observation = families.parse(known_observation(settings.observation), n_inputs)
        self.prior = None if settings.prior is None else families.parse(settings.prior, latent)
        self.encoder = Conditional("encoder", n_inputs, self.posterior, hidden, *shared)
        mirrored = hidden[::-1] if settings.decoder_hidden is None else settings.decoder_hidden
        self.decoder = Conditional("decoder", latent, self.observation, mirrored, *shared)

    @classmethod
    def layers(cls, settings, sizes):
        return network_widths(settings, [settings.latent], sizes["x"])

    @property
    def codes(self) -> Mapping[str, int]:
        return {"z": self.posterior.n}

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

    def sample_prior(self, params: Any, key: np.ndarray, n: int) -> dict[str, Any]:
        """n draws of z, (n, latent)."""
        p = self.prior_of(params)
        return {"z": p.sample(p.noise(key, (n,)))}

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

    def code(self, params: Any, state: Any, batch: Any) -> dict[str, Distribution]:
        return {"z": self.encoder(params, batch.x)}

    def decode(self, params: Any, state: Any, z: Mapping[str, Any], noise: Any = None) -> dict[str, Distribution]:
        return {"x": self.decoder(params, z["z"])}

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        q = self.encode(params, batch.x, noise, step)
        z = q.sample(noise["z"])
        p = None if self.prior is None else self.prior(params["prior.raw"])
        views = self.decode(params, state, {"z": z}, noise)
        return Terms({"x": views["x"].log_prob(batch.x)}, [Layer(q, p, z, noise["z"])], views=views)

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        p = self.prior_of(params)
        z = p.sample(noise["z"])
        return Terms({}, [Layer(p, p, z, noise["z"])], views=self.decode(params, state, {"z": z}, noise))

    def raw(self, params: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        return {"encoder.raw": self.encoder.raw(params, batch.x)}
