"""The protocol of models, below them: what training, evaluation, estimators and the command line know of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from gvae.distributions import Distribution
from gvae.errors import ConfigError, ShapeError
from gvae.objectives import Terms
from gvae.typing import Arrays, Key, Noise, Params

if TYPE_CHECKING:
    from gvae.data import Batch

__all__ = ["Model", "check_columns", "check_fits", "check_initial", "check_terms"]

KINDS = ("matrix", "counts", "labels")  # of columns


class Model(Protocol):
    """The protocol through which training, evaluation, estimators and the command line use a model.

    Attributes
    ----------
    Settings : type
        The dataclass of its settings, see `gvae.settings`.
    columns : mapping of str to str
        The columns that it reads, and their kinds: "matrix" (real numbers), "counts" (whole numbers, CSR) or "labels".
    views : tuple of str
        The columns that it explains, each by a distribution: they have an `observation`.
    caution : str
        A sentence that is reported together with its figures, or "".
    conditional : bool
        Whether it explains y given x.
    has_bound : bool
        Whether its terms are those of a bound on a log-probability. A model without one has an objective of its own.
    has_posterior : bool
        Whether its codes have a posterior given the rows that are scored; otherwise they are drawn given x.
    dtype : dtype

    Notes
    -----
    The optional methods of models are listed in `gvae.models`.

    Examples
    --------
    >>> model = gvae.models.VIB({"x": 784, "y": 10}, latent=16)
    >>> model.columns, model.views, model.codes, model.conditional
    ({'x': 'matrix', 'y': 'labels'}, (), {'z': 16}, True)
    """

    Settings: ClassVar[type[Any]]
    columns: ClassVar[Mapping[str, str]]
    views: ClassVar[tuple[str, ...]]
    caution: ClassVar[str]
    conditional: ClassVar[bool]
    has_bound: ClassVar[bool]
    has_posterior: ClassVar[bool]
    dtype: np.dtype

    @property
    def has_closed_kl(self) -> bool:
        """Whether the KL term of every code has a closed form.

        Examples
        --------
        >>> gvae.models.VAE(4, latent=2).has_closed_kl, gvae.models.VAE(4, latent=2, prior="mixture:2").has_closed_kl
        (True, False)
        """

    @property
    def codes(self) -> Mapping[str, int]:
        """The codes that `transform` joins, by name, with their numbers of variables.

        Examples
        --------
        >>> gvae.models.VLAE(784, latent=(4, 2)).codes
        {'z1': 4, 'z2': 2}
        """

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """Widths of all networks of a model of these settings, which need not be built.

        Parameters
        ----------
        settings : Settings
        sizes : mapping of str to int

        Returns
        -------
        list of tuple of int
            (inputs, hidden .., outputs) of each network, see `Base.layers`.

        Examples
        --------
        >>> settings = gvae.models.VAE.Settings(latent=2, posterior="diagonal", hidden=(200,))
        >>> gvae.models.VAE.layers(settings, {"x": 784})
        [(784, 200, 2), (2, 200, 784)]
        """

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters, arrays by name; the name up to the first dot is the group.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> {name: value.shape for name, value in params.items() if name.startswith("encoder")}
        {'encoder.0.weight': (4, 3), 'encoder.0.bias': (3,), 'encoder.1.weight': (3, 5), 'encoder.1.bias': (5,)}
        """

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """All randomness of one evaluation of `terms`, drawn ahead.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1
            Draws for each row, K.

        Returns
        -------
        dict of str to array
            By code, (K, B, variables), and by further names.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2)
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> noise = model.noise(gvae.random.key(1), batch, samples=3)
        >>> {name: value.shape for name, value in noise.items()}
        {'z': (3, 4, 2)}
        """

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The terms of the bound for a batch: log-likelihoods, and each layer's q, p and draw.

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
        >>> terms.log_weights.shape
        (3, 4)
        """

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The distribution q(code | x) of each row, by name of the code.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Distribution
            With the batch axis (B,).

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> q = model.code(params, {}, batch)["z"]
        >>> q, q.mean.shape
        (BandedGaussian(batch_shape=(4,), n=2), (4, 2))
        """

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

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Draws of the codes from the prior, by name.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            (n, variables): the codes that `decode` takes.

        Examples
        --------
        >>> model = gvae.models.VAE(4, latent=2, posterior="chain", hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> z = model.sample_prior(params, gvae.random.key(1), 5)
        >>> z["z"].shape, model.decode(params, {}, z)["x"].mean.shape
        ((5, 2), (5, 4))
        """


def check_columns(model: type[Any]) -> None:
    """ConfigError unless a class of models reads x, columns of kinds that exist, and has its views among them."""
    name, columns = model.__name__, dict(model.columns)
    if "x" not in columns:
        raise ConfigError(f"{name}: columns are {', '.join(columns) or 'none'}, expected x among them")
    for column, kind in columns.items():
        if kind not in KINDS:
            raise ConfigError(f"{name}: columns[{column!r}] is {kind!r}, expected one of {', '.join(KINDS)}")
    for view in model.views:
        if view not in columns:
            raise ConfigError(f"{name}: views has {view!r}, expected names of its columns: {', '.join(columns)}")


def check_initial(model: Any, params: Any) -> dict[str, Any]:
    """What `init` has returned; ConfigError unless it is arrays by name."""
    if not isinstance(params, Mapping) or not all(hasattr(value, "dtype") for value in params.values()):
        given = type(params).__name__
        if isinstance(params, Mapping):
            given = next(f"{type(v).__name__} as {name}" for name, v in params.items() if not hasattr(v, "dtype"))
        raise ConfigError(f"{type(model).__name__}.init returned {given}, expected a mapping of names to arrays")
    return dict(params)


def check_fits(what: str, given: Mapping[str, Any], expected: Mapping[str, Any], *, others: bool = False) -> None:
    """ConfigError unless all arrays that a model expects are given, with their shapes and dtypes.

    what : a subject with its verb, such as "train: parameters are"      others : whether arrays of other names may be given
    """
    for name, array in expected.items():
        mine = given.get(name)
        if mine is None or (np.shape(mine), mine.dtype) != (np.shape(array), array.dtype):
            found = "missing" if mine is None else f"{mine.dtype} of shape {np.shape(mine)}"
            raise ConfigError(
                f"{what} of another model: {name} is {found}, expected {array.dtype} of shape {np.shape(array)}"
            )
    if unknown := [name for name in given if name not in expected and not others]:
        raise ConfigError(f"{what} of another model, which has {unknown[0]!r}; expected {', '.join(expected) or 'none'}")


def check_terms(model: Any, terms: Any, batch: Batch, noise: Noise) -> None:
    """Raise ShapeError unless the terms of a batch have the shapes of `Terms`, and ConfigError if they are something else.

    Sums and means broadcast: terms of another shape would be those of another objective, without an error. K is known by the
    noise of the codes; a model without such noise may have any, and one whose codes are not random has 1.
    """
    where = f"{type(model).__name__}.terms"
    if not isinstance(terms, Terms):
        raise ConfigError(f"{where} returned {type(terms).__name__}, expected Terms")
    if not isinstance(terms.log_likelihood, Mapping):
        raise ConfigError(f"{where}: log_likelihood is {type(terms.log_likelihood).__name__}, expected arrays by view")
    draws = next((noise[name].shape[0] for name in getattr(model, "codes", ()) if name in noise), None)
    given = [(f"log_likelihood of the view {view!r}", x, 2) for view, x in terms.log_likelihood.items()]
    given += [] if terms.weights is None else [("weights", terms.weights, 2)]
    drawn = [(i, layer) for i, layer in enumerate(terms.layers) if layer.z is not None and layer.share is None]
    given += [(f"z of layer {layer.name or i}", layer.z, 3) for i, layer in drawn]
    for what, x, n_axes in given:
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) != n_axes or shape[1] != len(batch) or (draws is not None and shape[0] not in (1, draws)):
            expected = f"(K={draws}, B={len(batch)}{', variables' if n_axes == 3 else ''})".replace("K=None", "K")
            raise ShapeError(f"{where}: {what} has shape {shape}, expected {expected}")
