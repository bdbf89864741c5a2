"""The ladder variational autoencoder: inference from the top layer down, in which each layer merges data and prior.

    upwards    d_1 = trunk_1(x), d_l = trunk_l(d_(l-1)),   q^_l = posterior_l(encoder_l(d_l))
    downwards  q(z_L | x) = q^_L,   q(z_l | z_(l+1), x) = q^_l p_l(z_l | z_(l+1)) / normalisation
    model      z_L ~ p(z_L),   z_l | z_(l+1) ~ p_l(decoder_l(z_(l+1))),   x | z_1 ~ observation(decoder_0(z_1))

The merge is `gvae.distributions.product`: precisions add, for banded Gaussians too. Given z_(l+1) both q and
p of layer l are known, so that all KLs have their closed form, unlike those of a hierarchy inferred upwards.

Source: Sønderby, Raiko, Maaløe, Sønderby and Winther (2016). Errata: q's deviation is the root of the merged variance; the
generative pass is from the top down; every q is conditioned on x as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from gvae import families, modes, random, settings
from gvae.data import Batch
from gvae.distributions import Distribution, product
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import hierarchical
from gvae.models.hierarchical import Hierarchical
from gvae.models.parts import each_layer, known_observation, numbers_of_layers, plain_style, style, widths_of_layers
from gvae.nn import Tower
from gvae.objectives import Layer, Terms
from gvae.settings import YesNo, restated, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["Ladder"]

TRUNK = 2000  # the key of the trunk's initial parameters


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a ladder of codes."""

    latent: int | tuple[int, ...] = restated(hierarchical.Settings, "latent", default=(64, 32, 16, 8, 4), kw_only=False)
    posterior: str | Family = restated(
        hierarchical.Settings,
        "posterior",
        default="diagonal",
        help="family of q^(z_l), inferred from the data, one for all layers or one for each: diagonal, chain, band:3, ar1",
        kw_only=False,
    )
    observation: str | Family = restated(hierarchical.Settings, "observation", default="auto", kw_only=False)
    hidden: tuple[Any, ...] = restated(
        hierarchical.Settings,
        "hidden",
        default=(200, 200),
        help="widths of each level of the network upwards: flat for all levels, or nested, one for each",
        kw_only=False,
    )
    activation: str = restated(hierarchical.Settings, "activation", default="leaky_relu", kw_only=False)
    prior: str | Family | None = restated(hierarchical.Settings, "prior", default=None)
    decoder_hidden: tuple[Any, ...] | None = restated(hierarchical.Settings, "decoder_hidden", default=None)
    between: Any = restated(hierarchical.Settings, "between", default="diagonal")
    start: str = restated(hierarchical.Settings, "start", default="calm")
    output_bias: str = restated(hierarchical.Settings, "output_bias", default="data")
    normalize: str | None = restated(hierarchical.Settings, "normalize", default="batch")
    dropout: float = restated(hierarchical.Settings, "dropout", default=0.0)
    share: bool = setting(
        default=True,
        help="whether inference merges with the prior p(z_l | z_(l+1)) itself; False: with the output of a separate network",
        kind=YesNo(),
    )


class Ladder(Hierarchical):
    """A ladder of stochastic layers, inferred from the top down.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.LadderVAE`.

    Raises
    ------
    ConfigError
        Families that have no product of their kind; a level without hidden layers.

    Examples
    --------
    >>> model = gvae.models.Ladder(784, latent=(8, 4), hidden=((200,), (100, 50)), posterior="chain")
    >>> [level.sizes for level in model.tower.levels], [encoder.network.sizes for encoder in model.encoders]
    ([(784, 200), (200, 100, 50)], [(200, 23), (50, 11)])
    """

    Settings = Settings
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, shared = self.sizes["x"], style(settings)
        latents, prior = numbers_of_layers(settings.latent), settings.prior
        L = len(latents)
        up, down = widths_of_layers(settings, L)
        if () in up:
            raise ConfigError("Ladder: hidden has a level without layers, expected at least one width for each level")
        posteriors = each_layer("posterior", settings.posterior, L)
        self.posteriors = [families.parse(f, n, "posterior") for f, n in zip(posteriors, latents, strict=True)]
        between = [
            families.parse(f, n, "between")
            for f, n in zip(each_layer("between", settings.between, L - 1), latents[:-1], strict=True)
        ]
        for q, p in zip(self.posteriors, between, strict=False):
            product(*(family(np.zeros(family.n_params, self.dtype)) for family in (q, p)))  # raises where there is none
        self.prior = None if prior is None else families.parse(prior, latents[-1], "prior", self.posteriors[-1])
        self.tower = Tower("trunk", n_inputs, up, **plain_style(settings))
        self.encoders = [
            Conditional(f"encoder{i + 1}", up[i][-1], family, (), **shared) for i, family in enumerate(self.posteriors)
        ]
        observation = families.parse(known_observation(settings.observation), n_inputs, "observation")
        self.decoders = [
            Conditional(f"decoder{i}", n, family, down[i], **shared)
            for i, (n, family) in enumerate(zip(latents, (observation, *between), strict=True))
        ]
        self.merged = self.decoders  # what inference merges with, from layer 1 on
        if not settings.share:
            self.merged = [
                Conditional(f"merged{i}", n, family, down[i], **shared)
                for i, (n, family) in enumerate(zip(latents, (observation, *between), strict=True))
            ]
        self.encoder, self.decoder, self.posterior = self.encoders[0], self.decoders[0], self.posteriors[0]
        self.baselines, self.emitters = {}, {"x": self.decoder}
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        networks, below, above = [], sizes["x"], sizes["x"]
        latents = numbers_of_layers(settings.latent)
        for up, down, n in zip(*widths_of_layers(settings, len(latents)), latents, strict=True):
            networks += [(below, *up, n), (n, *down, above)]
            below, above = (below, *up)[-1], n
        return networks

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        own = () if self.merged is self.decoders else tuple(self.merged[1:])
        return (self.tower, *self.encoders), (*self.decoders, *own)

    @property
    def inference_order(self) -> tuple[str, ...]:
        """The codes from the top layer down: so they are inferred, and so they are generated.

        Examples
        --------
        >>> gvae.models.Ladder(784, latent=(8, 4), hidden=(20,)).inference_order
        ('z2', 'z1')
        """
        return tuple(f"z{i + 1}" for i in reversed(range(len(self.encoders))))

    generation_order = inference_order

    @property
    def has_closed_kl(self) -> bool:
        """Whether the KL of every layer has a closed form, given a draw of the layer above."""

        def standing(family: Family) -> Distribution:
            return family(np.zeros(family.n_params, self.dtype))

        q, p = list(map(standing, self.posteriors)), [standing(decoder.family) for decoder in self.decoders[1:]]
        merged = [product(a, b).kl(b) for a, b in zip(q, p, strict=False)]
        return all(kl is not None for kl in (*merged, q[-1].kl(None if self.prior is None else standing(self.prior))))

    def init(self, key: Key) -> dict[str, np.ndarray]:
        params = super().init(key) | self.tower.init(random.fold_in(key, TRUNK), self.dtype)
        if self.merged is not self.decoders:
            for i, part in enumerate(self.merged[1:]):
                params |= part.init(random.fold_in(key, TRUNK, i + 1), self.dtype)
        return params

    def _q(self, params: Params, i: int, features: Any, p: Distribution | None, above: Any) -> Distribution:
        """q of layer i, counted from 0, given the features of the data at its level, p_i, and z of the layer above."""
        says = self.encoders[i](params, features)
        if i + 1 == len(self.encoders):
            return says
        return product(says, p if p is not None and self.merged is self.decoders else self.merged[i + 1](params, above))

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q(z_L | x), and q(z_l | z_(l+1), x) at the mean of the layer above.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Distribution
            "z1", "z2", ..: of each layer.

        Examples
        --------
        >>> model = gvae.models.Ladder(4, latent=(3, 2), hidden=(5,))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: q.mean.shape for name, q in model.code(model.init(gvae.random.key(0)), {}, batch).items()}
        {'z1': (4, 3), 'z2': (4, 2)}
        """
        features = self.tower(params, batch.x)
        found: dict[str, Distribution] = {}
        above: Any = None
        for i in reversed(range(len(self.encoders))):
            found[f"z{i + 1}"] = self._q(params, i, features[i], None, above)
            above = found[f"z{i + 1}"].shown
        return dict(reversed(found.items()))

    def posterior_given(self, params: Params, state: Arrays, batch: Batch, name: str, z: Arrays) -> Distribution:
        """The distribution q(z_l | z_(l+1), x), or q(z_L | x).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        name : str
            "z1", "z2", ..
        z : mapping of str to array
            A draw of the layer above.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.Ladder(4, latent=(3, 2), hidden=(5,))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> z = {"z2": np.zeros((4, 2), np.float32)}
        >>> model.posterior_given(model.init(gvae.random.key(0)), {}, batch, "z1", z).mean.shape
        (4, 3)
        """
        i = int(name[1:]) - 1
        return self._q(params, i, self.tower(params, batch.x)[i], None, z.get(f"z{i + 2}"))

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        params = modes.in_step(params, noise, step)
        features = self.tower(params, batch.x)
        layers: list[Layer] = []
        p: Any = None if self.prior is None else self.prior(params["prior.raw"])
        above: Any = None
        for i in reversed(range(len(self.encoders))):
            name = f"z{i + 1}"
            q = self._q(params, i, features[i], p, above)
            z = q.sample(noise[name])
            layer = Layer(q, p, z, noise[name], name=name)
            layer.again = partial(self._again_of, params, i, batch, above)
            layers.insert(0, layer)
            p, above = self.decoders[i](params, z), z  # p(z_(l-1) | z_l), at last p(x | z_1)
        inference = self.tower.name, *(encoder.name for encoder in self.encoders)
        entangled = len(self.encoders) > 1 and self.merged is self.decoders
        if not entangled:
            inference += tuple(part.name for part in self.merged[1:])
        return Terms(
            {"x": p.log_prob(batch.x)},
            layers,
            inference=inference,
            views={"x": p},
            entangled=entangled,
            joint=self.is_joint(params),
        )

    def _again_of(self, params: Params, i: int, batch: Batch, above: Any, f: Any, g: Any) -> Distribution:
        own = modes.changed(params, f)
        return self._q(own, i, self.tower(own, batch.x)[i], None, None if above is None else g(above))
