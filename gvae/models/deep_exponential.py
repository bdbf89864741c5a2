"""Deep exponential families: counts explained by layers of gamma variables, bits or counts.

    z_L ~ p(z_L),   z_l | z_(l+1) ~ p(z_l; W_l z_(l+1)),   x_d | z_1 ~ Poisson(W_0d . z_1)

    gamma     z ~ Gamma(shape, mean u): sparse for shapes below 1
    sigmoid   z ~ Bernoulli(sigmoid(u))
    poisson   z ~ Poisson(u)

with u = W z, or softplus(W z) for gamma variables and counts where W is normal. W_0 is gamma in any case. Bits and counts
may all be 0: there a unit that is always 1 joins each layer, and one above the top. The posterior q is a product over all
units of all rows and all weights, in the families of the prior; rows have parameters of their own, or an encoder.

Source: Ranganath, Tang, Charlin and Blei (2015). Their density of a gamma layer has + shape log rate (misprinted as -).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import families, ops, random, settings
from gvae.data import Batch
from gvae.distributions import Distribution, PoissonProduct
from gvae.families import Conditional
from gvae.models import vae
from gvae.models.base import Base
from gvae.models.matrices import Matrix, in_units, natural, started
from gvae.models.parts import numbers_of_layers, shared_by
from gvae.models.stacks import KINDS, Stack
from gvae.objectives import SHARED, Blanket, Layer, Terms
from gvae.objectives.score import mean_of_rows
from gvae.ops import arrays
from gvae.settings import Choice, Layers, Maybe, Number, Widths, YesNo, restated, setting
from gvae.typing import Array, Arrays, Key, Noise, Params

__all__ = ["DEF", "Settings"]


@settings.group("model")
class Settings(settings.Settings):
    """Settings of deep exponential families."""

    latent: int | tuple[int, ...] = setting(
        default=(100, 30, 15), help="units of each layer, from the data upwards", kind=Layers(), kw_only=False
    )
    kind: str = setting(
        default="gamma",
        help="family of the units; gamma:score leaves out the derivative through gamma draws",
        kind=Choice(*KINDS),
        kw_only=False,
    )
    weights: str | None = setting(
        default=None,
        help="family of the weights of the layers above the first; None: normal for sigmoid, else gamma",
        kind=Maybe(Choice("gamma", "normal")),
    )
    shape: float = setting(default=0.1, help="shape of gamma units, at the top as well", kind=Number())
    top_mean: float = setting(default=1.0, help="mean of gamma units at the top", kind=Number())
    weight_shape: float = setting(default=0.1, help="shape of the prior of gamma weights", kind=Number())
    weight_mean: float = setting(default=1 / 3, help="mean of the prior of gamma weights", kind=Number())
    weight_scale: float = setting(default=1.0, help="standard deviation of the prior of normal weights", kind=Number())
    amortized: bool = setting(
        default=False, help="infer rows by encoders of the counts; otherwise each row has parameters", kind=YesNo()
    )
    hidden: tuple[int, ...] = setting(default=(200,), help="widths of the encoders' hidden layers", kind=Widths())
    activation: str = restated(vae.Settings, "activation", default="elu")
    weight_draws: str = setting(
        default="one",
        help="draws of the weights in a training step: one for all samples of the units, or each: one for each sample",
        kind=Choice("one", "each"),
    )
    row_rate: float = setting(
        default=3.0, help="learning rate of the rows' parameters, as a multiple of that of the weights", kind=Number()
    )
    row_steps: int = setting(default=5, help="gradient steps on a batch's rows before each step", kind=settings.Whole(0))


class DEF(Base):
    """Deep exponential family.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Rows that share the weights, N: needed.
    **given : object
        As for `Base`, with the settings of `gvae.DEF`.

    Raises
    ------
    ConfigError
        n_rows is not a positive integer.

    Examples
    --------
    >>> model = gvae.models.DEF(6, latent=(3, 2), n_rows=100)
    >>> {name: values.shape for name, values in model.init(gvae.random.key(0)).items()}
    {'weights0.raw': (36,), 'weights1.raw': (12,)}
    >>> {name: values.shape for name, values in model.init_rows(gvae.random.key(0), 100).items()}
    {'z1.raw': (100, 6), 'z2.raw': (100, 4)}
    """

    Settings = Settings
    columns: ClassVar[Mapping[str, str]] = {"x": "counts"}
    has_closed_kl = True

    def build(self, settings: Any) -> None:
        self.chosen, self.n_rows = settings, shared_by(self)
        latent = numbers_of_layers(settings.latent)
        self.stack = Stack("", latent, settings)
        on = int(self.stack.kind.zeros)
        self.output = Matrix("weights0", (self.sizes["x"], latent[0] + on), self.stack.kind.gamma_weights)
        self.matrices = [self.output, *self.stack.weights]
        hidden = settings.hidden if settings.amortized else ()
        self.encoders = {
            f"z{l}": Conditional(
                f"z{l}", self.sizes["x"], families.parse(self.stack.kind.family, n), hidden, settings.activation
            )
            for l, n in enumerate(latent, 1)
        }
        self.row_steps, self.row_rate = 0 if settings.amortized else settings.row_steps, settings.row_rate

    @property
    def codes(self) -> Mapping[str, int]:
        """The codes by name, of the layer next to the data first.

        Examples
        --------
        >>> gvae.models.DEF(6, latent=(3, 2), n_rows=100).codes
        {'z1': 3}
        """
        return {"z1": self.encoders["z1"].family.n}

    @property
    def inference_order(self) -> tuple[str, ...]:
        """The names of the noise of its layers, of which each is inferred from the data.

        Examples
        --------
        >>> gvae.models.DEF(6, latent=(3, 2), n_rows=100).inference_order
        ('z1', 'z2')
        """
        return tuple(self.encoders)

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters: of the posterior of the weights, and of the encoders if rows are amortized.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> list(gvae.models.DEF(6, latent=(3,), kind="sigmoid", n_rows=9).init(gvae.random.key(0)))
        ['weights0.raw', 'weights1.raw']
        """
        mean = 1 / self.output.shape[1]
        params = self.output.init(random.fold_in(key, 0), self.dtype, mean, spread=0.5)
        params |= self.stack.init(random.fold_in(key, 1), self.dtype)
        if self.chosen.amortized:
            for i, encoder in enumerate(self.encoders.values()):
                params |= encoder.init(random.fold_in(key, 2, i), self.dtype)
        return params

    def init_rows(self, key: Key, n_rows: int) -> dict[str, np.ndarray]:
        """Initial per-datum parameters: the unconstrained parameters of each row's posterior, layer by layer.

        Parameters
        ----------
        key : array (4,)
        n_rows : int

        Returns
        -------
        dict of str to array
            "z1.raw", "z2.raw", ..: the same for each row; {} if rows are amortized.

        Examples
        --------
        >>> gvae.models.DEF(6, latent=(2,), kind="sigmoid", n_rows=9).init_rows(gvae.random.key(0), 2)
        {'z1.raw': array([[0., 0.],
               [0., 0.]], dtype=float32)}
        """
        if self.chosen.amortized:
            return {}
        found = {}
        for name, encoder in self.encoders.items():
            family = encoder.family
            mean = np.full(family.n, 0.5 if family.name == "bernoulli" else 1.0)
            found[f"{name}.raw"] = np.tile(started(family, key, self.dtype, mean, 0.0), (n_rows, 1))
        return found

    def prepare(self, params: Params, state: Arrays, table: Any, key: Key) -> tuple[dict, Any]:
        """Parameters with the weights of the data at the mean rate of each column.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            The training rows.
        key : array (4,)

        Returns
        -------
        params : dict of str to array
        state : mapping of str to array
            Unchanged.

        Examples
        --------
        >>> from scipy import sparse
        >>> model, x = gvae.models.DEF(2, latent=(3,), n_rows=2), sparse.csr_array(np.array([[1.0, 8.0], [3.0, 4.0]]))
        >>> params, _ = model.prepare(model.init(gvae.random.key(0)), {}, gvae.data.Table(x), gvae.random.key(1))
        >>> model.output.mean(params).sum(axis=1).round()  # of rates 2 and 6 at codes of one
        array([2., 6.], dtype=float32)
        """
        rates = table.mean("x")
        rates = np.maximum(rates, 1e-3 * rates.mean())[:, None] / self.output.shape[1]
        return dict(params) | self.output.init(key, self.dtype, rates, spread=0.5), state

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """Noise of the draws of all units and of all weights.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            "z1", .. (K, B, units), and "all.weights0", .. (K, entries).

        Examples
        --------
        >>> model, batch = gvae.models.DEF(4, latent=(3,), n_rows=9), gvae.data.Batch({"x": np.eye(4)}, np.arange(4))
        >>> {name: u.shape for name, u in model.noise(gvae.random.key(0), batch, samples=2).items()}
        {'z1': (2, 4, 3), 'all.weights0': (2, 12)}
        """
        drawn, like = {}, vars(batch).get("x")
        for i, (name, encoder) in enumerate(self.encoders.items()):
            drawn[name] = encoder.family.noise(random.fold_in(key, 0, i), (samples, len(batch)), self.dtype, like)
        for i, w in enumerate(self.matrices):
            drawn |= w.noise(random.fold_in(key, 1, i), samples, self.dtype, like)
        return drawn

    def _posteriors(self, params: Params, batch: Batch) -> list[Distribution]:
        x = None  # where rows have parameters, nothing is read
        if self.chosen.amortized:
            x = batch.x
            x = type(x)((np.log1p(x.data), x.indices, x.indptr), shape=x.shape)
        return [encoder(params, x) for encoder in self.encoders.values()]

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q(z_l | x) of each row, in the units of the codes: gamma variables, not their logarithms.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Distribution
            "z1", "z2", ..

        Examples
        --------
        >>> model, key = gvae.models.DEF(4, latent=(3,), n_rows=2), gvae.random.key(0)
        >>> model.code(model.init(key) | model.init_rows(key, 2), {}, None)["z1"].mean.round(2)
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)
        """
        return dict(zip(self.encoders, map(in_units, self._posteriors(params, batch)), strict=True))

    def thinned(self, params: Params, share: float) -> dict[str, np.ndarray]:
        """Parameters under which x has a share of its rates: for rows of which that share of the counts is seen.

        Parameters
        ----------
        params : mapping of str to array
        share : float

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.DEF(4, latent=(3,), n_rows=100)
        >>> params = model.init(gvae.random.key(0))
        >>> seen = model.thinned(params, 0.1)
        >>> np.allclose(model.output.mean(seen), 0.1 * model.output.mean(params), rtol=1e-4)
        True
        """
        return dict(params) | self.output.scaled(params, share)

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """The distribution p(x | z_1), at the mean of the weights or, with noise, at draws of them.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            "z1", (..., latent[0]).
        noise : mapping of str to array, optional
            As `noise` draws it.

        Returns
        -------
        dict of str to Distribution
            "x".

        Examples
        --------
        >>> model = gvae.models.DEF(4, latent=(3, 2), n_rows=100)
        >>> model.decode(model.init(gvae.random.key(0)), {}, {"z1": np.ones((5, 3), np.float32)})["x"].mean.shape
        (5, 4)
        """
        if noise is None:
            w = self.output.mean(params)
        else:
            layer = self.output.layer(params, noise, None, 1.0)
            w = self.output.value(layer.q, layer.z)
        return {"x": PoissonProduct(self.stack.with_one(z["z1"]), w)}

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Draws of the codes from the prior, at the mean of the weights.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            "z1", .. (n, units).

        Examples
        --------
        >>> model = gvae.models.DEF(4, latent=(3, 2), n_rows=100)
        >>> model.sample_prior(model.init(gvae.random.key(0)), gvae.random.key(1), 5)["z2"].shape
        (5, 2)
        """
        weights = [w.mean(params) for w in self.stack.weights]
        values: list[Any] = [None] * len(self.encoders)
        for l in reversed(range(1, len(values) + 1)):
            p = self.stack.prior(l, values, weights, weights[0] if weights else np.zeros(0, self.dtype))
            z = p.sample(p.noise(random.fold_in(key, l), () if p.batch_shape else (n,)))
            values[l - 1] = natural(p, z)
        return dict(zip(self.encoders, values, strict=True))

    def loadings(self, params: Params) -> dict[str, np.ndarray]:
        """The weight of each column in each unit, at the mean of the weights: W_0, W_0 W_1, ...

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        dict of str to array
            "z1", "z2", .. (columns, units), without the unit that is always 1.

        Examples
        --------
        >>> model = gvae.models.DEF(4, latent=(3, 2), n_rows=100)
        >>> {name: w.shape for name, w in model.loadings(model.init(gvae.random.key(0))).items()}
        {'z1': (4, 3), 'z2': (4, 2)}
        """
        found: list[np.ndarray] = []
        for w, n in zip([self.output, *self.stack.weights], self.stack.latent, strict=False):  # bits have weights at the top
            mean = np.asarray(w.mean(params), np.float64)[:, -n:]
            found.append(found[-1] @ mean if found else mean)
        return dict(zip(self.encoders, found, strict=True))

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The log-likelihood of the counts, and q, p and draw of each layer; in training steps those of the weights, too.

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
        >>> from scipy import sparse
        >>> model, key = gvae.models.DEF(4, latent=(3, 2), n_rows=100), gvae.random.key(0)
        >>> batch = gvae.data.Batch({"x": sparse.csr_array(np.eye(4, dtype=np.float32))}, np.arange(4))
        >>> params = model.init(key) | model.init_rows(key, 4)
        >>> terms = model.terms(params, {}, batch, model.noise(key, batch), step=0)
        >>> [(layer.name, layer.z.shape) for layer in terms.layers]
        [('z1', (1, 4, 3)), ('z2', (1, 4, 2)), ('weights0', (1, 12)), ('weights1', (1, 6))]
        """
        if step is not None and self.chosen.weight_draws == "one" and self.output.family.reparameterized:
            noise = {name: draws[:1] if name.startswith(SHARED) else draws for name, draws in noise.items()}
        shared = self.shared_layers(params, noise)
        matrices = [w.value(layer.q, layer.z) for w, layer in zip(self.matrices, shared, strict=False)]
        q = self._posteriors(params, batch)
        z = [q_l.sample(noise[name]) for name, q_l in zip(self.encoders, q, strict=True)]
        values = [natural(q_l, z_l) for q_l, z_l in zip(q, z, strict=True)]
        x = PoissonProduct(self.stack.with_one(values[0]), matrices[0])
        likelihood = x.log_prob(batch.x)
        layers: list[Layer] = []
        for l, (name, q_l) in enumerate(zip(self.encoders, q, strict=True), 1):
            p = self.stack.prior(l, values, matrices[1:], matrices[0])
            layers.append(Layer(q_l, p, z[l - 1], noise[name], name=name))
            below = Blanket(likelihood) if l == 1 else Blanket(layers=(layers[-2],))
            layers[-1].blanket = lambda below=below: below
        if step is None:
            return Terms({"x": likelihood}, layers, inference=tuple(self.encoders), views={"x": x})
        for l, w in enumerate(self.stack.weights, 1):  # W_l enters the priors of layer l, unit by unit
            shared[l].blanket = lambda l=l, w=w: Blanket(prior=_by_entry(-_rates(layers[l - 1]), w, batch.weight))
        if batch.weight is None:
            shared[0].blanket = lambda: Blanket(self._by_column(x, batch.x))
        return Terms({"x": likelihood}, [*layers, *shared], inference=tuple(self.encoders), views={"x": x})

    def shared_layers(self, params: Params, noise: Noise) -> list[Layer]:
        """The layers of the weights, W_0 first.

        Parameters
        ----------
        params, noise : mapping of str to array

        Returns
        -------
        list of Layer

        Examples
        --------
        >>> model, batch = gvae.models.DEF(4, latent=(3,), n_rows=9), gvae.data.Batch({"x": np.eye(4)}, np.arange(4))
        >>> noise = model.noise(gvae.random.key(0), batch)
        >>> [layer.share for layer in model.shared_layers(model.init(gvae.random.key(1)), noise)]
        [0.1111111111111111]
        """
        priors = [self.stack.prior_of_weights(w, params[f"{w.name}.raw"]) for w in self.matrices]
        return [w.layer(params, noise, p, 1 / self.n_rows) for w, p in zip(self.matrices, priors, strict=True)]

    def _by_column(self, x: PoissonProduct, counts: Any) -> Any:
        """The log-likelihood of each column averaged over rows, for each entry of W_0, (K, D units)."""
        by_column = ops.poisson_counts_log_prob(counts, x.z, x.w, by="column") / counts.shape[0]
        return _repeated(by_column, self.output.shape[1])


def _rates(layer: Layer) -> Any:
    """KL of each unit of a layer, (K, B, n)."""
    rates = layer.q.kl_by_unit(layer.p)
    return rates if len(rates.shape) == 3 else rates[None]


def _by_entry(units: Any, w: Matrix, weight: Array) -> Any:
    """Terms of units (K, B, n) averaged over rows, for each entry of the weights of these units, (K, n m)."""
    K, B, n = units.shape
    flat = arrays.reshape(arrays.swapaxes(units, axis1=1, axis2=2), shape=(K * n, B))
    return _repeated(arrays.reshape(mean_of_rows(flat, weight), shape=(K, n)), w.shape[1])


def _repeated(values: Any, times: int) -> Any:
    """(K, n times) with each of (K, n) values repeated."""
    K, n = values.shape
    return arrays.reshape(arrays.broadcast_to(values[..., None], shape=(K, n, times)), shape=(K, n * times))
