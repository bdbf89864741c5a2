"""Deep latent Gaussian models: noise enters at every layer, and is inferred from the data for all layers at once.

    xi_l ~ N(0, I),   h_L = G_L xi_L,   h_l = T_l(h_(l+1)) + G_l xi_l,   x ~ observation(T_0(h_1)),   theta ~ N(0, kappa I)
    q(xi | x) = prod_l posterior_l(encoder_l(x))

The codes are the xi_l, so that every KL is to N(0, I) and in closed form: for a posterior `lowrank:1`, with precision
D + u uᵀ, in O(n). theta are the weights and biases of the T_l and the G_l, whose prior N rows share: a row's bound has
log p(theta) / N. Source: Rezende, Mohamed and Wierstra (2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gvae import families, settings
from gvae.data import Batch
from gvae.distributions import Distribution, Support
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import corruption, hierarchical, parts, vae
from gvae.models.codes import Code, Codes
from gvae.models.corruption import Corruption
from gvae.nn import MLP
from gvae.objectives import Terms
from gvae.ops import dense, elementwise
from gvae.runtime import device
from gvae.settings import Choice, Maybe, Number, restated, setting
from gvae.typing import Arrays, Key, Params

__all__ = ["DLGM"]

NOISES = ("full", "diagonal", "identity")


@settings.group("model")
class OwnSettings(settings.Settings):
    """Settings that only a deep latent Gaussian model has."""

    latent: int | tuple[int, ...] = restated(hierarchical.Settings, "latent", default=(100, 50), kw_only=False)
    posterior: str | Family = restated(
        hierarchical.Settings,
        "posterior",
        default="lowrank:1",
        help="family of q(xi_l | x), one for all layers or one for each: lowrank:1, diagonal, chain, ...",
        kw_only=False,
    )
    observation: str | Family = restated(vae.Settings, "observation", default="auto", kw_only=False)
    hidden: tuple[Any, ...] = restated(hierarchical.Settings, "hidden", default=(200,), kw_only=False)
    activation: str = restated(vae.Settings, "activation", default="elu", kw_only=False)
    decoder_hidden: tuple[Any, ...] | None = restated(
        hierarchical.Settings,
        "decoder_hidden",
        default=None,
        help="widths of the hidden layers of T_0, T_1, ..; None: each mirrors the encoder of the layer that it reads",
    )
    noise: str = setting(
        default="full", help="the matrices G_l by which noise enters: full, diagonal or identity", kind=Choice(*NOISES)
    )
    kappa: float | None = setting(
        default=None,
        help="variance of the prior N(0, kappa I) of all weights and biases of the generative model, shared by the "
        "training rows; None: flat",
        kind=Maybe(Number()),
    )
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(vae.Settings, "dropout", default=0.0)
    critic: tuple[int, ...] | None = restated(vae.Settings, "critic", default=None)


@settings.group("model")
class Settings(corruption.Settings, OwnSettings):
    """Settings of a deep latent Gaussian model."""


class Noise:
    """The product G xi with a square matrix G (n, n), which starts as the identity.

    Parameters
    ----------
    name : str
    n : int
    kind : str
        One of NOISES.
    """

    def __init__(self, name: str, n: int, kind: str):
        self.name, self.n, self.kind = name, n, kind

    def init(self, key: Key, dtype: DTypeLike) -> dict[str, np.ndarray]:
        if self.kind == "identity":
            return {}
        full = self.kind == "full"
        return {f"{self.name}.weight": np.eye(self.n, dtype=dtype) if full else np.ones(self.n, dtype)}

    def __call__(self, params: Params, xi: Any) -> Any:
        """xi (..., n) -> (..., n)."""
        if self.kind == "identity":
            return xi
        weight = params[f"{self.name}.weight"]  # Gᵀ, or G's diagonal
        if self.kind == "diagonal":
            return elementwise.multiply(xi, weight)
        return dense.affine(xi, weight, device.zeros(self.n, weight.dtype, weight))


class DLGM(Codes):
    """A deep latent Gaussian model: noise enters at every layer, and is inferred from the data for all layers at once.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Needed with the setting kappa.
    **given : object
        As for `Base`, with the settings of `gvae.DLGM`.

    Raises
    ------
    ConfigError
        A posterior without support on all real numbers; kappa without n_rows.

    Examples
    --------
    >>> model = gvae.models.DLGM(4, latent=(3, 2), hidden=(5,))
    >>> model.codes, model.coded["z2"].encoder.family
    ({'z1': 3, 'z2': 2}, LowRank('lowrank:1', n=2))
    >>> sorted(name for name in model.init(gvae.random.key(0)) if name.startswith("noise"))
    ['noise1.weight', 'noise2.weight']
    """

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, shared = self.sizes["x"], parts.style(settings)
        latents = parts.numbers_of_layers(settings.latent)
        L = len(latents)
        up, down = parts.widths_of_layers(settings, L)
        self.coded = {}
        for i, (text, n) in enumerate(zip(parts.each_layer("posterior", settings.posterior, L), latents, strict=True), 1):
            family = families.parse(text, n, "posterior")
            if family.support != Support():
                raise ConfigError(f"DLGM: posterior {family} has the support {family.support}, expected all real numbers")
            self.coded[f"z{i}"] = Code(Conditional(f"encoder{i}", n_inputs, family, up[i - 1], **shared))
        observation = families.parse(parts.known_observation(settings.observation), n_inputs, "observation")
        self.observed = Conditional("decoder0", latents[0], observation, down[0], **shared)  # T_0
        self.between = [  # T_1 .. T_(L-1)
            MLP(f"decoder{i}", (latents[i], *down[i], latents[i - 1]), **parts.plain_style(settings)) for i in range(1, L)
        ]
        self.mixing = [Noise(f"noise{i}", n, settings.noise) for i, n in enumerate(latents, 1)]  # G_1 .. G_L
        self.decoders = (self.observed, *self.between, *self.mixing)
        self.emitters, self.corruption = {"x": self.observed}, Corruption.of(settings)
        self.critic, self.kappa = self.critic_of(settings), settings.kappa
        self.check_normalize(settings)
        self.n_rows = self.n_rows if self.kappa is None else parts.shared_by(self)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        latents = parts.numbers_of_layers(settings.latent)
        up, down = parts.widths_of_layers(settings, len(latents))
        encoders = [(sizes["x"], *widths, n) for widths, n in zip(up, latents, strict=True)]
        below = (sizes["x"], *latents[:-1])
        decoders = [(n, *widths, m) for widths, n, m in zip(down, latents, below, strict=True)]
        return encoders + decoders + parts.critic_widths(settings, sum(latents))

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Arrays | None = None) -> dict[str, Distribution]:
        xi = [z[name] for name in self.coded]
        h = self.mixing[-1](params, xi[-1])
        for T, G, own in zip(self.between[::-1], self.mixing[-2::-1], xi[-2::-1], strict=True):
            h = elementwise.add(T(params, h), G(params, own))
        return {"x": self.observed(params, h)}

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Arrays, step: Any = None) -> Terms:
        terms = super().terms(params, state, batch, noise, step)
        if self.kappa is not None and step is not None:  # the cost of the weights belongs to all rows together
            generative = [  # without what the observation model shares between rows, such as its standard deviations
                name for name in params if name.startswith(("decoder", "noise")) and not name.endswith(".shared")
            ]
            price = parts.price_of_weights(params, generative, math.sqrt(self.kappa))
            terms.layers.append(parts.Penalty(price, share=1 / self.n_rows))
        return terms
