"""Double deep exponential families: counts in the cells of a matrix, explained by a family over its rows and one over its
columns.

    x_ij ~ Poisson(z_i1 . v_j1),   z_il | z_i(l+1) and v_jl | v_j(l+1) as in a deep exponential family of gamma variables

The codes of the columns, and the weights of both sides, are shared by all rows. Source: Ranganath, Tang, Charlin and Blei
(2015), section 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae import random, settings
from gvae.distributions import Distribution, GammaDistribution
from gvae.models import deep_exponential
from gvae.models.deep_exponential import DEF
from gvae.models.matrices import Matrix
from gvae.models.parts import numbers_of_layers
from gvae.models.stacks import KINDS, Stack
from gvae.objectives import Layer
from gvae.ops import arrays
from gvae.settings import Choice, setting
from gvae.typing import Key, Noise, Params

__all__ = ["DoubleDEF"]

GAMMAS = tuple(name for name, kind in KINDS.items() if not kind.zeros)  # rates of bits or counts could be 0


@settings.group("model")
class Settings(deep_exponential.Settings):
    """Settings of double deep exponential families."""

    kind: str = setting(
        default="gamma",
        help="family of the units; gamma:score leaves out the derivative through gamma draws",
        kind=Choice(*GAMMAS),
        kw_only=False,
    )


class DoubleDEF(DEF):
    """Double deep exponential family.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Rows that share the codes of the columns, N: needed.
    **given : object
        As for `Base`, with the settings of `gvae.DoubleDEF`.

    Examples
    --------
    >>> model = gvae.models.DoubleDEF(6, latent=(3, 2), n_rows=100)
    >>> {name: values.shape for name, values in model.init(gvae.random.key(0)).items()}
    {'columns1.raw': (36,), 'weights1.raw': (12,), 'columns2.raw': (24,), 'column_weights1.raw': (12,)}
    """

    Settings = Settings

    def build(self, settings: Any) -> None:
        super().build(settings)
        latent, family = numbers_of_layers(settings.latent), self.stack.kind.family
        self.column_stack = Stack("column_", latent, settings)
        self.column_codes = [Matrix(f"columns{l}", (self.sizes["x"], n), family) for l, n in enumerate(latent, 1)]
        self.output = self.column_codes[0]
        self.further = [*self.column_codes[1:], *self.column_stack.weights]
        self.matrices = [self.output, *self.stack.weights, *self.further]

    def init(self, key: Key) -> dict[str, np.ndarray]:
        params = super().init(key)
        for i, codes in enumerate(self.column_codes[1:]):
            params |= codes.init(random.fold_in(key, 3, i), self.dtype, 1.0)
        return params | self.column_stack.init(random.fold_in(key, 4), self.dtype)

    def shared_layers(self, params: Params, noise: Noise) -> list[Layer]:
        """The layers of the columns' codes and of the weights: those next to the data first, then the rows' weights.

        Parameters
        ----------
        params, noise : mapping of str to array

        Returns
        -------
        list of Layer

        Examples
        --------
        >>> model, batch = gvae.models.DoubleDEF(4, latent=(3, 2), n_rows=9), gvae.data.Batch({"x": np.eye(4)}, np.arange(4))
        >>> noise = model.noise(gvae.random.key(0), batch)
        >>> [layer.name for layer in model.shared_layers(model.init(gvae.random.key(1)), noise)]
        ['columns1', 'weights1', 'columns2', 'column_weights1']
        """
        layers = {w.name: w.layer(params, noise, None, 1 / self.n_rows) for w in self.matrices}
        values = {w.name: w.value(layers[w.name].q, layers[w.name].z) for w in self.matrices}
        codes = [values[w.name] for w in self.column_codes]
        weights = [values[w.name] for w in self.column_stack.weights]
        for l, w in enumerate(self.column_codes, 1):
            layers[w.name].p = _of_entries(self.column_stack.prior(l, codes, weights, codes[0]), w)
        for stack in (self.stack, self.column_stack):
            for w in stack.weights:
                layers[w.name].p = stack.prior_of_weights(w, codes[0])
        return list(layers.values())


def _of_entries(p: Any, w: Matrix) -> Distribution:
    """The prior of codes (.., D, n) as one of all entries, row by row."""
    log_mean = arrays.broadcast_to(p.log_mean, shape=(*p.log_mean.shape[:-2], *w.shape))
    flat = arrays.reshape(log_mean, shape=(*log_mean.shape[:-2], w.family.n))
    log_shape = arrays.reshape(arrays.broadcast_to(p.log_shape, shape=w.shape), shape=(w.family.n,))
    return GammaDistribution(log_shape, flat, log=True)
