"""The base class of models. The protocol `Model`, through which all other code uses a model, is in `gvae.protocol`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from gvae import modes, random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models.dreams import dream_noise
from gvae.objectives import Terms
from gvae.protocol import Model
from gvae.settings import fields, native
from gvae.typing import Arrays, Key, Noise, Params

SETTLED = 2000  # rows at a time whose moments are computed

__all__ = ["Base", "Model", "UnknownSettingError"]


class UnknownSettingError(ConfigError, TypeError):
    """A setting that a model or an estimator does not have."""


class Base:
    """A model that is built from its settings and from the sizes of the columns that it reads.

    Parameters
    ----------
    sizes : int or mapping of str to int
        The number of columns of x, or of each column of the data by its name (for labels: the number of classes).
    *settings : Settings or object
        A `Settings`, or the values of its fields in order.
    dtype : dtype, default float32
        The dtype of all arithmetic.
    n_rows : int, default 0
        Rows of the training data, for models whose bound or training step depends on it.
    **given : object
        Fields of the settings by name.

    Attributes
    ----------
    emitters : mapping of str to Conditional
        The network of each view that has one.
    exact : bool
        Whether the weight of every draw is p(x) itself, as without a code.
    infers_rows : bool
        Whether per-datum parameters of rows that are scored are inferred; otherwise only training has them.

    Raises
    ------
    UnknownSettingError
        A name that is not a field of the settings.
    ConfigError
        A setting has a value that it does not take.

    Examples
    --------
    >>> a = gvae.models.VAE(784, 16, "chain", hidden=(200,))
    >>> settings = gvae.models.VAE.Settings(16, "chain", hidden=(200,))
    >>> b = gvae.models.VAE({"x": 784}, settings, dtype="float64")
    >>> a.sizes == b.sizes, a.dtype, b.dtype
    (True, dtype('float32'), dtype('float64'))
    """

    Settings: ClassVar[Any]
    columns: ClassVar[Mapping[str, str]] = {"x": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("x",)
    caution: ClassVar[str] = ""
    conditional: ClassVar[bool] = False
    has_bound: ClassVar[bool] = True
    least_rows: int = 1
    separable: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    infers_rows: ClassVar[bool] = True
    has_posterior: ClassVar[bool] = True
    has_closed_kl: Any = True
    emitters: Mapping[str, Conditional] = {}

    def __init__(
        self, sizes: int | Mapping[str, int], *settings: Any, dtype: DTypeLike = np.float32, n_rows: int = 0, **given: Any
    ):
        self.sizes = dict(sizes) if isinstance(sizes, Mapping) else {"x": sizes}
        self.dtype, self.n_rows = np.dtype(dtype), n_rows
        if len(settings) == 1 and isinstance(settings[0], self.Settings):
            (chosen,) = settings
        else:
            check_known(type(self).__name__, self.Settings, given)
            chosen = self.Settings(*settings, **given)
        plain = {name: native(value) for name, value in chosen.checked().items()}
        self.output_bias = plain.get("output_bias", "zero")
        self.build(self.Settings(**plain))

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[Base]:
        """The class of the model with settings: this one, unless settings decide what it reads.

        Parameters
        ----------
        values : mapping of str to object
            The settings by name.

        Returns
        -------
        type

        Examples
        --------
        >>> gvae.models.DeepGP.variant({"unsupervised": True}).columns
        {'x': 'matrix'}
        """
        return cls

    def build(self, settings: Any) -> None:
        """Construct the parts of the model, from settings that have been checked; called by the constructor.

        A subclass sets `emitters`, the network of each view that has one, and what its other methods use.

        Parameters
        ----------
        settings : Settings

        Examples
        --------
        >>> class BetaVAE(gvae.models.VAE):
        ...     def build(self, settings):
        ...         super().build(settings)
        ...         self.code_cost = gvae.costs.Beta(4.0)
        >>> BetaVAE(4, latent=2).code_cost
        Beta(beta=4.0)
        """
        raise NotImplementedError

    def prepare(self, params: Params, state: Arrays, table: Any, key: Key) -> tuple[dict, Any]:
        """Parameters and state with what is learned from the training rows before the first step: biases of the output.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            The training rows.
        key : array (4,)

        Returns
        -------
        params : dict of str to array
            With output_bias="data", the last bias of each view's network is such that the view has the mean of the training
            rows.
        state : mapping of str to array
            Unchanged.

        Raises
        ------
        ConfigError
            With output_bias="data", where the bias has no closed form.

        Examples
        --------
        >>> model = gvae.models.VAE(2, latent=1, hidden=(3,), output_bias="data")
        >>> table = gvae.data.Table(np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32))
        >>> params, state = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
        >>> params["decoder.1.bias"].round(2)  # log-odds of 3/4 and of 1/4
        array([ 1.1, -1.1], dtype=float32)
        """
        params = dict(params)
        if self.output_bias == "data":
            for view, emitter in self.emitters.items():
                params |= emitter.located(params, table.mean(view))
        return params, state

    def check_normalize(self, settings: Any) -> None:
        """Set what batch normalisation asks of batches, and raise an error where it is not possible; called by `build`.

        Parameters
        ----------
        settings : Settings
            They have `normalize`.

        Raises
        ------
        ConfigError
            A code's draws are not differentiable: each signal belongs to one row, but rows of a batch depend on each other.

        Examples
        --------
        >>> gvae.models.VAE(4, latent=2, normalize="batch").least_rows
        2
        """
        if settings.normalize is None:
            return
        self.least_rows = 2
        for family in self.families_of_codes:
            if family(np.zeros(family.n_params, self.dtype)).path is None:
                raise ConfigError(
                    f"{type(self).__name__}: normalize is {settings.normalize!r}, expected None where draws of codes are "
                    f"not differentiable (posterior {family.name}): a draw's signal belongs to its row only, but by batch "
                    "normalisation all rows of a batch depend on it"
                )

    def is_joint(self, params: Params) -> bool:
        """Whether the terms of a row under these parameters depend on the draws of other rows, as `Terms.joint` says.

        Parameters
        ----------
        params : mapping of str to array
            Where it is in the mode of a training step, see `gvae.modes`, normalised layers join the rows of a batch.

        Returns
        -------
        bool

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,), normalize="batch")
        >>> params = model.init(gvae.random.key(0))
        >>> model.is_joint(params), model.is_joint(gvae.modes.in_step(params, {}, 0))
        (False, True)
        """
        if not isinstance(params, modes.Training):
            return False
        of_draws = {network.name for network in self.networks[1]}
        return any(layer.rpartition(".")[0] in of_draws for layer in modes.with_statistics(params))

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The networks that read rows, and those that read draws, (K, B, ..): for the noise of dropout.

        Examples
        --------
        >>> of_rows, of_draws = gvae.models.VAE(4, latent=2).networks
        >>> [network.name for network in of_rows], [network.name for network in of_draws]
        (['encoder'], ['decoder'])
        """
        return (), ()

    @property
    def families_of_codes(self) -> tuple[Family, ...]:
        """The families of the posteriors of all codes.

        Examples
        --------
        >>> gvae.models.VAE(4, latent=2).families_of_codes
        (Cholesky('chain', n=2),)
        """
        return ()

    def masks(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        """The noise of dropout, which is drawn for training steps only.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            (1, B, width) for the layers of a network that reads rows, (K, B, width) for those of one that reads draws; {}
            without dropout.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,), dropout=0.5)
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: value.shape for name, value in model.masks(gvae.random.key(0), batch, samples=5).items()}
        {'dropout.encoder.0': (1, 4, 3), 'dropout.decoder.0': (5, 4, 3)}
        """
        of_rows, of_draws = self.networks
        shapes = [(1, len(batch))] * len(of_rows) + [(samples, len(batch))] * len(of_draws)
        drawn: dict[str, Any] = {}
        for i, (network, shape) in enumerate(zip((*of_rows, *of_draws), shapes, strict=True)):
            drawn |= network.masks(random.fold_in(key, i), shape, self.dtype, vars(batch).get("x"))
        return drawn

    def prior_noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        """The noise of draws of the codes from their priors, whose families may take another kind than posteriors do.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            By code, (K, B, ..).

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, prior="mixture:3")
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> model.prior_noise(gvae.random.key(0), batch)["z"].shape  # an entry more says which component it is
        (1, 4, 3)
        """
        model: Any = self  # a subclass has `noise`
        drawn = model.noise(key, batch, samples)
        return {name: drawn[name] for name in self.inference_order}

    def dream_noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, Any]:
        """The noise of dreams, draws of codes and views from the model itself, for objectives that learn from them.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
            As many dreams are drawn as it has rows.
        samples : int, default 1
            Dreams for each row, K.

        Returns
        -------
        dict of str to array
            "dream.CODE" (K, B, variables) and "dream.VIEW" (K, B, columns).

        Raises
        ------
        ConfigError
            The model does not draw views.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2)
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> {name: value.shape for name, value in model.dream_noise(gvae.random.key(0), batch).items()}
        {'dream.z': (1, 4, 2), 'dream.x': (1, 4, 4)}
        """
        return dream_noise(self, key, batch, samples)

    def settle(
        self, params: Params, state: Arrays, table: Any, exact: bool = True
    ) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The moments of normalised layers over the training rows, under given weights.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            The training rows.
        exact : bool, default True
            False: the moments of at most 2,000 of the rows, evenly spaced, in one pass.

        Returns
        -------
        params : dict of str to array
            The parameters that this determines; {} without such layers.
        state : mapping of str to array
            Unchanged.

        Examples
        --------
        >>> model = gvae.models.VAE(2, latent=1, hidden=(3,), normalize="batch")
        >>> table = gvae.data.Table(np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32))
        >>> params, state = model.settle(model.init(gvae.random.key(0)), {}, table)
        >>> list(params)[:2]
        ['statistics.encoder.0.mean', 'statistics.encoder.0.variance']
        """
        if not modes.with_statistics(params):
            return {}, state
        n, key = len(table), random.key(0)
        if exact or n <= SETTLED:
            return modes.settled(self, params, state, lambda: table.batches(key, SETTLED)), state
        batch = table.batch(np.arange(SETTLED) * n // SETTLED, key)
        return modes.settled(self, params, state, lambda: [batch]), state

    def watch(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> Terms:
        """The terms of held-out rows by which training is watched: what its steps ascend, without dropout or corruption.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.

        Returns
        -------
        Terms
            Those of rows that are scored, unless steps ascend something else, or scoring is costly.

        Examples
        --------
        >>> model = gvae.models.VCCA({"x": 2, "y": 2}, latent=1, weight_y=3.0, hidden=(4,))
        >>> batch = gvae.data.Batch({"x": np.eye(2, dtype=np.float32), "y": np.eye(2, dtype=np.float32)}, np.arange(2))
        >>> noise = model.noise(gvae.random.key(0), batch)
        >>> terms = model.watch(model.init(gvae.random.key(1)), {}, batch, noise)
        >>> bool((terms.log_likelihood["y"] == 3 * terms.unweighted["y"]).all())
        True
        """
        model: Any = self
        return model.terms(params, state, batch, noise, None)

    @property
    def inference_order(self) -> tuple[str, ...]:
        """The names of the noise of its codes, each before those that are inferred from it.

        Examples
        --------
        >>> gvae.models.SBN(784, latent=(20, 10)).inference_order
        ('z1', 'z2')
        """
        codes: Mapping[str, int] = self.codes  # type: ignore[attr-defined]
        return tuple(codes)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Widths of all networks, estimated without building them.

        A model that cannot fit into memory is refused by these widths before it is built. Families given as text are not
        parsed, as that could allocate tables of their size: the widths may be under-estimates.

        Parameters
        ----------
        settings : Settings
        sizes : mapping of str to int
            The number of columns, by name.

        Returns
        -------
        list of tuple of int
            (inputs, hidden .., outputs) of each network; [] where a model does not say.

        Examples
        --------
        >>> settings = gvae.models.VAE.Settings(latent=2, posterior="diagonal", hidden=(200,))
        >>> gvae.models.VAE.layers(settings, {"x": 784})
        [(784, 200, 2), (2, 200, 784)]
        """
        return []


def check_known(what: str, settings: type, given: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise UnknownSettingError if a given name is not a setting."""
    known = [f.name for f in fields(settings)]
    for name in given:
        if name not in known:
            raise UnknownSettingError(f"{what} has no setting {name!r}; known are {', '.join(known)}")
