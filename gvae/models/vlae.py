"""The variational ladder autoencoder: flat codes, inferred and decoded by networks of growing depth.

    h_0 = x,   h_l = g_l(h_(l-1)),   q(z_l | x) = posterior_l(head_l(h_l)), independent given x,   z_l ~ N(0, I)
    zt_L = f_L(z_L),   zt_l = f_l(zt_(l+1), z_l),   x ~ observation(f_0(zt_1))

What a code can hold follows from how deep the networks are that lead to it; no code is drawn from another. Source: Zhao,
Song and Ermon (2017), "Learning hierarchical features from deep generative models". The variational lossy autoencoder, which
is also abbreviated so, is another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import families, settings
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import hierarchical, vae
from gvae.models.codes import Code, Codes
from gvae.models.parts import each_layer, known_observation, numbers_of_layers, widths_of_layers
from gvae.nn import MLP, Tower
from gvae.ops import arrays, elementwise
from gvae.settings import Choice, restated, setting

__all__ = ["VLAE"]

GATE = 0.1  # where gates start, as in the released code


@settings.group("model")
class Settings(settings.Settings):
    """Those of a variational ladder autoencoder."""

    latent: int | tuple[int, ...] = restated(
        hierarchical.Settings,
        "latent",
        default=(2, 2, 2),
        help="variables of each level's code, from the data upwards",
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
        help="how a code joins what comes from above: concat, beside it; gate, added times a learned gate, 0.1 at the start",
        kind=Choice("concat", "gate"),
    )
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")


class Join:
    """What f_l reads of zt_(l+1) (..., width) and z_l (..., n): both side by side, or zt + gate * lift(z).

    width : of what comes from above          n_outputs : of what f_l reads
    """

    def __init__(self, name: str, width: int, n: int, combine: str):
        self.name, self.width, self.gated = name, width, combine == "gate"
        self.n_outputs = width if self.gated else width + n
        self.lift = MLP(f"{name}.lift", (n, width))

    def init(self, key: np.ndarray, dtype: Any) -> dict[str, np.ndarray]:
        if not self.gated:
            return {}
        return self.lift.init(key, dtype) | {f"{self.name}.gate": np.full(self.width, GATE, dtype)}

    def __call__(self, params: Mapping[str, Any], above: Any, z: Any) -> Any:
        if not self.gated:
            return arrays.concatenate([above, z], axis=-1)
        return elementwise.add(above, elementwise.multiply(self.lift(params, z), params[f"{self.name}.gate"]))


class VLAE(Codes):
    """A variational ladder autoencoder. Settings: see gvae.VLAE."""

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings):
        n_inputs, activation, start = self.sizes["x"], settings.activation, settings.start
        latents = numbers_of_layers(settings.latent)
        L = len(latents)
        widths, mirrored = widths_of_layers(settings, L)
        if () in widths:
            raise ConfigError("VLAE: hidden has a level without layers, expected at least one width for each level")
        self.tower = Tower("trunk", n_inputs, widths, activation)
        posteriors = each_layer("posterior", settings.posterior, L)
        self.coded = {
            f"z{i + 1}": Code(
                Conditional(f"encoder{i + 1}", widths[i][-1], families.parse(text, n), (), activation, start), reads=i
            )
            for i, (text, n) in enumerate(zip(posteriors, latents, strict=True))
        }
        self.joins = [Join(f"join{i + 1}", mirrored[i + 1][-1], latents[i], settings.combine) for i in range(L - 1)]
        reads = [join.n_outputs for join in self.joins] + [latents[-1]]
        self.steps = [  # f_1 .. f_L
            MLP(f"decoder{i + 1}", (n, *w), activation, activation)
            for i, (n, w) in enumerate(zip(reads, mirrored, strict=True))
        ]
        observation = families.parse(known_observation(settings.observation), n_inputs)
        self.observed = Conditional("decoder0", mirrored[0][-1], observation, (), activation, start)  # f_0
        self.decoders = (self.observed, *self.steps, *self.joins)
        self.emitters = {"x": self.observed}

    @classmethod
    def layers(cls, settings, sizes):
        latents = numbers_of_layers(settings.latent)
        networks, below = [], sizes["x"]
        for up, down, n in zip(*widths_of_layers(settings, len(latents)), latents, strict=True):
            networks += [(below, *up, n), (n, *down, below)]
            below = (below, *up)[-1]
        return networks

    def decode(self, params: Any, state: Any, z: Mapping[str, Any], noise: Any = None) -> dict[str, Distribution]:
        codes = [z[name] for name in self.coded]
        above = self.steps[-1](params, codes[-1])
        for f, join, own in zip(self.steps[-2::-1], self.joins[::-1], codes[-2::-1], strict=True):
            above = f(params, join(params, above, own))
        return {"x": self.observed(params, above)}
