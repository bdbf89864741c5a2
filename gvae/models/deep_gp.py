"""Deep Gaussian processes: layers of Gaussian processes, from inputs or from a code down to the data.

    z_l = f_l(z_(l+1)) + noise,   l = L - 1 .. 1,     y = f_0(z_1) + noise,     f_l ~ GP(0, k_l),  noise ~ N(0, 1 / beta_l)

with z_L = f_L(x) + noise for inputs x (regression), or z_L ~ N(0, I) (unsupervised: a Gaussian process latent variable model
where L is 1). The hidden variables of each row have a posterior q(z_l) = N(mu_l, diag S_l), in parameters of the row or by
encoders of y. The bounds of log p(y), of N rows together:

    collapsed  F_0(z_1, y) + sum_l E F_l(z_(l+1), z_l) + H(q(z_l)), with the best q of all functions at inducing points
    explicit   the same with q(v_l) in parameters: E log N(z_l; f_l(z_(l+1)), 1 / beta_l) - KL(q(v_l) ‖ p(v_l)), of batches
    sampled    no q(z_l): z_l is drawn from the layer above, sum_n E log p(y_n | f_0(z_1)) - sum_l KL(q(v_l) ‖ p(v_l)).
               Hidden layers have a linear mean, identity or principal components, and y any observation model

In all three, rows are scored by draws under q(v). Errata of the survey: u is noise-free, u = f(Z); "for all p" is d; q(z_L)
is a product over latent dimensions. Sources: Damianou and Lawrence (2013); Dai, Damianou, González and Lawrence (2016, the
encoders); Salimbeni and Deisenroth (2017, the sampled bound).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from scipy.spatial.distance import cdist

from gvae import families, random, settings
from gvae.autodiff import stop_gradient, value_of
from gvae.data import Batch
from gvae.distributions import DiagonalGaussian, Distribution
from gvae.distributions import Rescaled as RescaledDistribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import parts
from gvae.models.base import Base
from gvae.models.parts import Penalty
from gvae.models.processes import KERNELS, Level, Process, Uncertain, begun
from gvae.objectives import Layer, Terms
from gvae.ops import elementwise
from gvae.runtime import device, limits
from gvae.settings import Choice, Columns, Families, Layers, Maybe, Number, Whole, Widths, YesNo, setting
from gvae.typing import Array, Arrays, Key, Noise, Params

__all__ = ["BOUNDS", "DeepGP"]

BOUNDS = ("collapsed", "explicit", "sampled")


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a deep Gaussian process."""

    latent: tuple[int, ...] = setting(
        default=(5,),
        help="numbers of variables of the hidden layers, from y upwards; none: a sparse Gaussian process (in the shell: 0)",
        kind=Layers(empty=True),
        kw_only=False,
    )
    inducing: int = setting(
        default=40, help="inducing points of each group of processes, at most as many as rows", kind=Whole(), kw_only=False
    )
    bound: str = setting(
        default="collapsed",
        help="collapsed: all rows in each step, best with L-BFGS; explicit: batches; sampled: batches, by draws of layers",
        kind=Choice(*BOUNDS),
    )
    unsupervised: bool = setting(
        default=False, help="explain x by a code, which is the top layer of latent, instead of y by x", kind=YesNo()
    )
    kernel: str = setting(default="rbf", help="rbf, with a precision for each input, or linear", kind=Choice(*KERNELS))
    groups: dict[str, Any] | None = setting(
        default=None,
        help="columns of the data that share a kernel, by name, as in {'y1': [0, 1], 'y2': [2]} (in the shell: y1=0-1 y2=2);"
        " None: all share one",
        kind=Maybe(Columns()),
    )
    hidden_groups: tuple[int, ...] | None = setting(
        default=None,
        help="for each layer of latent, the number of groups of equal width that share a kernel; None: one",
        kind=Maybe(Layers()),
    )
    encoder: tuple[int, ...] | None = setting(
        default=None,
        help="widths of the hidden layers of encoders of q(z | y); None: each row has parameters of its own",
        kind=Maybe(Widths()),
    )
    observation: str | Family = setting(
        default="gaussian", help="family of y given f; others than gaussian need bound='sampled'", kind=Families()
    )
    nugget: float = setting(
        default=1e-6, help="added to the diagonal of k(Z, Z), in units of the kernel's variance", kind=Number(zero=True)
    )
    warm: int = setting(
        default=2, help="steps in which the noise stays at a hundredth of the variance of its layer", kind=Whole(0)
    )


class DeepGP(Base):
    """A deep Gaussian process: y given x, or x given a code with unsupervised=True.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Rows of the training data, N: needed.
    **given : object
        As for `Base`, with the settings of `gvae.DeepGP`.

    Raises
    ------
    ConfigError
        n_rows is not a positive integer; float32 with bound="collapsed"; settings that do not fit each other.

    Examples
    --------
    >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
    >>> {name: value.shape for name, value in model.init(gvae.random.key(0)).items() if name.startswith("inducing")}
    {'inducing.0.y': (4, 2), 'inducing.1.z1': (4, 3)}
    >>> {name: values.shape for name, values in model.init_rows(gvae.random.key(0), 10).items()}
    {'z1.raw': (10, 4)}
    """

    Settings = Settings
    columns: ClassVar[Mapping[str, str]] = {"x": "matrix", "y": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("y",)
    conditional: ClassVar[bool] = True
    infers_rows: ClassVar[bool] = False
    has_posterior: ClassVar[bool] = False
    has_closed_kl = False

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[DeepGP]:
        return UnsupervisedDeepGP if values["unsupervised"] else DeepGP

    def build(self, settings: Any) -> None:
        (self.view,) = self.views
        self.bound, self.warm, self.n_rows = settings.bound, settings.warm, parts.shared_by(self)
        self.collapses, self.draws = self.bound == "collapsed", self.bound == "sampled"
        if self.collapses and self.dtype != np.float64:
            raise ConfigError(
                f"DeepGP: dtype is {self.dtype}, expected float64 for bound='collapsed': it is a difference of large numbers"
            )
        self.observation = families.parse(settings.observation, self.sizes[self.view], "observation")
        self.gaussian = self.observation.name == "gaussian"
        if not self.gaussian and not self.draws:
            raise ConfigError(
                f"DeepGP: observation is {self.observation.name!r}, expected gaussian with bound={self.bound!r}: others "
                "need bound='sampled'"
            )
        self.widths = tuple(np.atleast_1d(np.asarray(settings.latent, int)).tolist()) if settings.latent else ()
        given = () if not self.conditional else (self.sizes["x"],)
        if not self.widths and not given:
            raise ConfigError("DeepGP: latent is (), expected at least one layer where unsupervised=True")
        n_outputs = self.sizes[self.view] if self.gaussian else self.observation.n_params - self.observation.n_shared
        n_inputs = (*self.widths, *given)
        shares = _shares(settings.hidden_groups, self.widths)
        if not self.conditional and len(shares[-1]) > 1 and (np.ndim(settings.hidden_groups) or len(shares) == 1):
            raise ConfigError(
                f"DeepGP: hidden_groups is {settings.hidden_groups}, expected 1 for the top layer where unsupervised=True: "
                "its variables have no process above them"
            )
        groups = [_columns(settings.groups, self.view, n_outputs), *shares[: len(n_inputs) - 1]]
        each = min(settings.inducing, self.n_rows), settings.kernel, settings.nugget
        self.levels = [Level(l, n, groups[l], *each) for l, n in enumerate(n_inputs)]
        if settings.encoder is not None and self.draws and self.conditional:
            raise ConfigError("DeepGP: encoder is for q(z | y), which bound='sampled' does not have in a regression")
        self.amortized = settings.encoder is not None
        names = [f"z{l}" for l in range(1, len(self.widths) + 1)]
        self.inferred = names[len(names) - (not self.conditional) :] if self.draws else names  # that have a q of their own
        self.encoders, below = {}, self.sizes[self.view]
        for name, n in zip(names, self.widths, strict=True):
            self.encoders[name] = Conditional(name, below, families.parse("diagonal", n), settings.encoder or ())
            below = n if name in self.inferred else below
        self.least_rows = self.n_rows if self.collapses else 1
        self.row_steps, self.row_rate = 0, 1.0
        limits.check_room(self._least_memory(), f"DeepGP: a process with {self.levels[0].inducing} inducing points")

    def _least_memory(self) -> float:
        """Bytes of the matrices of inducing points of all processes, an under-estimate."""
        matrices = 4 if self.collapses else 2 * self.levels[0].n_outputs
        return (
            sum(matrices * float(level.inducing) ** 2 * len(level.processes) for level in self.levels) * self.dtype.itemsize
        )

    @property
    def codes(self) -> Mapping[str, int]:
        """The hidden layer next to the data, with its number of variables.

        Examples
        --------
        >>> gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2, 4), dtype="float64", n_rows=10).codes
        {'z1': 2}
        """
        return {"z1": self.widths[0]} if self.widths else {}

    @property
    def inference_order(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    @property
    def families_of_codes(self) -> tuple[Family, ...]:
        return tuple(encoder.family for encoder in self.encoders.values())

    # ---- what is learned

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of kernels, inducing points, noise, q(v) where it has any, and encoders.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(), inducing=4, bound="explicit", n_rows=10)
        >>> sorted({name.partition(".")[0] for name in model.init(gvae.random.key(0))})
        ['inducing', 'kernel', 'noise', 'outputs']
        """
        params: dict[str, np.ndarray] = {}
        for l, level in enumerate(self.levels):
            for process in level.processes.values():
                params |= process.init(self.dtype)
                if not self.collapses:
                    params |= process.init_posterior(self.dtype, 1e-2 if l else 1.0)
        if self.amortized:
            for i, name in enumerate(self.inferred):
                params |= self.encoders[name].init(random.fold_in(key, i), self.dtype)
        if self.observation.n_shared and not self.gaussian:
            params["observation.shared"] = self.observation.start(key, self.dtype)[-self.observation.n_shared :]
        return params

    def init_rows(self, key: Key, n_rows: int) -> dict[str, np.ndarray]:
        """Initial per-datum parameters: means and logarithms of deviations of q(z_l); {} where there are encoders.

        Parameters
        ----------
        key : array (4,)
        n_rows : int

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> gvae.models.DeepGP({"x": 3, "y": 1}, latent=(), dtype="float64", n_rows=10).init_rows(gvae.random.key(0), 10)
        {}
        """
        if self.amortized:
            return {}
        widths = zip(self.encoders, self.widths, strict=True)
        start = {name: np.concatenate([np.zeros(n), np.full(n, np.log(0.3))]) for name, n in widths}
        return {f"{name}.raw": np.tile(start[name].astype(self.dtype), (n_rows, 1)) for name in self.inferred}

    def start_rows(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Any]:
        """Where the inference of other rows begins: at the training row whose code explains a row of the batch best.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to array
            As `init_rows` returns them.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (20, 5), np.float64)
        >>> model = gvae.DeepGP(latent=(2,), unsupervised=True, epochs=2, random_state=0, standardize=False).fit(X)
        >>> start = model.model_.start_rows(model.parameters_, model.state_, gvae.data.Batch({"x": X}, np.arange(20)))
        >>> start["z1.raw"].shape
        (20, 4)
        """
        params, state = _on_host(params), _on_host(state)
        z = {name: state[f"rows.{name}"] for name in self.inferred}
        top = self.inferred[-1]
        above = z.get("z1") if "z1" in z else self._down(params, state, z[top], None, int(top[1:]))[1]["z1"]
        said = np.asarray(self._observed(params, self.layer(params, state, 0, above)).mean)
        nearest = cdist(device.to_host(getattr(batch, self.view)), said).argmin(axis=1)
        found = self.init_rows(random.key(0), len(batch))
        for name, codes in z.items():
            found[f"{name}.raw"][:, : codes.shape[1]] = codes[nearest]
        return found

    def init_state(self, key: Key) -> dict[str, np.ndarray]:
        """What the rows determine: q(v) of the collapsed bound and codes of the training rows, or the means of layers.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> {name: value.shape for name, value in model.init_state(gvae.random.key(0)).items()}
        {'outputs.0.y.mean': (4, 1), 'outputs.0.y.factor': (1, 4, 4), 'outputs.1.z1.mean': (4, 2), 'outputs.1.z1.factor': \
(2, 4, 4), 'rows.z1': (10, 2)}
        """
        state = {}
        for l, level in enumerate(self.levels):
            if self.draws and l:
                state[f"mean.{l}"] = np.eye(level.n_inputs, level.n_outputs, dtype=self.dtype)
            for process in level.processes.values() if self.collapses else ():
                m, (mean, factor) = process.inducing, _kept(process)
                state[mean] = np.zeros((m, process.n_outputs), self.dtype)
                state[factor] = np.tile(np.eye(m, dtype=self.dtype), (process.n_outputs if l else 1, 1, 1))
        for name in self.inferred:
            state[f"rows.{name}"] = np.zeros((self.n_rows, self.encoders[name].family.n), self.dtype)
        return state

    def prepare(self, params: Params, state: Arrays, table: Any, key: Key) -> tuple[dict, Any]:
        """Where training begins: principal components as codes, inducing points by k-means, scales of each layer.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            The training rows.
        key : array (4,)

        Returns
        -------
        params : dict of str to array
        state : dict of str to array

        Examples
        --------
        >>> x = np.linspace(-1, 1, 10)[:, None]
        >>> model = gvae.models.DeepGP({"x": 1, "y": 1}, latent=(), inducing=3, dtype="float64", n_rows=10)
        >>> table = gvae.data.Table(x, y=x**2)
        >>> params, _ = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
        >>> np.sort(params["inducing.0.y"].ravel()).round(2)
        array([-0.72,  0.  ,  0.72])
        """
        batch = table.batch(np.arange(len(table)), key)
        params, state = dict(params), dict(state)
        data = np.asarray(getattr(batch, self.view), np.float64)
        x = np.asarray(batch.x, np.float64)
        layers = begun(x if self.conditional else data, self.widths)
        if not self.amortized:
            for name in self.inferred:
                z = layers[int(name[1:]) - 1]
                params[name + ".raw"] = np.concatenate([z, np.full_like(z, np.log(0.1))], axis=1).astype(self.dtype)
        inputs = [*layers, x] if self.conditional else layers
        targets = [data, *layers]
        for l, level in enumerate(self.levels):
            for i, (name, process) in enumerate(level.processes.items()):
                columns = level.groups[name]
                variance = targets[l][:, columns].var() if self.gaussian or l else 1.0
                params |= process.prepared(inputs[l], float(variance), random.fold_in(key, l, i), self.dtype)
        if self.bound == "explicit":
            q = self._inferred(params, batch)
            for level, above, below in zip(self.levels, *self._uncertain(q, batch), strict=True):
                for name, best in level.optimum(params, above, below).items():
                    params |= level.processes[name].raw(best, self.dtype)
        if self.draws:
            mean = inputs[-1]
            for l in reversed(range(1, len(self.levels))):
                state[f"mean.{l}"] = _linear(mean, self.levels[l].n_outputs).astype(self.dtype)
                mean = mean @ state[f"mean.{l}"]
        return params, state

    def settle(self, params: Params, state: Arrays, table: Any, exact: bool = True) -> tuple[dict[str, Any], Any]:
        """q(v) of the collapsed bound, and the codes of the training rows, under given parameters, those of rows included.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            The training rows.
        exact : bool, default True
            Not used: all rows are needed.

        Returns
        -------
        params : dict of str to array
            {}.
        state : dict of str to array

        Examples
        --------
        >>> x = np.linspace(-1, 1, 10)[:, None]
        >>> model = gvae.models.DeepGP({"x": 1, "y": 1}, latent=(), inducing=10, dtype="float64", n_rows=10)
        >>> table, key = gvae.data.Table(x, y=x**2), gvae.random.key(0)
        >>> params, _ = model.prepare(model.init(key), {}, table, key)
        >>> _, state = model.settle(params, model.init_state(key), table)
        >>> np.abs(model.decode(params, state, {"x": x})["y"].mean - x**2).max() < 0.05
        np.True_
        """
        params, columns = (_on_host(part) for part in (params, vars(table.batch(np.arange(len(table)), random.key(0)))))
        batch = Batch(columns, np.arange(len(table)))
        q = self._inferred(params, batch)
        state = dict(state) | {f"rows.{name}": q[name].mean for name in q}
        if self.collapses:
            for level, x, t in zip(self.levels, *self._uncertain(q, batch), strict=True):
                for name, best in level.optimum(params, x, t).items():
                    state |= zip(_kept(level.processes[name]), best, strict=True)
        return {}, state

    # ---- the distributions

    def _inferred(self, params: Params, batch: Batch) -> dict[str, Any]:
        """q(z_l) of the layers that have one, from the rows' parameters or from encoders, each of which reads the mean below
        it."""
        found: dict[str, Any] = {}
        below = vars(batch).get(self.view)
        for name in self.inferred:
            found[name] = self.encoders[name](params, below)
            below = found[name].mean
        return found

    def _uncertain(self, q: Mapping[str, Any], batch: Batch) -> tuple[list[Uncertain], list[Uncertain]]:
        """Inputs and targets of each level."""
        layers = [Uncertain(p.mean, elementwise.exp(2 * p.log_scale)) for p in q.values()]
        above = [Uncertain(batch.x)] if self.conditional else []
        return [*layers, *above], [Uncertain(getattr(batch, self.view)), *layers][: len(self.levels)]

    def _posteriors(self, params: Params, state: Arrays, level: Level) -> dict[str, Any]:
        """q(v) of each group of a level."""
        if not self.collapses:
            return {name: process.posterior(params) for name, process in level.processes.items()}
        return {name: tuple(state[part] for part in _kept(process)) for name, process in level.processes.items()}

    def layer(self, params: Params, state: Arrays, l: int, above: Any) -> Distribution:
        """p(z_l | z_(l+1)) under q(v): Gaussians, for l = 0 that of f if y is not Gaussian.

        Parameters
        ----------
        params, state : mapping of str to array
        l : int
        above : array (..., inputs)

        Returns
        -------
        DiagonalGaussian

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> params, state = model.init(gvae.random.key(0)), model.init_state(gvae.random.key(0))
        >>> model.layer(params, state, 1, np.ones((5, 3)))
        DiagonalGaussian(batch_shape=(5,), n=2)
        """
        level, lead = self.levels[l], above.shape[:-1]
        x = above.reshape(-1, above.shape[-1])
        mean, variance, noise = level.at(params, self._posteriors(params, state, level), x)
        if self.draws and l:
            mean = mean + x @ state[f"mean.{l}"]
        if l or self.gaussian:
            variance = variance + noise
        shape = (*lead, level.n_outputs)
        return DiagonalGaussian(mean.reshape(*shape), 0.5 * elementwise.log(variance).reshape(*shape))

    def _observed(self, params: Params, p: Distribution, noise: Array = None) -> Distribution:
        """p(y | z_1) in the units of the data, from the distribution of f; of a y that is not Gaussian at a draw of f."""
        if self.gaussian:
            return RescaledDistribution(p, self.observation.scale) if hasattr(self.observation, "scale") else p
        f = p.mean if noise is None else p.sample(noise)
        return self.observation(f, params.get("observation.shared"))

    def _down(
        self, params: Params, state: Arrays, above: Array, noise: Noise | None, start: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(p, z) of the hidden layers below a layer, each drawn given the one above it; at means without noise."""
        p, z = {}, {}
        for l in reversed(range(1, start)):
            p[f"z{l}"] = self.layer(params, state, l, above)
            above = p[f"z{l}"].mean if noise is None else p[f"z{l}"].sample(noise[f"z{l}"])
            z[f"z{l}"] = above
        return p, z

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distributions of the hidden layers: q(z_l) of the rows if unsupervised, else p(z_l | x) at means above.

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
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> params, state = model.init(gvae.random.key(0)), model.init_state(gvae.random.key(0))
        >>> model.code(params, state, gvae.data.Batch({"x": np.ones((5, 3))}, np.arange(5)))["z1"]
        DiagonalGaussian(batch_shape=(5,), n=2)
        """
        if self.conditional:
            found, _ = self._down(params, state, batch.x, None, len(self.levels))
        else:
            q = self._inferred(params, batch)
            last = self.inferred[-1]
            found = self._down(params, state, q[last].mean, None, len(self.levels))[0] | q if self.draws else q
        return {name: found[name] for name in self.encoders}

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """p(y | z_1) under q(v), or p(y | x) of a process without hidden layers.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            "z1", (..., latent[0]), or what `sample_prior` returns; "x" without hidden layers.
        noise : mapping of str to array, optional
            Not used.

        Returns
        -------
        dict of str to Distribution
            "y", or "x" if unsupervised.

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> params, state = model.init(gvae.random.key(0)), model.init_state(gvae.random.key(0))
        >>> model.decode(params, state, {"z1": np.ones((5, 2))})
        {'y': DiagonalGaussian(batch_shape=(5,), n=1)}
        """
        above = z.get("z1") if self.widths else z["x"]
        if above is None:  # the top, and the noise of the layers below it
            top, noise = f"z{len(self.widths)}", {name: z.get(f"noise.{name}") for name in self.encoders}
            above = self._down(params, state, z[top], None if noise["z1"] is None else noise, len(self.widths))[1]["z1"]
        return {self.view: self._observed(params, self.layer(params, state, 0, above))}

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Draws of the top layer of an unsupervised model, and the noise from which `decode` draws the layers below it.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            The top layer by its name, and "noise.z1", .. of the others.

        Raises
        ------
        ConfigError
            The model explains y given x, which has no distribution.

        Examples
        --------
        >>> model = gvae.models.DeepGP.variant({"unsupervised": True})(3, latent=(2, 1), dtype="float64", n_rows=10)
        >>> {name: value.shape for name, value in model.sample_prior({}, gvae.random.key(0), 5).items()}
        {'z2': (5, 1), 'noise.z1': (5, 2)}
        """
        raise ConfigError("DeepGP explains y given x, and has no model of x to draw from: see sample_y")

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """Noise of the draws of all hidden layers, and of f where y is not Gaussian.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            "z1", .. (K, B, variables), and "f" (K, B, columns).

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> batch = gvae.data.Batch({"x": np.ones((5, 3))}, np.arange(5))
        >>> {name: value.shape for name, value in model.noise(gvae.random.key(0), batch, samples=6).items()}
        {'z1': (6, 5, 2)}
        """
        lead, like = (samples, len(batch)), vars(batch).get("x")
        widths = dict(zip(self.encoders, self.widths, strict=True)) | (
            {} if self.gaussian else {"f": self.levels[0].n_outputs}
        )
        return {
            name: random.normal(random.fold_in(key, i), (*lead, n), self.dtype, like)
            for i, (name, n) in enumerate(widths.items())
        }

    def predict(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of a new y of each row, over draws of the hidden layers.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.

        Returns
        -------
        mean, variance : array (B, columns)

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> params, state = model.init(gvae.random.key(0)), model.init_state(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.ones((5, 3))}, np.arange(5))
        >>> mean, variance = model.predict(params, state, batch, model.noise(gvae.random.key(1), batch, samples=8))
        >>> mean.shape, variance.shape
        ((5, 1), (5, 1))
        """
        above = batch.x[None]
        _, z = self._down(params, state, above, noise, len(self.levels))
        p = self._observed(params, self.layer(params, state, 0, z.get("z1", above)), noise.get("f"))
        means = np.asarray(p.mean)
        return means.mean(axis=0), np.asarray(p.variance()).mean(axis=0) + means.var(axis=0)

    def functions(self, params: Params, state: Arrays, x: np.ndarray, key: Key) -> np.ndarray:
        """A draw of f_0 from the posterior, at given inputs together, through draws of the hidden layers and their noise.

        Parameters
        ----------
        params, state : mapping of str to array
        x : array (N, inputs)
            Or values of the top layer, if unsupervised.
        key : array (4,)

        Returns
        -------
        array (N, columns)

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=10)
        >>> params, state = model.init(gvae.random.key(0)), model.init_state(gvae.random.key(0))
        >>> model.functions(params, state, np.ones((5, 3)), gvae.random.key(1)).shape
        (5, 1)
        """
        for l in reversed(range(len(self.levels))):
            level, own = self.levels[l], random.fold_in(key, l)
            draws = {}
            for i, (name, process) in enumerate(level.processes.items()):
                shapes = (process.inducing, process.n_outputs), (len(x), process.n_outputs)
                draws[name] = tuple(random.normal(random.fold_in(own, i, j), n, self.dtype) for j, n in enumerate(shapes))
            f = level.function(params, self._posteriors(params, state, level), x, draws)
            if not l:
                return f if self.gaussian else np.asarray(self.observation(f, params.get("observation.shared")).mean)
            if self.draws:
                f = f + x @ state[f"mean.{l}"]
            noise = random.normal(random.fold_in(own, len(draws)), f.shape, self.dtype)
            x = f + noise * np.sqrt(level.noise(params))
        raise AssertionError("there is a level 0")

    # ---- bounds

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The terms of the bound: in a training step those of all rows together, in equal parts; of scored rows, by draws.

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

        Raises
        ------
        ConfigError
            Rows with weights under a bound of all rows together.
        NotPositiveDefiniteError
            The kernel matrix of a level is singular; it is named.

        Examples
        --------
        >>> model = gvae.models.DeepGP({"x": 1, "y": 1}, latent=(2,), inducing=4, dtype="float64", n_rows=4)
        >>> batch = gvae.data.Batch({"x": np.eye(4)[:, :1], "y": np.eye(4)[:, :1]}, np.arange(4))
        >>> key, table = gvae.random.key(0), gvae.data.Table(batch.x, y=batch.y)
        >>> params, _ = model.prepare(model.init(key) | model.init_rows(key, 4), {}, table, key)
        >>> terms = model.terms(params, model.init_state(key), batch, model.noise(key, batch), step=0)
        >>> terms.log_likelihood["y"].shape, len(terms.layers)
        ((1, 4), 1)
        """
        if step is None:
            return self._by_draws(params, state, batch, noise)
        params = dict(params) | {
            name: _held(value, step, self.warm) for name, value in params.items() if name.startswith("noise.")
        }
        terms = self._by_draws(params, state, batch, noise, True) if self.draws else self._of_all_rows(params, batch)
        if not self.collapses:
            for level in self.levels:
                cost = level.cost(self._posteriors(params, state, level))
                terms.layers.append(Penalty(cost, share=1 / self.n_rows, drawn=self.draws))
        return terms

    def _of_all_rows(self, params: Params, batch: Batch) -> Terms:
        """The collapsed or the explicit bound, of which each row is charged an equal part."""
        if batch.weight is not None:
            raise ConfigError(
                f"DeepGP: bound={self.bound!r} is of all rows together: rows cannot have weights (sample_weight)"
            )
        q, n = self._inferred(params, batch), len(batch)
        each = device.beside(np.full(n, 1 / n, self.dtype), value_of(batch.x))
        values = []
        for level, x, t in zip(self.levels, *self._uncertain(q, batch), strict=True):
            if self.collapses:
                values.append(level.collapsed(params, x, t) * each)
            else:
                values.append(level.expected(params, self._posteriors(params, {}, level), x, t) * each)
        if hasattr(self.observation, "scale"):
            values[0] = values[0] - float(np.log(self.observation.scale).sum())
        layers: list[Layer] = []
        for name, value in zip(self.encoders, [*values[1:], None], strict=False):
            layers.append(Penalty(q[name].kl() if value is None else -value - q[name].entropy()))
        return Terms({self.view: values[0][None]}, layers or [Penalty(0 * each)], inference=tuple(self.encoders))

    def _likelihood(
        self, params: Params, state: Arrays, above: Any, batch: Batch, noise: Noise, training: bool
    ) -> tuple[Distribution, Any]:
        """p(y | z_1), and log p(y | z_1): its bound E log p(y | f) in training, where the KL of q(v) is subtracted."""
        y, level = getattr(batch, self.view), self.levels[0]
        if not (training and self.gaussian):
            p = self._observed(params, self.layer(params, state, 0, above), noise.get("f"))
            return p, p.log_prob(y)
        q = self._posteriors(params, state, level)
        mean, variance, deviation = level.at(params, q, above.reshape(-1, level.n_inputs))
        noisy = DiagonalGaussian(mean.reshape(*above.shape[:-1], level.n_outputs), 0.5 * elementwise.log(deviation))
        p = self._observed(params, noisy)
        return p, p.log_prob(y) - 0.5 * (variance / deviation).sum(axis=-1).reshape(*above.shape[:-1])

    def _by_draws(self, params: Params, state: Arrays, batch: Batch, noise: Noise, training: bool = False) -> Terms:
        """log p(y | z_1) at draws: of q where a layer has one of its own, else of the layer above."""
        layers: list[Layer] = []
        if self.conditional:
            above, start = batch.x[None], len(self.levels)
        else:
            q = self._inferred(params, batch)
            z = {name: q[name].sample(noise[name]) for name in q}
            for name in q:
                l = int(name[1:])
                p = None if l == len(self.levels) else self.layer(params, state, l, z[f"z{l + 1}"])
                layers.append(Layer(q[name], p, z[name], noise[name], coupled=p is not None, name=name))
            above, start = z[self.inferred[0]], int(self.inferred[0][1:])
        _, drawn = self._down(params, state, above, noise, start)
        p, likelihood = self._likelihood(params, state, drawn.get("z1", above), batch, noise, training)
        nothing = device.zeros(len(batch), self.dtype, batch.x)
        about = {"weights": likelihood} if self.conditional else {}
        return Terms(
            {self.view: likelihood},
            layers or [Penalty(nothing)],
            views={self.view: p},
            inference=tuple(self.encoders),
            **about,
        )


class UnsupervisedDeepGP(DeepGP):
    """A deep Gaussian process of x given a code: what `DeepGP` is with unsupervised=True."""

    columns: ClassVar[Mapping[str, str]] = {"x": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("x",)
    conditional: ClassVar[bool] = False
    infers_rows: ClassVar[bool] = True
    has_posterior: ClassVar[bool] = True

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        top, *others = reversed(self.encoders)
        drawn = {top: random.normal(random.fold_in(key, 0), (n, self.widths[-1]), self.dtype)}
        for i, (name, width) in enumerate(zip(others, reversed(self.widths[:-1]), strict=True), 1):
            drawn[f"noise.{name}"] = random.normal(random.fold_in(key, i), (n, width), self.dtype)
        return drawn

    def raw(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Any]:
        """The unconstrained parameters of q(z_l), under the names that `terms` reads."""
        found, below = {}, batch.x
        for name in self.inferred:
            found[f"{name}.raw"] = self.encoders[name].raw(params, below)
            below = self.encoders[name](params, below).mean
        return found

    def generate(self, params: Params, state: Arrays, noise: Noise) -> Terms:
        """The model without q: the top layer from N(0, I), each of the others given the one above it."""
        top = f"z{len(self.levels)}"
        prior = self.prior_given(params, state, top, {})
        z = prior.sample(noise[top])
        p, drawn = self._down(params, state, z, noise, len(self.levels))
        p, drawn = p | {top: prior}, drawn | {top: z}
        layers = [Layer(p[name], p[name], drawn[name], noise[name], name=name) for name in self.encoders]
        views = {self.view: self._observed(params, self.layer(params, state, 0, drawn["z1"]), noise.get("f"))}
        return Terms({}, layers, views=views)

    def prior_given(self, params: Params, state: Arrays, name: str, z: Arrays) -> Distribution:
        """The distribution p(z_l | z_(l+1)), or N(0, I) at the top."""
        l = int(name[1:])
        if l < len(self.levels):
            return self.layer(params, state, l, z[f"z{l + 1}"])
        zeros = parts.zeros(self.widths[-1], self.dtype, params)
        return DiagonalGaussian(zeros, zeros)

    def posterior_given(self, params: Params, state: Arrays, batch: Batch, name: str, z: Arrays) -> Distribution:
        """The distribution q(z_l) of each row; under the sampled bound, below the top, that of the model."""
        q = self._inferred(params, batch)
        return q[name] if name in q else self.prior_given(params, state, name, z)


def _on_host(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: device.to_host(value) for name, value in values.items() if value is not None}


def _kept(process: Process) -> tuple[str, str]:
    """The names in the state of m and R of q(v)."""
    return f"outputs.{process.name}.mean", f"outputs.{process.name}.factor"


def _shares(counts: Any, widths: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    """The columns of the groups of each hidden layer."""
    given = [1 if counts is None else counts] * len(widths) if np.ndim(counts) == 0 else list(counts)
    if len(given) != len(widths) or any(n % k for n, k in zip(widths, given, strict=True)):
        raise ConfigError(
            f"DeepGP: hidden_groups is {counts}, expected for each layer of latent {widths} a number that divides its width"
        )
    found = []
    for l, (n, k) in enumerate(zip(widths, given, strict=True), 1):
        names = [f"z{l}"] if k == 1 else [f"z{l}_{i}" for i in range(k)]
        found.append(dict(zip(names, np.split(np.arange(n), k), strict=True)))
    return found


def _columns(groups: Mapping[str, Any] | None, view: str, n: int) -> dict[str, np.ndarray]:
    """The columns of the groups of the data, each in one of them."""
    if groups is None:
        return {view: np.arange(n)}
    found = {name: np.asarray(columns) for name, columns in groups.items()}
    counted = np.bincount(np.concatenate(list(found.values())), minlength=n)
    if len(counted) > n or (counted != 1).any():
        raise ConfigError(f"DeepGP: groups are {groups}, expected each of the {n} columns of {view} in one of them")
    return found


def _linear(x: np.ndarray, n: int) -> np.ndarray:
    """The linear map to n variables that a hidden layer has as its mean: the identity, or the first principal components."""
    if n >= x.shape[1]:
        return np.eye(x.shape[1], n)
    return np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:n].T


def _held(value: Any, step: Any, warm: int) -> Any:
    """A parameter that does not move before step `warm`."""
    if not warm:
        return value
    free = np.bool_(step >= warm) if isinstance(step, int) else step >= warm
    free = free.astype(value_of(value).dtype)
    return free * value + (1 - free) * stop_gradient(value)
