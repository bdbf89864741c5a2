"""A density of the data without a code: one distribution for all rows, by default bits that depend on those before them.

    x ~ observation(shared parameters)

With "autoregressive" a fully visible sigmoid belief network (Frey, Hinton and Dayan 1996), with "nade:500" NADE (Larochelle
and Murray 2011). The bound is log p(x) itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gvae import families, settings
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.families import Family
from gvae.models import vae
from gvae.models.base import Base
from gvae.models.parts import Penalty, known_observation
from gvae.objectives import Terms
from gvae.ops import arrays
from gvae.runtime import device
from gvae.settings import restated
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["Density"]


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a density."""

    observation: str | Family = restated(vae.Settings, "observation", default="autoregressive", kw_only=False)
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")


class Codeless(Base):
    """Base of models without a code: the bound is log p(x)."""

    exact = True

    @property
    def codes(self) -> Mapping[str, int]:
        """No codes.

        Examples
        --------
        >>> gvae.models.Density(4).codes
        {}
        """
        return {}

    def code(self, params: Params, state: Arrays, batch: Batch) -> dict[str, Distribution]:
        """No codes.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch

        Returns
        -------
        dict
            Empty.

        Examples
        --------
        >>> gvae.models.Density(2).code({}, {}, None)
        {}
        """
        return {}


class Density(Codeless):
    """A density of the data without a code.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.AutoregressiveDensity`.

    Examples
    --------
    >>> params = gvae.models.Density(4, observation="nade:3").init(gvae.random.key(0))
    >>> {name: value.shape for name, value in params.items()}
    {'density.raw': (7,), 'density.shared': (24,)}
    """

    Settings = Settings
    pure = True

    def build(self, settings: Any) -> None:
        self.observation = families.parse(known_observation(settings.observation), self.sizes["x"], "observation")
        self.emitters = {"x": self}  # type: ignore[dict-item]  # only `located` is needed of it

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters: those that a network would emit, and those that its family shares.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> list(gvae.models.Density(4, observation="poisson").init(gvae.random.key(0)))
        ['density.raw']
        """
        raw, family = self.observation.start(key, self.dtype), self.observation
        emitted = family.n_params - family.n_shared
        return {"density.raw": raw[:emitted]} | ({"density.shared": raw[emitted:]} if family.n_shared else {})

    def located(self, params: Params, mean: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters with which the density has the given mean, as far as they are not shared.

        Parameters
        ----------
        params : mapping of str to array
        mean : array (n,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.Density(2)
        >>> model.located(model.init(gvae.random.key(0)), np.array([0.5, 0.75]))["density.raw"].round(3)
        array([0.   , 1.099], dtype=float32)
        """
        return {"density.raw": self.observation.located(params["density.raw"], mean)}

    def density(self, params: Params, lead: tuple[int, ...] = ()) -> Distribution:
        """The distribution of the data.

        Parameters
        ----------
        params : mapping of str to array
        lead : tuple of int, default ()
            Batch axes.

        Returns
        -------
        Distribution

        Examples
        --------
        >>> model = gvae.models.Density(2)
        >>> model.density(model.init(gvae.random.key(0))).log_prob(np.ones(2, np.float32)).round(4)  # two fair coins
        np.float32(-1.3863)
        """
        raw = params["density.raw"]
        return self.observation(arrays.broadcast_to(raw, shape=(*lead, *raw.shape)), params.get("density.shared"))

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """No randomness.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1

        Returns
        -------
        dict
            Empty.

        Examples
        --------
        >>> gvae.models.Density(2).noise(gvae.random.key(0), gvae.data.Batch({"x": np.ones((3, 2))}, np.arange(3)))
        {}
        """
        return {}

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """The distribution of the data, with the batch axes of z.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            As `sample_prior` returns it: of no variables.
        noise : mapping of str to array, optional
            Not used.

        Returns
        -------
        dict of str to Distribution
            "x".

        Examples
        --------
        >>> model = gvae.models.Density(2)
        >>> params = model.init(gvae.random.key(0))
        >>> model.decode(params, {}, model.sample_prior(params, gvae.random.key(1), 5))
        {'x': AutoregressiveBernoulli(batch_shape=(5,), n=2)}
        """
        (nothing,) = z.values()
        return {"x": self.density(params, nothing.shape[:-1])}

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """n codes of no variables.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            "none", (n, 0).

        Examples
        --------
        >>> gvae.models.Density(2).sample_prior({}, gvae.random.key(0), 5)["none"].shape
        (5, 0)
        """
        return {"none": np.zeros((n, 0), self.dtype)}

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """log p(x) of each row.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            Not used.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        Terms
            See `gvae.objectives`.

        Examples
        --------
        >>> model, batch = gvae.models.Density(2), gvae.data.Batch({"x": np.ones((3, 2), np.float32)}, np.arange(3))
        >>> model.terms(model.init(gvae.random.key(0)), {}, batch, {}).log_weights.round(4)
        array([[-1.3863, -1.3863, -1.3863]], dtype=float32)
        """
        p = self.density(params)
        nothing = device.zeros(len(batch), self.dtype, batch.x)
        return Terms({"x": p.log_prob(batch.x[None])}, [Penalty(nothing)], views={"x": p})
