"""The variational autoencoder with any family in each role.

z ~ p(z), x | z ~ observation(decoder(z)), q(z | x) = posterior(encoder(x)).
Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gvae import families, settings
from gvae.distributions import Distribution
from gvae.families import Conditional, Family
from gvae.models.codes import Code, Codes
from gvae.models.parts import critic_widths, known_observation, network_widths, style
from gvae.settings import Choice, Families, Layers, Maybe, Number, Widths, setting
from gvae.typing import Arrays, Noise, Params

__all__ = ["VAE"]

ACTIVATIONS = ("elu", "tanh", "relu", "leaky_relu", "softplus", "sigmoid", "identity")


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a VAE."""

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
    activation: str = setting(
        default="elu", help="activation of the hidden layers", kind=Choice(*ACTIVATIONS), kw_only=False
    )
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
        help="initial weights of each network's last layer: calm, random for means, logits and log rates only, so that "
        "scales, edges and the like start at those of the standard distribution for any input; glorot, all random",
        kind=Choice(*families.STARTS),
    )
    output_bias: str = setting(
        default="zero",
        help="bias of the decoder's last layer at the start: zero; data, with which the observation's mean is that of the "
        "training rows (pixels' log-odds)",
        kind=Choice("zero", "data"),
    )
    normalize: str | None = setting(
        default=None,
        help="batch: batch normalisation in all hidden layers, by the moments of a step's rows in training and by those of "
        "the training rows where rows are scored",
        kind=Maybe(Choice("batch")),
    )
    dropout: float = setting(
        default=0.0,
        help="probability with which the output of a hidden unit is dropped in training",
        kind=Number(below=1, zero=True),
    )
    critic: tuple[int, ...] | None = setting(
        default=None,
        help="widths of the hidden layers of a network that tells codes of the data from draws of the prior, for "
        "objective='info:divergence=js'",
        kind=Maybe(Widths()),
    )


class VAE(Codes):
    """The variational autoencoder of n_inputs variables x.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.VAE`. Families may be given as
        objects, too; observation "auto" is bernoulli, as there are no data to choose by.

    Examples
    --------
    >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
    >>> params = model.init(gvae.random.key(0))
    >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=3))
    >>> value, metrics = gvae.objectives.ELBO()(terms)
    >>> sorted(metrics)
    ['bound', 'kl', 'log_likelihood']
    """

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, latent, hidden = self.sizes["x"], settings.latent, settings.hidden
        shared = style(settings)
        self.posterior = families.parse(settings.posterior, latent, "posterior")
        self.observation = families.parse(known_observation(settings.observation), n_inputs, "observation")
        self.prior = None if settings.prior is None else families.parse(settings.prior, latent, "prior", self.posterior)
        self.encoder = Conditional("encoder", n_inputs, self.posterior, hidden, **shared)
        mirrored = hidden[::-1] if settings.decoder_hidden is None else settings.decoder_hidden
        self.decoder = Conditional("decoder", latent, self.observation, mirrored, **shared)
        self.coded, self.decoders = {"z": Code(self.encoder, prior=self.prior)}, (self.decoder,)
        self.critic, self.emitters = self.critic_of(settings), {"x": self.decoder}
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return network_widths(settings, [settings.latent], sizes["x"]) + critic_widths(settings, settings.latent)

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        return {"x": self.decoder(params, z["z"])}
