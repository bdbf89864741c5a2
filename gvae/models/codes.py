"""Models whose codes are independent given the data: q(z_1, z_2, .. | data) = q_1(z_1 | .) q_2(z_2 | .) ..., and p(z) too.

A subclass constructs its parts in `build`: `coded`, the codes by name, and the networks of its `decode`. Initial parameters,
priors, noise, terms, draws from the model and unconstrained parameters are implemented here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import modes, random
from gvae.costs import Cost
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.families import Conditional, Family
from gvae.models import dreams
from gvae.models.base import Base
from gvae.models.corruption import Corruption
from gvae.models.parts import critic_widths, zeros
from gvae.nn import MLP, Tower
from gvae.objectives import Blanket, Layer, Terms, total
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["Code", "Codes"]

CRITIC = 1000  # the key of the critic's initial parameters


@dataclass
class Code:
    """A code: its encoder, the input of the encoder, and its prior.

    Parameters
    ----------
    encoder : Conditional
    reads : str or int, default "x"
        The encoder's input: a column of the data by its name, or a level of the model's tower by its index.
    prior : Family, optional
        None: the standard one of the posterior's family.

    Examples
    --------
    >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 3))
    >>> code = gvae.models.Code(encoder, prior=gvae.families.parse("ar1", 3))
    >>> code.reads, code.prior_name
    ('x', 'prior.raw')
    """

    encoder: Conditional
    reads: str | int = "x"
    prior: Family | None = None

    @property
    def prior_name(self) -> str:
        """Name of the prior's parameters: that of the encoder, with "prior" for "encoder".

        Examples
        --------
        >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 3))
        >>> code = gvae.models.Code(encoder, prior=gvae.families.parse("ar1", 3))
        >>> code.prior_name
        'prior.raw'
        """
        return self.encoder.name.replace("encoder", "prior") + ".raw"

    def of(self, seen: Mapping[str | int, Any], batch: Batch) -> Any:
        """The encoder's input.

        Parameters
        ----------
        seen : mapping of str or int to array
            What `Codes.read` returned.
        batch : Batch

        Returns
        -------
        array (..., inputs)

        Raises
        ------
        DataError
            The batch has no such column.

        Examples
        --------
        >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 3))
        >>> code = gvae.models.Code(encoder, prior=gvae.families.parse("ar1", 3))
        >>> batch = gvae.data.Batch({"x": np.eye(4)}, np.arange(4))
        >>> code.of({"x": batch.x}, batch) is batch.x
        True
        """
        return seen[self.reads] if self.reads in seen else getattr(batch, str(self.reads))

    def p(self, params: Params) -> Distribution | None:
        """The prior p(z).

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        Distribution or None
            None: the standard one.

        Examples
        --------
        >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 3))
        >>> code = gvae.models.Code(encoder, prior=gvae.families.parse("ar1", 3))
        >>> params = {"prior.raw": code.prior.start(gvae.random.key(0), np.float64)}
        >>> code.p(params)
        AR1Gaussian(batch_shape=(), n=3)
        >>> gvae.models.Code(encoder).p({}) is None
        True
        """
        return None if self.prior is None else self.prior(params[self.prior_name])


class Codes(Base):
    """A model whose codes are independent given the data.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`.

    Attributes
    ----------
    coded : mapping of str to Code
        The codes by name.
    decoders : tuple
        The networks of `decode`, whose initial parameters `init` includes.
    tower : Tower or None
        Features of x at several levels, which codes may read.
    corruption : Corruption or None
        The corruption of the x that encoders read in training steps.
    code_cost : Cost or None
        The cost of the codes where it is not their KL, see `gvae.costs`.
    critic : MLP or None
        Maps all codes, joined, to a number: the critic of `objectives.JensenShannon`.

    Examples
    --------
    >>> model = gvae.models.VAE(4, latent=2, posterior="chain")
    >>> isinstance(model, gvae.models.Codes), model.coded["z"].encoder.family
    (True, Cholesky('chain', n=2))
    """

    coded: Mapping[str, Code]
    decoders: tuple[Any, ...]
    tower: Tower | None = None
    corruption: Corruption | None = None
    code_cost: Cost | None = None
    critic: MLP | None = None

    def critic_of(self, settings: Any) -> MLP | None:
        """The critic of the codes, with the hidden layers that a setting `critic` asks for.

        Parameters
        ----------
        settings : object
            They have `critic`, widths or None, and `activation`.

        Returns
        -------
        MLP or None

        Examples
        --------
        >>> gvae.models.VAE(4, latent=2, critic=(5,)).critic.sizes
        (2, 5, 1)
        """
        widths = critic_widths(settings, sum(code.encoder.family.n for code in self.coded.values()))
        return MLP("critic", widths[0], settings.activation) if widths else None

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        encoders = *(code.encoder for code in self.coded.values()), *(() if self.tower is None else (self.tower,))
        decoders = tuple(part for part in self.decoders if hasattr(part, "masks"))
        # encoders read rows that are corrupted for each draw anew
        return (encoders, decoders) if self.corruption is None else ((), (*encoders, *decoders))

    @property
    def families_of_codes(self) -> tuple[Family, ...]:
        """The families of the posteriors of all codes.

        Examples
        --------
        >>> gvae.models.DLGM(784, latent=(4, 2), posterior="diagonal").families_of_codes
        (Diagonal('diagonal', n=4), Diagonal('diagonal', n=2))
        """
        return tuple(code.encoder.family for code in self.coded.values())

    @property
    def codes(self) -> Mapping[str, int]:
        """The codes by name, with their numbers of variables.

        Examples
        --------
        >>> gvae.models.DLGM(784, latent=(4, 2)).codes
        {'z1': 4, 'z2': 2}
        """
        return {name: code.encoder.family.n for name, code in self.coded.items()}

    @property
    def inference_order(self) -> tuple[str, ...]:
        """The names of all codes, private ones of views as well; none is inferred from another.

        Examples
        --------
        >>> gvae.models.VCCA({"x": 6, "y": 4}, latent=3, private=(2, 1)).inference_order
        ('z', 'h_x', 'h_y')
        """
        return tuple(self.coded)

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of encoders, decoders, tower, priors and critic.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,), prior="ar1")
        >>> sorted({name.partition(".")[0] for name in model.init(gvae.random.key(0))})
        ['decoder', 'encoder', 'prior']
        """
        trunk = () if self.tower is None else (self.tower,)
        parts = (*(code.encoder for code in self.coded.values()), *self.decoders, *trunk)
        params = {n: v for i, part in enumerate(parts) for n, v in part.init(random.fold_in(key, i), self.dtype).items()}
        for i, code in enumerate(self.coded.values(), len(parts)):
            if code.prior is not None:
                params[code.prior_name] = code.prior.start(random.fold_in(key, i), self.dtype)
        if self.critic is not None:
            params |= self.critic.init(random.fold_in(key, CRITIC), self.dtype)
        return params

    def prior_of(self, params: Params, name: str | None = None) -> Distribution:
        """The prior p(z) of a code.

        Parameters
        ----------
        params : mapping of str to array
        name : str, optional
            The code; None: the first.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.prior_of(params).variance()
        array([1., 1.], dtype=float32)
        """
        code = self.coded[next(iter(self.coded)) if name is None else name]
        family = code.encoder.family
        p = code.p(params)
        return family(zeros(family.n_params, self.dtype, params)).standard if p is None else p

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Draws of each code from its prior.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            (n, variables) of each code.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> z = model.sample_prior(params, gvae.random.key(1), 5)
        >>> z["z"].shape, model.decode(params, {}, z)["x"].mean.shape
        ((5, 2), (5, 4))
        """
        drawn = {}
        for name, own in self._keys(key).items():
            p = self.prior_of(params, name)
            drawn[name] = p.sample(p.noise(own, (n,)))
        return drawn

    @property
    def has_closed_kl(self) -> bool:
        """Whether KL(q ‖ p) has a closed form for every code; where it has none, the ELBO estimates it by sampling."""

        def standing(family: Family) -> Distribution:
            return family(np.zeros(family.n_params, self.dtype))

        codes = self.coded.values()
        return all(standing(c.encoder.family).kl(None if c.prior is None else standing(c.prior)) is not None for c in codes)

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """Noise of the draws of all codes, and of the corruption of x.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            By code, (K, B, variables); for a model with a corruption, "corruption" (K, B, D).

        Examples
        --------
        >>> model = gvae.models.Denoising(4, latent=2)
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> noise = model.noise(gvae.random.key(1), batch, samples=3)
        >>> {name: value.shape for name, value in noise.items()}
        {'z': (3, 4, 2), 'corruption': (3, 4, 4)}
        """
        shape, like = (samples, len(batch)), vars(batch).get("x")
        keys = self._keys(key)
        drawn = {name: code.encoder.family.noise(keys[name], shape, self.dtype, like) for name, code in self.coded.items()}
        if self.corruption is not None:
            own = random.fold_in(key, len(self.coded))
            drawn["corruption"] = self.corruption.noise(own, (samples, *batch.x.shape), self.dtype, like)
        return drawn

    def prior_noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        shape, like = (samples, len(batch)), vars(batch).get("x")
        return {
            name: dreams.noise_of_prior(code.prior, code.encoder.family, own, shape, self.dtype, like)
            for (name, code), own in zip(self.coded.items(), self._keys(key).values(), strict=True)
        }

    def _keys(self, key: Key) -> dict[str, np.ndarray]:
        """A key for each code; a single code has the key itself."""
        if len(self.coded) == 1:
            return dict.fromkeys(self.coded, key)
        return {name: random.fold_in(key, i) for i, name in enumerate(self.coded)}

    def read(self, params: Params, batch: Batch, noise: Any = None, step: Any = None) -> dict[str | int, Any]:
        """Inputs of the encoders: the columns by name, x corrupted in training steps, and the tower's features by level.

        Parameters
        ----------
        params : mapping of str to array
        batch : Batch
        noise : mapping of str to array, optional
            Needed in training steps of a model with a corruption.
        step : int, optional
            The number of a training step; None: x is not corrupted.

        Returns
        -------
        dict of str or int to array

        Examples
        --------
        >>> model = gvae.models.VLAE(4, latent=(2, 1), hidden=((5,), (3,)))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> seen = model.read(model.init(gvae.random.key(0)), batch)
        >>> seen["x"].shape, seen[0].shape, seen[1].shape
        ((4, 4), (4, 5), (4, 3))
        """
        found: dict[str | int, Any] = dict(vars(batch).items())
        if self.corruption is not None and step is not None:
            found["x"] = self.corruption(batch.x, noise["corruption"], step)
        if self.tower is not None:
            found |= enumerate(self.tower(params, found["x"]))
        return found

    def encode(self, params: Params, name: str, seen: Mapping[str | int, Any], batch: Batch) -> Distribution:
        """The distribution q of a code.

        Parameters
        ----------
        params : mapping of str to array
        name : str
            The code.
        seen : mapping of str or int to array
            What `read` returned.
        batch : Batch

        Returns
        -------
        Distribution

        Raises
        ------
        DataError
            The batch lacks the column that the code's encoder reads.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> model.encode(params, "z", model.read(params, batch), batch)
        BandedGaussian(batch_shape=(4,), n=2)
        """
        code = self.coded[name]
        return code.encoder(params, code.of(seen, batch))

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q of each code whose input column is in the batch.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Distribution
            By name of the code.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> q = model.code(params, {}, batch)["z"]
        >>> q, q.mean.shape
        (BandedGaussian(batch_shape=(4,), n=2), (4, 2))
        """
        there = self.read(params, batch)
        return {name: self.encode(params, name, there, batch) for name, code in self.coded.items() if code.reads in there}

    def posterior_given(self, params: Params, state: Arrays, batch: Batch, name: str, z: Arrays) -> Distribution:
        """The distribution q of a code, given those before it in `inference_order`.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        name : str
            The code.
        z : mapping of str to array
            Draws of the codes before it. Not used: codes are independent given the data.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> model.posterior_given(model.init(gvae.random.key(0)), {}, batch, "z", {}).mean.shape
        (4, 2)
        """
        return self.encode(params, name, self.read(params, batch), batch)

    def prior_given(self, params: Params, state: Arrays, name: str, z: Arrays) -> Distribution:
        """The distribution p of a code, given those after it in `inference_order`.

        Parameters
        ----------
        params, state : mapping of str to array
        name : str
            The code.
        z : mapping of str to array
            Draws of the codes after it. Not used: codes are independent.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,), prior="ar1")
        >>> model.prior_given(model.init(gvae.random.key(0)), {}, "z", {})
        AR1Gaussian(batch_shape=(), n=2)
        """
        return self.prior_of(params, name)

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """The distribution p(view | codes), by view.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            The codes by name, (..., variables).
        noise : mapping of str to array, optional
            As `noise` draws it, where decoding depends on a draw; None: decode without one.

        Returns
        -------
        dict of str to Distribution
            With the batch axes of z.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.decode(params, {}, {"z": np.zeros((5, 2), np.float32)})
        {'x': BernoulliDistribution(batch_shape=(5,), n=4)}
        """
        raise NotImplementedError

    def likelihood(self, views: Mapping[str, Distribution], batch: Batch) -> dict[str, Any]:
        """The log-likelihood log p(view | codes) of each view.

        Parameters
        ----------
        views : mapping of str to Distribution
            What `decode` returned.
        batch : Batch

        Returns
        -------
        dict of str to array (K, B)
            Nats.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> views = model.decode(params, {}, {"z": np.zeros((3, 4, 2), np.float32)})
        >>> model.likelihood(views, batch)["x"].shape
        (3, 4)
        """
        return {name: p.log_prob(getattr(batch, name)) for name, p in views.items()}

    def weighted(self, likelihood: dict[str, Any], step: Any) -> dict[str, Any]:
        """The log-likelihoods with the weights that views have in training steps.

        Parameters
        ----------
        likelihood : dict of str to array (K, B)
            What `likelihood` returned.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        dict of str to array (K, B)
            The same, unless a subclass gives views weights.

        Examples
        --------
        >>> gvae.models.VCCA({"x": 2, "y": 2}, latent=1, weight_y=0.5).weighted({"x": -3.0, "y": -4.0}, 0)
        {'x': -3.0, 'y': -2.0}
        """
        return likelihood

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The log-likelihood of each view, and q, p and draw of each code.

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
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=3))
        >>> terms.log_likelihood["x"].shape, terms.layers[0].kl.shape
        ((3, 4), (4,))
        """
        params = modes.in_step(params, noise, step)
        seen = self.read(params, batch, noise, step)
        q: dict[str, Distribution] = {}
        z: dict[str, Any] = {}
        for name in self.coded:
            q[name] = self.encode(params, name, seen, batch)
            z[name] = q[name].sample(noise[name])
        views = self.decode(params, state, z, noise)
        unweighted = self.likelihood(views, batch)
        likelihood = self.weighted(unweighted, step)

        def blanket() -> Blanket:  # codes are independent under p and q
            return Blanket(total(likelihood))

        layers = []
        for name, code in self.coded.items():
            layer = Layer(q[name], code.p(params), z[name], noise[name], name=name, blanket=blanket)
            layer.again = self._again(params, name, batch, noise, step)
            layers.append(layer)
        inference = tuple(code.encoder.name for code in self.coded.values())
        inference += () if self.tower is None else (self.tower.name,)
        about: dict[str, Any] = {"inference": inference, "conditional": self.conditional, "cost": self.code_cost}
        about["joint"] = self.is_joint(params)
        if self.conditional:  # z is drawn from a part of the model, and the weight of a draw is p(y|z)
            about["weights"] = total(likelihood)

        def likelihood_at(draws: list[Any]) -> Any:
            moved = self.decode(params, state, dict(zip(self.coded, draws, strict=True)), noise)
            return total(self.weighted(self.likelihood(moved, batch), step))

        about["likelihood_at"] = likelihood_at
        if dreams.has_dreams(noise):
            about["dream"] = lambda: dreams.log_q(self, params, state, batch, dreams.dream(self, params, state, noise))
        critic = self.critic
        if critic is not None:
            about["critic"] = lambda z: critic(params, z)[..., 0]
        if likelihood is not unweighted:
            about["unweighted"] = unweighted
        return Terms(likelihood, layers, views=views, **about)

    def _again(self, params: Params, name: str, batch: Batch, noise: Noise, step: Any) -> Any:
        """See `Layer`; None for a single code, which needs none."""
        if len(self.coded) == 1:
            return None

        def again(f: Any, g: Any) -> Distribution:
            own = modes.changed(params, f)
            return self.encode(own, name, self.read(own, batch, noise, step), batch)

        return again

    def generate(self, params: Params, state: Arrays, noise: Noise) -> Terms:
        """The model without q: each code is drawn from its prior, and decoded.

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
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> terms = model.generate(params, {}, model.noise(gvae.random.key(1), batch))
        >>> terms.layers[0].z.shape, terms.views["x"].mean.shape
        ((1, 4, 2), (1, 4, 4))
        """
        p = {name: self.prior_of(params, name) for name in self.coded}
        z = {name: p[name].sample(noise[name]) for name in p}
        layers = [Layer(p[n], p[n], z[n], noise[n], name=n) for n in p]
        return Terms({}, layers, views=self.decode(params, state, z, noise))

    def raw(self, params: Params, state: Arrays, batch: Batch) -> dict[str, np.ndarray]:
        """The unconstrained parameters of q(z|x), shared ones included, by name.

        Where `params` have arrays of these names, `terms` takes those for q.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to array
            (B, ..) of each code whose input column is in the batch.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: value.shape for name, value in model.raw(params, {}, batch).items()}
        {'encoder.raw': (4, 5)}
        """
        seen = self.read(params, batch)
        coded = (code for code in self.coded.values() if code.reads in seen)
        return {f"{code.encoder.name}.raw": code.encoder.raw(params, code.of(seen, batch)) for code in coded}
