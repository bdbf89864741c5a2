"""Several stochastic layers, inferred from the data upwards, with any family in each.

    z_L ~ p(z_L),   z_l | z_(l+1) ~ p_l(decoder_l(z_(l+1))),   x | z_1 ~ observation(decoder_0(z_1))
    q(z_1 | x) = posterior_1(encoder_1(x)),   q(z_l | z_(l-1)) = posterior_l(encoder_l(z_(l-1)))

Source: Burda, Grosse and Salakhutdinov (2016), section 3 (two layers of diagonal Gaussians).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gvae import families, modes, random, settings
from gvae.autodiff import stop_gradient
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import dreams, vae
from gvae.models.base import Base
from gvae.models.parts import (
    each_layer,
    known_observation,
    network_widths,
    numbers_of_layers,
    style,
    widths_of_layers,
    zeros,
)
from gvae.nn import MLP
from gvae.objectives import Blanket, Layer, Terms
from gvae.settings import Families, Layers, Maybe, Widths, restated, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["Hierarchical"]

BASELINES = 1000  # the key of the baselines' initial parameters


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a hierarchy of codes."""

    latent: int | tuple[int, ...] = setting(
        default=(100, 50), help="number of variables of each layer, from the data upwards", kind=Layers(), kw_only=False
    )
    posterior: str | Family = setting(
        default="diagonal",
        help="family of q(z_l | .), one for all layers or one for each: diagonal, chain, band:3, ...",
        kind=Families(several=True),
        kw_only=False,
    )
    observation: str | Family = restated(vae.Settings, "observation", default="auto", kw_only=False)
    hidden: tuple[Any, ...] = setting(
        default=(200, 200),
        help="widths of each encoder's hidden layers: flat for all layers, or nested, one for each",
        kind=Widths(nested=True),
        kw_only=False,
    )
    activation: str = restated(vae.Settings, "activation", default="elu", kw_only=False)
    prior: str | Family | None = restated(vae.Settings, "prior", default=None)
    decoder_hidden: tuple[Any, ...] | None = setting(
        default=None,
        help="widths of the decoders' hidden layers; None: each mirrors its encoder",
        kind=Maybe(Widths(nested=True)),
    )
    between: Any = setting(
        default="diagonal",
        help="family of p(z_l | z_(l+1)), one for all or one for each but the last layer",
        kind=Families(several=True),
    )
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(vae.Settings, "dropout", default=0.0)
    baseline: tuple[int, ...] | None = setting(
        default=None,
        help="widths of the hidden layers of networks that predict the bound, to be subtracted from the signals of layers "
        "whose draws are not differentiable",
        kind=Maybe(Widths()),
    )


class Hierarchical(Base):
    """A hierarchy of stochastic layers, inferred from the data upwards, with any family in each.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.HierarchicalVAE`.

    Examples
    --------
    >>> model = gvae.models.Hierarchical(784, latent=(20, 5), hidden=((200,), (50,)), posterior="chain")
    >>> [encoder.network.sizes for encoder in model.encoders]
    [(784, 200, 59), (20, 50, 14)]
    """

    Settings: ClassVar[Any] = Settings
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, shared = self.sizes["x"], style(settings)
        latents, prior = numbers_of_layers(settings.latent), settings.prior
        L = len(latents)
        up, down = widths_of_layers(settings, L)
        posteriors = each_layer("posterior", settings.posterior, L)
        self.posteriors = [families.parse(f, n, "posterior") for f, n in zip(posteriors, latents, strict=True)]
        between = zip(each_layer("between", settings.between, L - 1), self.posteriors, strict=False)
        emitted = [families.parse(known_observation(settings.observation), n_inputs, "observation")]
        emitted += [families.parse(family, q.n, "between", q) for family, q in between]
        self.prior = None if prior is None else families.parse(prior, latents[-1], "prior", self.posteriors[-1])
        inputs = n_inputs, *latents[:-1]  # the inputs of the encoders
        self.encoders = [
            Conditional(f"encoder{i + 1}", n, family, up[i], **shared)
            for i, (n, family) in enumerate(zip(inputs, self.posteriors, strict=True))
        ]
        self.decoders = [
            Conditional(f"decoder{i}", n, family, down[i], **shared)
            for i, (n, family) in enumerate(zip(latents, emitted, strict=True))
        ]
        self.baselines: dict[int, MLP] = {}  # by layer
        if settings.baseline is not None:
            given = [family(np.zeros(family.n_params, self.dtype)) for family in self.posteriors]
            pathless = [i for i, q in enumerate(given) if q.path is None]
            if not pathless:
                advice = "take posterior='bernoulli'"
                raise ConfigError(
                    f"baseline: it is for draws that are not differentiable, but those of all layers are: {advice}"
                )
            for i in pathless:
                self.baselines[i] = MLP(f"baseline.{i + 1}", (inputs[i], *settings.baseline, 1), settings.activation)
        # the layer next to the data: codes are those of z_1
        self.encoder, self.decoder, self.posterior = self.encoders[0], self.decoders[0], self.posteriors[0]
        self.emitters = {"x": self.decoder}
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return network_widths(settings, numbers_of_layers(settings.latent), sizes["x"])

    @property
    def inference_order(self) -> tuple[str, ...]:
        return tuple(f"z{i + 1}" for i in range(len(self.encoders)))

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return (self.encoder,), (*self.encoders[1:], *self.decoders)

    @property
    def families_of_codes(self) -> tuple[Family, ...]:
        return tuple(self.posteriors)

    @property
    def codes(self) -> Mapping[str, int]:
        """The codes next to the data, z_1, with their number of variables.

        Examples
        --------
        >>> gvae.models.Hierarchical(784, latent=(20, 5)).codes
        {'z1': 20}
        """
        return {"z1": self.posterior.n}

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of all encoders and decoders, and of the prior if it is learned.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> params = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,)).init(gvae.random.key(0))
        >>> sorted({name.partition(".")[0] for name in params})
        ['decoder0', 'decoder1', 'encoder1', 'encoder2']
        """
        params: dict[str, np.ndarray] = {}
        for i, part in enumerate((*self.encoders, *self.decoders)):
            params |= part.init(random.fold_in(key, i), self.dtype)
        if self.prior is not None:
            n = len(self.encoders) + len(self.decoders)
            params["prior.raw"] = self.prior.start(random.fold_in(key, n), self.dtype)
        for i, network in self.baselines.items():
            params |= network.init(random.fold_in(key, BASELINES, i), self.dtype)
        return params

    def prior_of(self, params: Params) -> Distribution:
        """The prior of the top layer, p(z_L).

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.prior_of(params).n
        2
        """
        if self.prior is not None:
            return self.prior(params["prior.raw"])
        last = self.posteriors[-1]
        return last(zeros(last.n_params, self.dtype, params)).standard

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Draws of z_1, from the top layer down.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            "z1", (n, latent[0]).

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> z = model.sample_prior(params, gvae.random.key(1), 5)
        >>> z["z1"].shape, model.decode(params, {}, z)["x"].mean.shape
        ((5, 3), (5, 4))
        """
        p = self.prior_of(params)
        z = p.sample(p.noise(random.fold_in(key, 0), (n,)))
        for i in reversed(range(1, len(self.decoders))):
            p = self.decoders[i](params, z)
            z = p.sample(p.noise(random.fold_in(key, i)))
        return {"z1": z}

    @property
    def has_closed_kl(self) -> bool:
        """Whether the KL of all layers has a closed form: with one layer only, as p(z_l) depends on a draw of z_(l+1)."""
        q = self.posterior(np.zeros(self.posterior.n_params, self.dtype))
        p = None if self.prior is None else self.prior(np.zeros(self.prior.n_params, self.dtype))
        return len(self.posteriors) == 1 and q.kl(p) is not None

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """Noise of the draws of all layers.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            "z1", "z2", ..: (K, B, variables) of each layer.

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: value.shape for name, value in model.noise(gvae.random.key(1), batch, samples=6).items()}
        {'z1': (6, 4, 3), 'z2': (6, 4, 2)}
        """
        shape, like = (samples, len(batch)), vars(batch).get("x")
        return {
            f"z{i + 1}": family.noise(random.fold_in(key, i), shape, self.dtype, like)
            for i, family in enumerate(self.posteriors)
        }

    def prior_noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        shape, like = (samples, len(batch)), vars(batch).get("x")
        priors = [*(decoder.family for decoder in self.decoders[1:]), self.prior]
        return {
            f"z{i + 1}": dreams.noise_of_prior(p, q, random.fold_in(key, i), shape, self.dtype, like)
            for i, (p, q) in enumerate(zip(priors, self.posteriors, strict=True))
        }

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q(z_1 | x), and q(z_(l+1) | z_l) at the mean of the layer below.

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
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> q = model.code(params, {}, batch)
        >>> q["z1"].mean.shape, q["z2"].mean.shape
        ((4, 3), (4, 2))
        """
        found: dict[str, Distribution] = {}
        below = batch.x
        for i, encoder in enumerate(self.encoders):
            found[f"z{i + 1}"] = encoder(params, below)
            below = found[f"z{i + 1}"].shown
        return found

    def posterior_given(self, params: Params, state: Arrays, batch: Batch, name: str, z: Arrays) -> Distribution:
        """The distribution q(z_l | z_(l-1)), or q(z_1 | x).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        name : str
            "z1", "z2", ..
        z : mapping of str to array
            A draw of the layer below.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.posterior_given(params, {}, None, "z2", {"z1": np.zeros((7, 3), np.float32)}).mean.shape
        (7, 2)
        """
        i = self.inference_order.index(name)
        return self.encoders[i](params, z[self.inference_order[i - 1]] if i else batch.x)

    def prior_given(self, params: Params, state: Arrays, name: str, z: Arrays) -> Distribution:
        """The distribution p(z_l | z_(l+1)), or p(z_L).

        Parameters
        ----------
        params, state : mapping of str to array
        name : str
            "z1", "z2", ..
        z : mapping of str to array
            A draw of the layer above.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.prior_given(params, {}, "z1", {"z2": np.zeros((7, 2), np.float32)}).mean.shape
        (7, 3)
        """
        i = int(name[1:])
        return self.prior_of(params) if i == len(self.decoders) else self.decoders[i](params, z[f"z{i + 1}"])

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """The distribution p(x | z_1).

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            "z1", (..., latent[0]).
        noise : mapping of str to array, optional
            Not used.

        Returns
        -------
        dict of str to Distribution
            "x".

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.decode(params, {}, {"z1": np.zeros((5, 3), np.float32)})
        {'x': BernoulliDistribution(batch_shape=(5,), n=4)}
        """
        return {"x": self.decoder(params, z["z1"])}

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The log-likelihood of x, and q, p and draw of each layer.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        Terms
            See `gvae.objectives`.

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=6))
        >>> [(layer.z.shape, layer.coupled) for layer in terms.layers]
        [((6, 4, 3), True), ((6, 4, 2), False)]
        """
        params = modes.in_step(params, noise, step)
        z: list[Any] = [batch.x]  # z[l] is z_l, and z_0 is x
        q = []
        for i, encoder in enumerate(self.encoders):
            q.append(encoder(params, z[i]))
            z.append(q[i].sample(noise[f"z{i + 1}"]))
        x, *p = [decoder(params, above) for decoder, above in zip(self.decoders, z[1:], strict=True)]
        top = None if self.prior is None else self.prior(params["prior.raw"])
        likelihood = x.log_prob(batch.x)

        def blanket(i: int, above: tuple[Layer, ...]) -> Blanket:
            # z_i enters the layer below it and, through the draws of q, all layers above. The layer below has this one in
            # its own blanket: referring to it would be a cycle, which keeps arrays in memory until a garbage collection
            return Blanket(prior=p[i - 1].log_prob(z[i]), layers=above) if i else Blanket(likelihood, layers=above)

        layers: tuple[Layer, ...] = ()
        for i, name in reversed([*enumerate(self.inference_order)]):
            layer = Layer(q[i], p[i] if i < len(p) else top, z[i + 1], noise[name], coupled=i < len(p), name=name)
            layer.again = partial(self._again, params, i, z[i])
            layer.blanket = partial(blanket, i, layers)
            if step is not None and i in self.baselines:
                layer.baseline = self.baselines[i](params, stop_gradient(z[i]))[..., 0]
            layers = (layer, *layers)
        inference = tuple(encoder.name for encoder in self.encoders)
        dream = None
        if dreams.has_dreams(noise):
            dream = lambda: dreams.log_q(self, params, state, batch, dreams.dream(self, params, state, noise))  # noqa: E731
        about: dict[str, Any] = {"views": {"x": x}, "dream": dream, "joint": self.is_joint(params)}
        return Terms({"x": likelihood}, list(layers), inference=inference, **about)

    def _again(self, params: Params, i: int, below: Any, f: Any, g: Any) -> Distribution:
        return self.encoders[i](modes.changed(params, f), g(below))

    def generate(self, params: Params, state: Arrays, noise: Noise) -> Terms:
        """The model without q: the layers are drawn from their priors, from the top down.

        Parameters
        ----------
        params, state : mapping of str to array
        noise : mapping of str to array
            As `noise` draws it.

        Returns
        -------
        Terms
            The q of each layer is its prior, `views` are p(view | z), and there is no log_likelihood.

        Examples
        --------
        >>> model = gvae.models.Hierarchical(4, latent=(3, 2), hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> terms = model.generate(params, {}, model.noise(gvae.random.key(1), batch))
        >>> terms.layers[0].z.shape, terms.views["x"].mean.shape
        ((1, 4, 3), (1, 4, 4))
        """
        p: Any = self.prior_of(params)
        layers: list[Layer] = []
        for i in reversed(range(len(self.decoders))):  # from the top down
            z = p.sample(noise[f"z{i + 1}"])
            layers.insert(0, Layer(p, p, z, noise[f"z{i + 1}"], name=f"z{i + 1}"))
            p = self.decoders[i](params, z)
        return Terms({}, layers, views={"x": p})
