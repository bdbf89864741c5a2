"""The base class of all families."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from gvae.distributions import Distribution, Support
from gvae.errors import ConfigError
from gvae.ops import dense
from gvae.typing import Array, Key

__all__ = ["LOG_SCALE", "Family", "unbounded"]

LOG_SCALE = math.log(1e3)  # conditional standard deviations lie in (1e-3, 1e3)


class Family:
    """Base class of the families: maps from unconstrained parameters to distributions over n variables.

    Parameters
    ----------
    n : int
        The number of variables.
    n_params : int
        The number of unconstrained parameters per distribution.

    Attributes
    ----------
    n_shared : int
        How many of the unconstrained parameters (the last ones) are by default learned once instead of emitted per data
        point.
    name : str
        The text that `parse` reads back.
    one_scale : bool
        Whether all variables have one scale in common, so that data keep their relative scales.
    distribution : type
        The class of the distributions.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> family = gvae.families.parse("chain", 3)
    >>> family, family.n_params, family.n_shared
    (Cholesky('chain', n=3), 8, 0)
    >>> family(np.zeros((100, family.n_params)))
    BandedGaussian(batch_shape=(100,), n=3)
    """

    name: str
    n_shared = 0
    one_scale = False
    distribution: type[Distribution]

    def __init__(self, n: int, n_params: int):
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ConfigError(f"{type(self).__name__}: n is {n!r}, expected an integer of at least 1")
        self.n, self.n_params = n, n_params

    def __call__(self, raw: Array, shared: Array = None) -> Distribution:
        """The distribution of raw (..., n_params), or of raw (..., n_params - n_shared) and shared parameters (n_shared,).

        Raises ConfigError: another number of parameters, or `shared` for a family that shares none.
        """
        emitted = self.n_params - (0 if shared is None else self.n_shared)
        if raw.shape[-1:] != (emitted,):
            raise ConfigError(f"{self.name}: raw has shape {raw.shape}, expected (..., {emitted})")
        if not self.n_shared:
            if shared is not None:
                raise ConfigError(f"{self.name}: shared was given, but this family shares no numbers")
            return self._make(raw)
        if shared is None:
            raw, shared = raw[..., : -self.n_shared], raw[..., -self.n_shared :]
        return self._make(raw, shared)

    def of_layer(self, x: Array, weight: Array, bias: Array, shared: Array = None) -> Distribution:
        """The distribution whose unconstrained parameters are x @ weight + bias.

        Parameters
        ----------
        x : array (..., I) or CSR matrix (rows, I)
        weight : array (I, n_params)
            n_params - n_shared columns if `shared` is given.
        bias : array (n_params,)
        shared : array (n_shared,), optional

        Returns
        -------
        Distribution

        Raises
        ------
        ConfigError, ShapeError, DTypeError

        Examples
        --------
        >>> family = gvae.families.parse("diagonal", 2)
        >>> q = family.of_layer(np.ones((5, 3)), np.zeros((3, 4)), np.array([1.0, 2.0, 0.0, 0.0]))
        >>> q.batch_shape, q.mean[0], q.variance()[0]
        ((5,), array([1., 2.]), array([1., 1.]))
        """
        return self(dense.affine(x, weight, bias), shared)

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        raise NotImplementedError

    # ---- where learning starts

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        """Initial unconstrained parameters: zeros, the standard distribution, unless the gradient vanishes there.

        Parameters
        ----------
        key : array
            A key of `gvae.random`.
        dtype : dtype

        Returns
        -------
        array (n_params,)

        Examples
        --------
        >>> gvae.families.parse("diagonal", 2).start(gvae.random.key(0), np.float64)
        array([0., 0., 0., 0.])
        >>> gvae.families.parse("lowrank", 2).start(gvae.random.key(0), np.float64).round(3)
        array([ 0.   ,  0.   ,  0.   ,  0.   , -0.009, -0.095])
        """
        return np.zeros(self.n_params, dtype)

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        """The initial weight of a network's last layer, from a random one.

        Columns of location parameters (a mean, a logit, a log rate) are kept; columns of scales, edges, correlations and the
        like are zero, so that these start for every input as in `start`.

        Parameters
        ----------
        weight : array (I, n_params - n_shared)

        Returns
        -------
        array (I, n_params - n_shared)

        Examples
        --------
        >>> gvae.families.parse("diagonal", 2).start_weight(np.full((3, 4), 0.5))
        array([[0.5, 0.5, 0. , 0. ],
               [0.5, 0.5, 0. , 0. ],
               [0.5, 0.5, 0. , 0. ]])
        """
        return weight

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """The emitted parameters with which the distribution has the given mean.

        Parameters
        ----------
        raw : array (n_params - n_shared,)
            The emitted parameters, of which all but the location parameters (means, logits, log rates) are kept.
        mean : array (n,)
            The mean wanted; the median where the mean has no closed form.

        Returns
        -------
        array (n_params - n_shared,)

        Raises
        ------
        ConfigError
            Neither mean nor median has a closed form in terms of the parameters.

        Examples
        --------
        >>> family = gvae.families.parse("poisson", 2)
        >>> raw = family.located(np.zeros(2), np.array([0.5, 20.0]))
        >>> family(raw).mean.round(4)
        array([ 0.5, 20. ])
        """
        raise ConfigError(f"output_bias 'data': {self.name} has no closed form for the parameters of a mean: use zero")

    @property
    def reparameterized(self) -> bool:
        """Whether derivatives pass through draws.

        Examples
        --------
        >>> gvae.families.parse("chain", 3).reparameterized, gvae.families.parse("mixture:2", 3).reparameterized
        (True, False)
        """
        return self.distribution.reparameterized

    @property
    def support(self) -> Support:
        """The set in which the values of each variable lie.

        Examples
        --------
        >>> print(gvae.families.parse("poisson", 3).support, gvae.families.parse("categorical:5", 3).support)
        0, 1, .. 0, 1, .., 4
        """
        return self.distribution.support

    @property
    def drawn(self) -> Support:
        """The set in which draws lie: the support, or a part of it.

        Examples
        --------
        >>> print(gvae.families.parse("bernoulli", 3).support, "|", gvae.families.parse("bernoulli", 3).drawn)
        [0, 1] | 0, 1
        """
        return self.support if self.distribution.drawn is None else self.distribution.drawn

    def noise(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Array = None) -> Array:
        """The noise of draws, before any distribution exists.

        Parameters
        ----------
        key : array
            A key of `gvae.random`.
        shape : tuple of int
            The leading axes.
        dtype : dtype
        like : array, optional
            An array on the device where the noise is wanted.

        Returns
        -------
        array (..., n)
            Noise of draws of shape (*shape, n); `Mixture` has n + 1 entries on the last axis.

        Examples
        --------
        >>> family = gvae.families.parse("chain", 3)
        >>> eps = family.noise(gvae.random.key(0), (20, 100), np.float32)
        >>> family(np.zeros((100, family.n_params), np.float32)).sample(eps).shape
        (20, 100, 3)
        """
        return self.distribution.draw_noise(key, (*shape, self.n), dtype, like)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={self.n})"


def unbounded(value: Array, limit: float) -> Array:
    """The unconstrained parameter that `elementwise.bounded` maps to this value."""
    return limit * np.arctanh(value / limit)
