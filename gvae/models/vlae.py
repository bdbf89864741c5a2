"""The variational ladder autoencoder: flat codes, inferred and decoded by networks of growing depth.

    h_0 = x,   h_l = g_l(h_(l-1)),   q(z_l | x) = posterior_l(head_l(h_l)), independent given x,   z_l ~ N(0, I)
    zt_L = f_L(z_L),   zt_l = f_l(zt_(l+1), z_l),   x ~ observation(f_0(zt_1))

The information that a code can hold depends on the depth of the networks that lead to it; no code is drawn given another.
Source: Zhao, Song and Ermon (2017), "Learning hierarchical features from deep generative models". The variational lossy
autoencoder, also abbreviated VLAE, is a different model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gvae import families, settings
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import hierarchical, vae
from gvae.models.codes import Code, Codes
from gvae.models.parts import (
    critic_widths,
    each_layer,
    known_observation,
    numbers_of_layers,
    plain_style,
    style,
    widths_of_layers,
)
from gvae.nn import MLP, Tower
from gvae.ops import arrays, elementwise
from gvae.settings import Choice, restated, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["VLAE"]

GATE = 0.1  # where gates start, as in the released code


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a variational ladder autoencoder."""

    latent: int | tuple[int, ...] = restated(
        hierarchical.Settings,
        "latent",
        default=(2, 2, 2),
        help="number of variables of each level's code, from the data upwards",
        kw_only=False,
    )
    posterior: str | Family = restated(
        hierarchical.Settings,
        "posterior",
        default="diagonal",
        help="family of q(z_l | x), one for all levels or one for each: diagonal, chain, ...",
        kw_only=False,
    )
    observation: str | Family = restated(vae.Settings, "observation", default="auto", kw_only=False)
    hidden: tuple[Any, ...] = restated(
        hierarchical.Settings,
        "hidden",
        default=(200,),
        help="widths of the layers from each level to the next: flat for all levels, or nested, one for each; the decoder "
        "mirrors them",
        kw_only=False,
    )
    activation: str = restated(vae.Settings, "activation", default="elu", kw_only=False)
    combine: str = setting(
        default="concat",
        help="how features from above join a code: concat, concatenated; gate, added times a learned gate, 0.1 at the start",
        kind=Choice("concat", "gate"),
    )
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(vae.Settings, "dropout", default=0.0)
    critic: tuple[int, ...] | None = restated(vae.Settings, "critic", default=None)


class Join:
    """The input of f_l, from zt_(l+1) (..., width) and z_l (..., n): their concatenation, or zt + gate * lift(z).

    Parameters
    ----------
    name : str
    width : int
        The width of zt_(l+1).
    n : int
        The number of variables of z_l.
    combine : str
        "concat" or "gate".

    Attributes
    ----------
    n_outputs : int
        The number of inputs of f_l.
    """

    def __init__(self, name: str, width: int, n: int, combine: str):
        self.name, self.width, self.gated = name, width, combine == "gate"
        self.n_outputs = width if self.gated else width + n
        self.lift = MLP(f"{name}.lift", (n, width))

    def init(self, key: Key, dtype: DTypeLike) -> dict[str, np.ndarray]:
        if not self.gated:
            return {}
        return self.lift.init(key, dtype) | {f"{self.name}.gate": np.full(self.width, GATE, dtype)}

    def __call__(self, params: Params, above: Any, z: Any) -> Any:
        if not self.gated:
            return arrays.concatenate([above, z], axis=-1)
        return elementwise.add(above, elementwise.multiply(self.lift(params, z), params[f"{self.name}.gate"]))


class VLAE(Codes):
    """The variational ladder autoencoder.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.VLAE`.

    Raises
    ------
    ConfigError
        A level without hidden layers.

    Examples
    --------
    >>> model = gvae.models.VLAE(784, latent=(4, 2), hidden=((200,), (100, 50)))
    >>> model.codes, [level.sizes for level in model.tower.levels]
    ({'z1': 4, 'z2': 2}, [(784, 200), (200, 100, 50)])
    """

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, shared, of_mlp = self.sizes["x"], style(settings), plain_style(settings)
        latents = numbers_of_layers(settings.latent)
        L = len(latents)
        widths, mirrored = widths_of_layers(settings, L)
        if () in widths:
            raise ConfigError("VLAE: hidden has a level without layers, expected at least one width for each level")
        self.tower = Tower("trunk", n_inputs, widths, **of_mlp)
        posteriors = each_layer("posterior", settings.posterior, L)
        self.coded = {
            f"z{i + 1}": Code(Conditional(f"encoder{i + 1}", widths[i][-1], family, (), **shared), reads=i)
            for i, family in enumerate(families.parse(f, n, "posterior") for f, n in zip(posteriors, latents, strict=True))
        }
        self.joins = [Join(f"join{i + 1}", mirrored[i + 1][-1], latents[i], settings.combine) for i in range(L - 1)]
        reads = [join.n_outputs for join in self.joins] + [latents[-1]]
        self.steps = [  # f_1 .. f_L
            MLP(f"decoder{i + 1}", (n, *w), last=settings.activation, **of_mlp)
            for i, (n, w) in enumerate(zip(reads, mirrored, strict=True))
        ]
        observation = families.parse(known_observation(settings.observation), n_inputs, "observation")
        self.observed = Conditional("decoder0", mirrored[0][-1], observation, (), **shared)  # f_0
        self.decoders = (self.observed, *self.steps, *self.joins)
        self.emitters, self.critic = {"x": self.observed}, self.critic_of(settings)
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        latents = numbers_of_layers(settings.latent)
        networks, below = [], sizes["x"]
        for up, down, n in zip(*widths_of_layers(settings, len(latents)), latents, strict=True):
            networks += [(below, *up, n), (n, *down, below)]
            below = (below, *up)[-1]
        return networks + critic_widths(settings, sum(latents))

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        codes = [z[name] for name in self.coded]
        above = self.steps[-1](params, codes[-1])
        for f, join, own in zip(self.steps[-2::-1], self.joins[::-1], codes[-2::-1], strict=True):
            above = f(params, join(params, above, own))
        return {"x": self.observed(params, above)}
