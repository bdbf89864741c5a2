"""Families of Gaussians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import graphs, random
from gvae.distributions import (
    AR1Gaussian,
    BandedGaussian,
    DenseGaussian,
    DiagonalGaussian,
    Distribution,
    GaussianMixture,
    LowRankGaussian,
)
from gvae.errors import ConfigError
from gvae.families.base import LOG_SCALE, Family, unbounded
from gvae.ops import arrays, banded, elementwise
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = [
    "AR1",
    "Cholesky",
    "Diagonal",
    "Dominant",
    "Full",
    "Gaussian",
    "Located",
    "LowRank",
    "Mixture",
    "RandomWalk",
    "Shared",
]

GAIN = 1e8  # no entry of a unit factor's inverse exceeds this
RHO = 0.999
LOWRANK = 1e2
SMALL = 0.1  # the norm of a row of V at the start
EDGE = 1e3
BELOW = 1e3


class Located(Family):
    """Base class of Gaussians whose unconstrained parameters are a mean (n), followed by the parameters of the covariance.

    A subclass defines `at`.

    Parameters
    ----------
    n : int
        The number of variables.
    n_params : int
        The number of unconstrained parameters per distribution.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> class Isotropic(gvae.families.Located):
    ...     name, distribution = "isotropic", gvae.distributions.DiagonalGaussian
    ...     def __init__(self, n):
    ...         super().__init__(n, n + 1)
    ...     def at(self, mean, rest):
    ...         return self.distribution(mean, gvae.ops.bounded(rest, limit=gvae.families.LOG_SCALE) + np.zeros(self.n))
    >>> Isotropic(3)(np.zeros((100, 4)))
    DiagonalGaussian(batch_shape=(100,), n=3)
    """

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return self.at(raw[..., : self.n], raw[..., self.n :])

    def at(self, mean: Array, rest: Any) -> Distribution:
        """The Gaussian with this mean and these parameters of the covariance.

        Parameters
        ----------
        mean : array (..., n)
        rest : array (..., n_params - n)
            The unconstrained parameters after the mean. They may have fewer batch axes than the mean.

        Returns
        -------
        Distribution

        Raises
        ------
        NotImplementedError
            The class does not define it.

        Examples
        --------
        >>> family = gvae.families.parse("chain", 3)
        >>> q = family.at(np.zeros((100, 3)), np.array([0.0, 0.0, 0.0, 1.0, 1.0]))
        >>> q.batch_shape, q.variance().round(3)
        ((100,), array([3., 2., 1.]))
        """
        raise NotImplementedError

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        return np.concatenate([weight[:, : self.n], np.zeros_like(weight[:, self.n :])], axis=1)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.concatenate([mean, raw[self.n :]]).astype(raw.dtype)


class Shared(Family):
    """Gaussians of another family, each with its own mean; the other parameters are learned once for all data: shared:chain.

    Parameters
    ----------
    family : Located

    Raises
    ------
    ConfigError
        The family is not one of Gaussians.

    Examples
    --------
    >>> family = gvae.families.parse("shared:chain", 3)
    >>> family.n_params, family.n_shared
    (8, 5)
    >>> family(np.zeros((100, 3)), np.array([0.0, 0.0, 0.0, 1.0, 1.0])).variance().round(3)
    array([3., 2., 1.])
    """

    def __init__(self, family: Located):
        if not isinstance(family, Located):
            raise ConfigError(f"shared: {family} is not a location family, expected a family of Gaussians")
        super().__init__(family.n, family.n_params)
        self.family, self.distribution = family, family.distribution
        self.n_shared, self.name, self.one_scale = family.n_params - family.n, f"shared:{family}", family.one_scale

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        return self.family.at(raw, shared)

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        return self.family.start(key, dtype)

    def located(self, raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return mean.astype(raw.dtype)


class Diagonal(Located):
    """Independent Gaussians. Unconstrained parameters: mean (n), log standard deviations (n), bounded by log 1e3.

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> q = gvae.families.Diagonal(2)(np.array([1.0, -1.0, 0.0, -2.0]))
    >>> q.mean, q.variance().round(3)
    (array([ 1., -1.]), array([1.  , 0.02]))
    """

    name = "diagonal"
    distribution = DiagonalGaussian

    def __init__(self, n: int):
        super().__init__(n, 2 * n)

    def at(self, mean: Array, rest: Array) -> Distribution:
        return DiagonalGaussian(mean, elementwise.bounded(rest, limit=LOG_SCALE))


class Cholesky(Located):
    """Gaussians whose precision P = L Lᵀ has a factor L on a graph's pattern; L is emitted, so P > 0 by construction.

    Unconstrained parameters: mean (n); log standard deviation of each variable given the later ones, -log L_jj (n), bounded
    by log 1e3; for each edge (i, j) the ratio L_ij / L_jj, bounded by R / (M - 1) with R = max(1, 1e8^(1/n)) and M - 1 edges
    per variable.

    Parameters
    ----------
    graph : Graph
        See `gvae.graphs`.

    Raises
    ------
    ConfigError
        The factor of the graph fills in beyond the graph.

    Notes
    -----
    A ratio is (minus) the coefficient of z_i in the regression of z_j on later variables. The bound keeps the solve's growth
    R^n below 1e8; at n = 16 a chain's ratios reach +-3.2, an extended grid's +-1.6.
    Source: Peste and Malagò, with the off-diagonals bounded relative to the diagonal.

    Examples
    --------
    >>> family = gvae.families.Cholesky(gvae.graphs.chain(3))
    >>> q = family(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -1.0]))
    >>> q.chol.round(3)
    array([[ 1.,  1.,  1.],
           [-1., -1.,  0.]])
    >>> q.covariance().round(3)
    array([[3., 2., 1.],
           [2., 2., 1.],
           [1., 1., 1.]])
    """

    distribution = BandedGaussian

    def __init__(self, graph: graphs.Graph):
        if graph.offsets != graph.factor_offsets:
            raise ConfigError(f"Cholesky: the factor of a {graph.name} fills in beyond the graph; use extended_grid")
        super().__init__(graph.n, graph.n + int(graph.mask.sum()))
        self.graph, self.name = graph, graph.name
        M = len(graph.offsets)
        self.limit = max(1.0, GAIN ** (1 / graph.n)) / max(M - 1, 1)
        # a flat row-major (M - 1, n) block holds the edges at these positions
        self._edges = _constant(np.flatnonzero(graph.mask[1:]))

    def at(self, mean: Array, rest: Array) -> Distribution:
        n, M = self.n, len(self.graph.offsets)
        diagonal = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))[..., None, :]
        if M == 1:
            return BandedGaussian(mean, diagonal, (0,), check=False)
        ratios = arrays.scatter_last(
            elementwise.bounded(rest[..., n:], limit=self.limit), index=self._edges, size=(M - 1) * n
        )
        ratios = arrays.reshape(ratios, shape=(*rest.shape[:-1], M - 1, n))
        chol = arrays.concatenate([diagonal, ratios * diagonal], axis=-2)
        return BandedGaussian(mean, chol, self.graph.offsets, check=False)


class Dominant(Located):
    """Gaussians whose precision P lies on a graph, made positive definite by diagonal dominance.

    Unconstrained parameters: mean (n); log standard deviation of each variable given all others if it had no edges (n),
    bounded by log 1e3; one w_e per edge, bounded by 1e3. With a_v = e^-log_scale,

        P = diag(a) K diag(a),    K_vv = 1 + sum_{e at v} |w_e|,    K_uv = w_e

    and every eigenvalue of K is at least 1 (Gershgorin).

    Parameters
    ----------
    graph : Graph
        See `gvae.graphs`.

    Notes
    -----
    The family has scaled diagonally dominant matrices only, not all positive definite matrices on the graph. Where w_e = 0,
    |w_e| has the subgradient 0. The factor comes from a banded Cholesky factorisation and fills in up to the graph's last
    offset w: O(n w²).
    Source: Peste and Malagò's regular grid, with the diagonal scaled so that float32 always factorises it.

    Examples
    --------
    >>> family = gvae.families.Dominant(gvae.graphs.grid(2, 2))
    >>> family
    Dominant('grid:2x2', n=4)
    >>> q = family(np.array([0.0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1]))
    >>> np.linalg.inv(q.covariance()).round(3) + 0.0
    array([[ 3., -1., -1.,  0.],
           [-1.,  3.,  0., -1.],
           [-1.,  0.,  3., -1.],
           [ 0., -1., -1.,  3.]])
    """

    distribution = BandedGaussian

    def __init__(self, graph: graphs.Graph):
        super().__init__(graph.n, graph.n + int(graph.mask.sum()))
        self.graph, self.name = graph, graph.name
        self._edges = _constant(np.flatnonzero(graph.mask[1:]))

    def at(self, mean: Array, rest: Array) -> Distribution:
        n, offsets = self.n, self.graph.offsets
        a = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        zero = device.zeros((*rest.shape[:-1], 1, n), rest.dtype, rest)
        diagonal, rows = 1.0, {}
        if len(offsets) > 1:
            w = arrays.scatter_last(
                elementwise.bounded(rest[..., n:], limit=EDGE), index=self._edges, size=(len(offsets) - 1) * n
            )
            for k, o in enumerate(offsets[1:]):
                w_k = w[..., k * n : (k + 1) * n]  # entry j is the edge between variables j and j + o
                size = elementwise.abs(w_k)
                diagonal = diagonal + size + _shift(size, o)
                rows[o] = (a * _shift(a, -o) * w_k)[..., None, :]
        rows[0] = (elementwise.square(a) * diagonal)[..., None, :]
        ab = arrays.concatenate([rows.get(d, zero) for d in range(offsets[-1] + 1)], axis=-2)
        chol = banded.cholesky_banded(ab, check=False)
        return BandedGaussian(mean, chol, check=False)


def _constant(positions: np.ndarray) -> np.ndarray:
    """Positions that never change: they are copied to a device only once (see device.beside)."""
    positions.flags.writeable = False
    return positions


def _shift(x: Array, o: int) -> Array:
    """y_j = x_(j - o), zero where there is none: moved o places up (o > 0) or down the last axis."""
    n = x.shape[-1]
    size = min(abs(o), n)
    pad = device.zeros((*x.shape[:-1], size), x.dtype, x)
    parts = [pad, x[..., : n - size]] if o > 0 else [x[..., size:], pad]
    return arrays.concatenate(parts, axis=-1)


class AR1(Located):
    """Gaussians with covariance s rho^|i-j|. Unconstrained: mean (n), log s / 2 bounded by log 1e3, rho = 0.999 tanh(raw).

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> q = gvae.families.AR1(3)(np.array([0.0, 0.0, 0.0, 0.0, 1.0]))
    >>> q.covariance().round(3)
    array([[1.   , 0.761, 0.579],
           [0.761, 1.   , 0.761],
           [0.579, 0.761, 1.   ]])
    """

    name = "ar1"
    one_scale = True
    distribution = AR1Gaussian

    def __init__(self, n: int):
        super().__init__(n, n + 2)

    def at(self, mean: Array, rest: Array) -> Distribution:
        variance = elementwise.exp(2 * elementwise.bounded(rest[..., 0], limit=LOG_SCALE))
        return AR1Gaussian(mean, variance, RHO * elementwise.tanh(rest[..., 1]))


class RandomWalk(Located):
    """Random walks with a proper start: z_1 has variance s_0, z_j - z_(j-1) has variance s.

    Unconstrained parameters: mean (n), log s_0 / 2 and log s / 2, each bounded by log 1e3. Parameters 0 are the walk with
    s_0 = s = 1, not N(0, I).

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Notes
    -----
    With v_j = s_0 + (j - 1) s, the precision L Lᵀ has L_jj = (v_(j+1) / (v_j s))^1/2, L_nn = v_n^-1/2 and
    L_(j+1)j = -L_jj v_j / v_(j+1).

    Examples
    --------
    >>> gvae.families.RandomWalk(3)(np.zeros(5)).covariance().round(3)
    array([[1., 1., 1.],
           [1., 2., 2.],
           [1., 2., 3.]])
    """

    name = "random_walk"
    one_scale = True
    distribution = BandedGaussian

    def __init__(self, n: int):
        super().__init__(n, n + 2)

    def at(self, mean: Array, rest: Array) -> Distribution:
        n = self.n
        start, step = (elementwise.exp(2 * elementwise.bounded(rest[..., i : i + 1], limit=LOG_SCALE)) for i in (0, 1))
        v = start + step * device.namespace(rest).arange(n, dtype=rest.dtype)
        if n == 1:
            return BandedGaussian(mean, elementwise.power(v, -0.5)[..., None, :], (0,), check=False)
        kept = v[..., :-1] / v[..., 1:]
        pivots = arrays.concatenate([elementwise.power(kept * step, -0.5), elementwise.power(v[..., -1:], -0.5)], axis=-1)
        zero = device.zeros((*rest.shape[:-1], 1), rest.dtype, rest)
        below = arrays.concatenate([-(kept * pivots[..., :-1]), zero], axis=-1)
        return BandedGaussian(mean, arrays.stack([pivots, below], axis=-2), (0, 1), check=False)


class LowRank(Located):
    """Gaussians with precision D^1/2 (I + VᵀV) D^1/2, where V has `rank` rows: a diagonal plus low rank.

    Unconstrained parameters: mean (n), -log d / 2 bounded by log 1e3 (n), V bounded by 100 / sqrt(n rank) (rank * n), so
    that a row of V multiplies a precision by at most 1e4 and I + V Vᵀ stays well-conditioned in float32.

    Parameters
    ----------
    n : int
        The number of variables.
    rank : int, default 1

    Raises
    ------
    ConfigError
        n or rank is not a positive integer.

    Examples
    --------
    >>> q = gvae.families.LowRank(3)(np.array([0.0, 0, 0, 0, 0, 0, 1, 1, 0]))
    >>> np.linalg.inv(q.covariance()).round(2) + 0.0
    array([[2., 1., 0.],
           [1., 2., 0.],
           [0., 0., 1.]])
    """

    distribution = LowRankGaussian

    def __init__(self, n: int, rank: int = 1):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ConfigError(f"LowRank: rank is {rank!r}, expected an integer of at least 1")
        super().__init__(n, (2 + rank) * n)
        self.rank, self.name = rank, f"lowrank:{rank}"

    def at(self, mean: Array, rest: Array) -> Distribution:
        n = self.n
        root = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        v = elementwise.bounded(rest[..., n:], limit=LOWRANK / math.sqrt(n * self.rank))
        v = arrays.reshape(v, shape=(*rest.shape[:-1], self.rank, n))
        return LowRankGaussian(mean, elementwise.square(root), v * root[..., None, :])

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        """A small random V: at V = 0, where the sign of V makes no difference, its gradient is zero."""
        raw = super().start(key, dtype)
        raw[2 * self.n :] = SMALL / math.sqrt(self.n) * random.normal(key, self.rank * self.n, dtype)
        return raw


class Full(Located):
    """Gaussians with any covariance R Rᵀ, where R = diag(s) (I + B) is dense and lower-triangular.

    Unconstrained parameters: mean (n), log s bounded by log 1e3 (n), the entries of B below the diagonal, row by row,
    bounded by 1e3. Only B determines the correlations, whatever the scales: a step of B is as large for a narrow variable
    as for a wide one.

    Parameters
    ----------
    n : int
        The number of variables.
    absolute : bool, default False
        Whether the entries below the diagonal are those of R itself, as in earlier versions, instead of those of B.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Notes
    -----
    The covariance has n (n + 1) / 2 parameters. O(n²) per sample.

    Examples
    --------
    >>> q = gvae.families.Full(2)(np.array([0.0, 0.0, 0.0, np.log(2.0), 1.0]))
    >>> q.scale_tril.round(2)
    array([[1., 0.],
           [2., 2.]])
    >>> q.covariance().round(2)
    array([[1.  , 2.  ],
           [2.  , 7.96]])
    """

    distribution = DenseGaussian

    def __init__(self, n: int, absolute: bool = False):
        super().__init__(n, 2 * n + n * (n - 1) // 2)
        i, j = np.tril_indices(n, -1)
        self._diagonal, self._below = _constant(np.arange(n) * (n + 1)), _constant(i * n + j)
        self.absolute, self.name = absolute, "full:absolute" if absolute else "full"

    def at(self, mean: Array, rest: Array) -> Distribution:
        n, shape = self.n, (*rest.shape[:-1], self.n, self.n)
        scale = elementwise.exp(elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        r = arrays.reshape(arrays.scatter_last(scale, index=self._diagonal, size=n * n), shape=shape)
        if n > 1:
            below = arrays.scatter_last(elementwise.bounded(rest[..., n:], limit=BELOW), index=self._below, size=n * n)
            below = arrays.reshape(below, shape=shape)
            r = elementwise.add(r, below if self.absolute else below * scale[..., None])
        return DenseGaussian(mean, r)

    def unconstrained(self, r: np.ndarray) -> np.ndarray:
        """The parameters after the mean whose factor R is the given matrix.

        Parameters
        ----------
        r : array (n, n)
            Lower-triangular, with a positive diagonal.

        Returns
        -------
        array (n (n + 1) / 2,)

        Examples
        --------
        >>> family = gvae.families.Full(2)
        >>> rest = family.unconstrained(np.array([[2.0, 0.0], [1.0, 0.5]]))
        >>> family.at(np.zeros(2), rest).scale_tril.round(4)
        array([[2. , 0. ],
               [1. , 0.5]])
        """
        scale = np.diag(r)
        below = r if self.absolute else r / scale[:, None]
        below = below[np.tril_indices(self.n, -1)]
        return np.concatenate([unbounded(np.log(scale), LOG_SCALE), unbounded(below, BELOW)])


class Gaussian(Shared):
    """Independent Gaussians with one learned standard deviation per variable, the same for all data: shared:diagonal.

    As in factor analysis. Unconstrained parameters: mean (n), log standard deviations (n, shared), with a lower limit of
    1e-3 for the standard deviations: without it the likelihood of a pixel that never changes has no maximum. `Diagonal`
    emits standard deviations per datum.

    Parameters
    ----------
    n : int
        The number of variables.

    Raises
    ------
    ConfigError
        n is not a positive integer.

    Examples
    --------
    >>> family = gvae.families.Gaussian(3)
    >>> family(np.zeros((100, 3)), np.array([0.0, -1.0, -2.0])).variance().round(3)
    array([1.   , 0.137, 0.02 ])
    """

    def __init__(self, n: int):
        super().__init__(Diagonal(n))
        self.name = "gaussian"


class Mixture(Family):
    """Mixtures of C independent Gaussians.

    Unconstrained parameters: logits (C), means (C n), log standard deviations (C n), bounded by log 1e3. Parameters 0 are
    N(0, I), at which equal components have equal gradients and stay equal: `start` draws their means.

    Parameters
    ----------
    n : int
        The number of variables.
    components : int
        The number C.

    Raises
    ------
    ConfigError
        n or components is not a positive integer.

    Examples
    --------
    >>> family = gvae.families.Mixture(1, 2)
    >>> p = family(np.array([0.0, 0.0, -2.0, 2.0, -1.0, -1.0]))
    >>> p.mean, p.variance().round(3)
    (array([0.]), array([4.137]))
    >>> family.start(gvae.random.key(0), np.float64).round(3)
    array([ 0.   ,  0.   , -0.122, -1.35 ,  0.   ,  0.   ])
    """

    distribution = GaussianMixture

    def __init__(self, n: int, components: int):
        if not isinstance(components, int) or isinstance(components, bool) or components < 1:
            raise ConfigError(f"Mixture: components is {components!r}, expected an integer of at least 1")
        super().__init__(n, components * (1 + 2 * n))
        self.components, self.name = components, f"mixture:{components}"
        self._means = slice(components, components * (1 + n))

    def _make(self, raw: Array, shared: Array = None) -> Distribution:
        C, n, lead = self.components, self.n, raw.shape[:-1]
        mean, log_scale = (
            arrays.reshape(part, shape=(*lead, C, n)) for part in (raw[..., self._means], raw[..., self._means.stop :])
        )
        return GaussianMixture(raw[..., :C], mean, elementwise.bounded(log_scale, limit=LOG_SCALE))

    def start(self, key: Key, dtype: DTypeLike) -> np.ndarray:
        raw = super().start(key, dtype)
        raw[self._means] = random.normal(key, self.components * self.n, dtype)
        return raw

    def start_weight(self, weight: np.ndarray) -> np.ndarray:
        start = np.zeros_like(weight)
        start[:, self._means] = weight[:, self._means]
        return start
