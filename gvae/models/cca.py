"""Canonical correlation analysis of two views, linear (closed form) and deep (by networks).

With covariances Sxx, Syy, Sxy over N - 1, a ridge on the diagonals of the first two, and the singular value decomposition

    Sxx^-1/2 Sxy Syy^-1/2 = U diag(rho) V',     z_x = U' Sxx^-1/2 (x - mean),     z_y = V' Syy^-1/2 (y - mean)

are the canonical variables: pairs (z_x, z_y) of largest correlation, each uncorrelated with the others. In deep canonical
correlation analysis, x and y are outputs of two networks that maximize the sum of rho on batches. There is no model of the
data: no likelihood, no bound, and nothing to sample. Sources: Hotelling (1936); Andrew, Arora, Bilmes and Livescu (2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import modes, ops, random, settings
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.errors import ConfigError, DataError
from gvae.models import vae
from gvae.models.base import Base
from gvae.models.parts import each_layer
from gvae.nn import MLP
from gvae.objectives import Terms
from gvae.ops.correlation import Whitened, paired
from gvae.runtime import device
from gvae.settings import Number, Widths, restated, setting
from gvae.typing import Array, Arrays, Key, Noise, Params

__all__ = ["CCA", "DCCA", "Point"]

VIEWS = {"x": "z_x", "y": "z_y"}  # the code of each view
CHUNK = 5000  # rows that go through a network at once


class Point(Distribution):
    """A code that is a function of the data: its value, without a density.

    Parameters
    ----------
    mean : array (..., n)

    Examples
    --------
    >>> gvae.models.cca.Point(np.zeros((3, 2))).shown.shape
    (3, 2)
    """

    reparameterized = True

    def __init__(self, mean: Array):
        self.mean = mean


def _canonical(x: Any, y: Any, n: int, ridge: float) -> dict[str, np.ndarray]:
    """The means and projections of both views for the first n pairs of canonical variables, in float64.

    Each pair's sign is such that the largest entry of its projection of x is positive. Projections are 0 for pairs beyond
    the rank of a view, whose correlation would be one of rounding, and NaN where an entry of a view is not finite.
    """
    p = Whitened.of(x, y, ridge)
    to_x, to_y = (np.ldexp(z, -unit) for z, unit in zip((p.A @ p.U[:, :n], p.C @ p.V[:, :n]), p.units, strict=True))
    sign = np.sign(np.take_along_axis(to_x, np.abs(to_x).argmax(axis=0)[None], axis=0))
    sign[sign == 0] = 1  # a pair without variance
    return {"x.mean": p.means[0], "x.projection": to_x * sign, "y.mean": p.means[1], "y.projection": to_y * sign}


class _Pairs(Base):
    """Two views, each with a code of its own that is linear in its features.

    A subclass gives `_features`, and where mean and projection of the features are: `_linear`.
    """

    columns: ClassVar[Mapping[str, str]] = {"x": "matrix", "y": "matrix"}
    views: ClassVar[tuple[str, ...]] = ()
    has_bound: ClassVar[bool] = False
    view_codes: ClassVar[Mapping[str, str]] = VIEWS
    least_rows = 2
    latent: int

    @property
    def codes(self) -> dict[str, int]:
        """The canonical variables of the first view, which `transform` returns.

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).codes
        {'z_x': 2}
        """
        return {VIEWS["x"]: self.latent}

    def _features(self, params: Params, view: str, x: Any) -> Any:
        raise NotImplementedError

    def _linear(self, params: Params, state: Arrays) -> Mapping[str, Any]:
        raise NotImplementedError

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """No noise: nothing is drawn.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1

        Returns
        -------
        dict

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).noise(gvae.random.key(0), None)
        {}
        """
        return {}

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """The canonical variables of each view that is in the batch: "z_x" of x, "z_y" of y.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict of str to Point

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3), np.float64)
        >>> model, table = gvae.models.CCA({"x": 3, "y": 2}, latent=1, dtype="float64"), gvae.data.Table(x, y=x[:, :2])
        >>> params, state = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
        >>> codes = model.code(params, state, table.batch(np.arange(50), gvae.random.key(2)))
        >>> np.corrcoef(codes["z_x"].mean[:, 0], codes["z_y"].mean[:, 0])[0, 1].round(3)
        np.float64(1.0)
        """
        found: dict[str, Distribution] = {}
        how = self._linear(params, state)
        for view, name in VIEWS.items():
            if view in vars(batch):
                features = self._features(params, view, getattr(batch, view))
                z = (features - how[f"{view}.mean"]) @ how[f"{view}.projection"]
                found[name] = Point(z.astype(self.dtype))
        return found

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The sum of the correlations of the pairs of canonical variables, in a batch.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            {}.
        step : int, optional
            Not used.

        Returns
        -------
        Terms
            With the scalar "correlation" in its extras, and no log-likelihood.

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3), np.float64)
        >>> model, table = gvae.models.CCA({"x": 3, "y": 2}, latent=1, dtype="float64"), gvae.data.Table(x, y=x[:, :2])
        >>> params, state = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
        >>> batch = table.batch(np.arange(50), gvae.random.key(2))
        >>> model.terms(params, state, batch, {}).extras["correlation"].round(3)
        np.float64(1.0)
        """
        codes = self.code(params, state, batch)
        z, w = (device.to_host(codes[name].mean) for name in VIEWS.values())
        return Terms({}, [], extras={"correlation": paired(z, w).sum()})

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """Refused: there is no model of the data.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
        noise : mapping of str to array, optional

        Returns
        -------
        dict
            Never.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).decode({}, {}, {})
        Traceback (most recent call last):
        gvae.errors.ConfigError: CCA has no model of the data: codes are not decoded
        """
        raise ConfigError(f"{type(self).__name__} has no model of the data: codes are not decoded")

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """Refused: there is no prior.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict
            Never.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).sample_prior({}, gvae.random.key(0), 3)
        Traceback (most recent call last):
        gvae.errors.ConfigError: CCA has no model of the data: there is no prior to draw from
        """
        raise ConfigError(f"{type(self).__name__} has no model of the data: there is no prior to draw from")


@settings.group("model")
class Settings(settings.Settings):
    """Settings of canonical correlation analysis."""

    latent: int = restated(vae.Settings, "latent", default=2, help="number of pairs of canonical variables", kw_only=False)
    ridge: float = setting(
        default=1e-4,
        help="added to the diagonals of both covariances, relative to the mean variance of the view's columns",
        kind=Number(zero=True),
    )


class CCA(_Pairs):
    """Linear canonical correlation analysis, computed in closed form from all rows before the first training step.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of columns of "x" and of "y".
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.CCA`.

    Raises
    ------
    ConfigError
        latent is above the number of columns of a view.

    Examples
    --------
    >>> params = gvae.models.CCA({"x": 5, "y": 4}, latent=2).init(gvae.random.key(0))
    >>> {name: value.shape for name, value in params.items()}
    {'x.mean': (5,), 'x.projection': (5, 2), 'y.mean': (4,), 'y.projection': (4, 2)}
    """

    Settings: ClassVar[Any] = Settings

    def build(self, settings: Any) -> None:
        most = min(self.sizes["x"], self.sizes["y"])
        if settings.latent > most:
            raise ConfigError(
                f"CCA: latent is {settings.latent}, expected at most {most}: views of {self.sizes['x']} and "
                f"{self.sizes['y']} columns have no more pairs of canonical variables"
            )
        self.latent, self.ridge = settings.latent, settings.ridge

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return [(sizes["x"], settings.latent), (sizes["y"], settings.latent)]

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Means and projections of both views, 0 until `prepare` computes them.

        Parameters
        ----------
        key : array (4,)
            Not used.

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).init(gvae.random.key(0))["y.projection"].shape
        (4, 2)
        """
        shapes = {"mean": (), "projection": (self.latent,)}
        return {
            f"{view}.{name}": np.zeros((self.sizes[view], *rest), self.dtype)
            for view in VIEWS
            for name, rest in shapes.items()
        }

    def _features(self, params: Params, view: str, x: Any) -> Any:
        return x

    def _linear(self, params: Params, state: Arrays) -> Mapping[str, Any]:
        return params

    def prepare(self, params: Params, state: Arrays, table: Any, key: Key) -> tuple[dict, Any]:
        """The solution, from all training rows.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
            It has columns x and y.
        key : array (4,)

        Returns
        -------
        params : dict of str to array
        state : mapping of str to array
            Unchanged.

        Raises
        ------
        DataError
            One row; or ridge=0, and no more rows than a view has columns, where all correlations are 1 whatever the data.

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3), np.float64)
        >>> model, table = gvae.models.CCA({"x": 3, "y": 2}, latent=1, dtype="float64"), gvae.data.Table(x, y=x[:, :2])
        >>> params, state = model.prepare(model.init(gvae.random.key(0)), {}, table, gvae.random.key(1))
        >>> params["x.projection"].shape
        (3, 1)
        """
        n, widest = len(table), max(self.sizes.values())
        if n < 2 or (self.ridge == 0 and n <= widest):
            raise DataError(
                f"CCA: {n} rows (n_samples = {n}) of views of up to {widest} columns determine no correlations; expected "
                "more rows than columns, or a ridge, and two rows at least"
            )
        batch = table.batch(np.arange(n), key)
        found = _canonical(batch.x, batch.y, self.latent, self.ridge)
        return {name: value.astype(self.dtype) for name, value in found.items()}, state

    def update(self, params: Params, batch: Batch) -> Any:
        """No change: the parameters are the closed-form solution from the start.

        Parameters
        ----------
        params : mapping of str to array
        batch : Batch

        Returns
        -------
        dict
            {}.

        Examples
        --------
        >>> gvae.models.CCA({"x": 5, "y": 4}, latent=2).update({}, None)
        {}
        """
        return {}


@settings.group("model")
class DeepSettings(settings.Settings):
    """Settings of deep canonical correlation analysis."""

    latent: int = restated(
        vae.Settings, "latent", default=10, help="outputs of each network: pairs of canonical variables", kw_only=False
    )
    ridge: float = restated(Settings, "ridge", default=1e-4)
    hidden: tuple[Any, ...] = setting(
        default=(200, 200),
        help="widths of the networks' hidden layers, for both views or for each, x first; none: the networks are linear",
        kind=Widths(nested=True),
    )
    activation: str = restated(vae.Settings, "activation", default="relu")
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(vae.Settings, "dropout", default=0.0)


class DCCA(_Pairs):
    """Deep canonical correlation analysis: two networks whose outputs have the largest sum of canonical correlations.

    Training maximizes that of each batch, by `gvae.ops.canonical_correlation`. At the end of each epoch the outputs' linear
    canonical correlation analysis on all training rows is computed: codes are its canonical variables, and it is kept as
    state.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of columns of "x" and of "y".
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.DCCA`.

    Attributes
    ----------
    least_rows : int
        The fewest rows of a batch, 2 latent + 1: of fewer, outputs correlate whatever the networks are.

    Examples
    --------
    >>> model = gvae.models.DCCA({"x": 5, "y": 4}, latent=2, hidden=((8,), (6, 7)))
    >>> params = model.init(gvae.random.key(0))
    >>> {name: value.shape for name, value in params.items() if name.endswith("weight")}
    {'x.0.weight': (5, 8), 'x.1.weight': (8, 2), 'y.0.weight': (4, 6), 'y.1.weight': (6, 7), 'y.2.weight': (7, 2)}
    >>> model.least_rows
    5
    """

    Settings: ClassVar[Any] = DeepSettings
    pure = True

    def build(self, settings: Any) -> None:
        self.latent, self.ridge = settings.latent, settings.ridge
        self.least_rows = 2 * self.latent + 1
        widths = dict(zip(VIEWS, self.layers(settings, self.sizes), strict=True))
        shared = {"normalize": settings.normalize, "dropout": settings.dropout}
        self.of_view = {view: MLP(view, widths[view], settings.activation, **shared) for view in VIEWS}

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(self.of_view.values()), ()

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        hidden = each_layer("hidden", settings.hidden, len(VIEWS))
        return [(sizes[view], *widths, settings.latent) for view, widths in zip(VIEWS, hidden, strict=True)]

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of the networks, in the groups "x" and "y".

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array
            As `gvae.nn.MLP.init` returns them.

        Examples
        --------
        >>> params = gvae.models.DCCA({"x": 5, "y": 4}, latent=2, hidden=()).init(gvae.random.key(0))
        >>> {name: value.shape for name, value in params.items()}
        {'x.0.weight': (5, 2), 'x.0.bias': (2,), 'y.0.weight': (4, 2), 'y.0.bias': (2,)}
        """
        parts = [net.init(random.fold_in(key, i), self.dtype) for i, net in enumerate(self.of_view.values())]
        return parts[0] | parts[1]

    def init_state(self, key: Key) -> dict[str, np.ndarray]:
        """Means and projections of the networks' outputs, 0 until `settle` computes them.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to float64 array

        Examples
        --------
        >>> state = gvae.models.DCCA({"x": 5, "y": 4}, latent=2).init_state(gvae.random.key(0))
        >>> {name: value.shape for name, value in state.items()}
        {'x.mean': (2,), 'x.projection': (2, 2), 'y.mean': (2,), 'y.projection': (2, 2)}
        """
        n = self.latent
        return {f"{v}.{name}": np.zeros(shape) for v in VIEWS for name, shape in (("mean", n), ("projection", (n, n)))}

    def _features(self, params: Params, view: str, x: Any) -> Any:
        return self.of_view[view](params, x)

    def _linear(self, params: Params, state: Arrays) -> Mapping[str, Any]:
        return state

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """The correlation of a batch: in training steps the sum of canonical correlations of the networks' outputs; where
        rows are scored, that of the correlations of their canonical variables, as the training rows have determined them.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            {}.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        Terms
            With the scalar "correlation" in its extras, and no log-likelihood.

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3))
        >>> model = gvae.models.DCCA({"x": 3, "y": 3}, latent=2, hidden=(4,))
        >>> params, batch = model.init(gvae.random.key(1)), gvae.data.Batch({"x": x, "y": x}, np.arange(50), None)
        >>> 0 < model.terms(params, model.init_state(gvae.random.key(2)), batch, {}, 0).extras["correlation"] < 2
        np.True_
        """
        params = modes.in_step(params, noise, step)
        if step is None:
            return super().terms(params, state, batch, noise, step)
        f, g = (self._features(params, view, getattr(batch, view)) for view in VIEWS)
        return Terms({}, [], extras={"correlation": ops.canonical_correlation(f, g, ridge=self.ridge)})

    def settle(
        self, params: Params, state: Arrays, table: Any, exact: bool = True
    ) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """The linear canonical correlation analysis of the networks' outputs, from all rows of a table.

        Parameters
        ----------
        params, state : mapping of str to array
        table : Table
        exact : bool, default True
            Whether the moments of normalised layers are exact, as for `Base.settle`.

        Returns
        -------
        params : dict of str to array
            The moments of normalised layers.
        state : dict of str to float64 array
            "x.mean", "y.mean" (latent,), "x.projection", "y.projection" (latent, latent).

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3))
        >>> model = gvae.models.DCCA({"x": 3, "y": 3}, latent=2, hidden=(4,))
        >>> params = model.init(gvae.random.key(1))
        >>> found, state = model.settle(params, model.init_state(gvae.random.key(2)), gvae.data.Table(x, y=x))
        >>> state["y.projection"].shape
        (2, 2)
        """
        found, _ = super().settle(params, state, table, exact)
        params = dict(params) | found
        parts: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
        for batch in table.batches(random.key(0), CHUNK):
            for view, outputs in parts.items():
                outputs.append(device.to_host(self._features(params, view, getattr(batch, view))))
        f, g = (np.concatenate(outputs) for outputs in parts.values())
        return found, _canonical(f, g, self.latent, self.ridge)  # training says what was not finite
