"""Families of Gaussians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

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
SMALL = 0.1  # the length of a row of V at the start
EDGE = 1e3
BELOW = 1e3


class Located(Family):
    """Gaussians whose raw numbers are a mean (n) and then whatever shapes the covariance."""

    def _make(self, raw, shared=None):
        return self.at(raw[..., : self.n], raw[..., self.n :])

    def at(self, mean: Any, rest: Any) -> Distribution:
        """The Gaussian with this mean and these further raw numbers, whose batch axes may be fewer."""
        raise NotImplementedError

    def start_weight(self, weight):
        return np.concatenate([weight[:, : self.n], np.zeros_like(weight[:, self.n :])], axis=1)

    def located(self, raw, mean):
        return np.concatenate([mean, raw[self.n :]]).astype(raw.dtype)


class Shared(Family):
    """Gaussians of another family with a mean of their own each; all else is learned once for all data: shared:chain."""

    def __init__(self, family: Located):
        if not isinstance(family, Located):
            raise ConfigError(f"shared: {family} has no mean beside its other numbers, expected a family of Gaussians")
        super().__init__(family.n, family.n_params)
        self.family, self.distribution = family, family.distribution
        self.n_shared, self.name, self.one_scale = family.n_params - family.n, f"shared:{family}", family.one_scale

    def _make(self, raw, shared=None):
        return self.family.at(raw, shared)

    def start(self, key, dtype):
        return self.family.start(key, dtype)

    def located(self, raw, mean):
        return mean.astype(raw.dtype)


class Diagonal(Located):
    """Independent Gaussians. raw: mean (n), log standard deviations (n), bounded by log 1e3."""

    name = "diagonal"
    distribution = DiagonalGaussian

    def __init__(self, n: int):
        super().__init__(n, 2 * n)

    def at(self, mean, rest):
        return DiagonalGaussian(mean, elementwise.bounded(rest, limit=LOG_SCALE))


class Cholesky(Located):
    """Gaussians whose precision P = L Lᵀ has a factor L on a graph's pattern; L is emitted, so P > 0 by construction.

    raw: mean (n); log standard deviation of each variable given the later ones, -log L_jj (n), bounded by log 1e3; one
    number per edge (i, j), the ratio L_ij / L_jj, bounded by R / (M - 1) with R = max(1, 1e8^(1/n)) and M - 1 edges per
    variable. Such a ratio is (minus) the coefficient of z_i in the regression of z_j on later variables. The bound keeps
    the solve's growth R^n below 1e8; at n = 16 a chain's ratios reach +-3.2, an extended grid's +-1.6.
    Source: Peste and Malagò, with the off-diagonals bounded relative to the diagonal.
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

    def at(self, mean, rest):
        n, M = self.n, len(self.graph.offsets)
        diagonal = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))[..., None, :]
        if M == 1:
            return BandedGaussian(mean, diagonal, (0,), check=False)
        ratios = arrays.place(elementwise.bounded(rest[..., n:], limit=self.limit), index=self._edges, size=(M - 1) * n)
        ratios = arrays.reshape(ratios, shape=(*rest.shape[:-1], M - 1, n))
        chol = arrays.concatenate([diagonal, ratios * diagonal], axis=-2)
        return BandedGaussian(mean, chol, self.graph.offsets, check=False)


class Dominant(Located):
    """Gaussians whose precision P itself lies on a graph, made positive definite by diagonal dominance.

    raw: mean (n); log standard deviation of each variable given all others, were it free of edges (n), bounded by log 1e3;
    one number w_e per edge, bounded by 1e3. With a_v = e^-log_scale,

        P = diag(a) K diag(a),    K_vv = 1 + sum_{e at v} |w_e|,    K_uv = w_e

    and every eigenvalue of K is at least 1 (Gershgorin). The family holds scaled diagonally dominant matrices only: some
    positive definite matrices on the graph are left out. Where w_e = 0, |w_e| has the subgradient 0. The factor comes from
    a banded Cholesky factorisation and fills in up to the graph's last offset: O(n w²).
    Source: Peste and Malagò's regular grid, with the diagonal scaled so that float32 always factorises it.
    """

    distribution = BandedGaussian

    def __init__(self, graph: graphs.Graph):
        super().__init__(graph.n, graph.n + int(graph.mask.sum()))
        self.graph, self.name = graph, graph.name
        self._edges = _constant(np.flatnonzero(graph.mask[1:]))

    def at(self, mean, rest):
        n, offsets = self.n, self.graph.offsets
        a = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        zero = device.zeros((*rest.shape[:-1], 1, n), rest.dtype, rest)
        diagonal, rows = 1.0, {}
        if len(offsets) > 1:
            w = arrays.place(elementwise.bounded(rest[..., n:], limit=EDGE), index=self._edges, size=(len(offsets) - 1) * n)
            for k, o in enumerate(offsets[1:]):
                w_k = w[..., k * n : (k + 1) * n]  # entry j ties variables j and j + o
                size = elementwise.abs(w_k)
                diagonal = diagonal + size + _shift(size, o)
                rows[o] = (a * _shift(a, -o) * w_k)[..., None, :]
        rows[0] = (elementwise.square(a) * diagonal)[..., None, :]
        ab = arrays.concatenate([rows.get(d, zero) for d in range(offsets[-1] + 1)], axis=-2)
        chol = banded.cholesky_banded(ab, check=False)
        return BandedGaussian(mean, chol, check=False)


def _constant(positions: np.ndarray) -> np.ndarray:
    """Positions that never change: a device needs them once (see device.beside)."""
    positions.flags.writeable = False
    return positions


def _shift(x: Any, o: int) -> Any:
    """y_j = x_(j - o), zero where there is none: moved o places up (o > 0) or down the last axis."""
    n = x.shape[-1]
    size = min(abs(o), n)
    pad = device.zeros((*x.shape[:-1], size), x.dtype, x)
    parts = [pad, x[..., : n - size]] if o > 0 else [x[..., size:], pad]
    return arrays.concatenate(parts, axis=-1)


class AR1(Located):
    """Covariance s rho^|i-j|. raw: mean (n), log s / 2 bounded by log 1e3, rho = 0.999 tanh(raw)."""

    name = "ar1"
    one_scale = True
    distribution = AR1Gaussian

    def __init__(self, n: int):
        super().__init__(n, n + 2)

    def at(self, mean, rest):
        variance = elementwise.exp(2 * elementwise.bounded(rest[..., 0], limit=LOG_SCALE))
        return AR1Gaussian(mean, variance, RHO * elementwise.tanh(rest[..., 1]))


class RandomWalk(Located):
    """A random walk from a proper start: z_1 has variance s_0, z_j - z_(j-1) has variance s.

    raw: mean (n), log s_0 / 2 and log s / 2, each bounded by log 1e3. With v_j = s_0 + (j - 1) s, the precision L Lᵀ has
    L_jj = (v_(j+1) / (v_j s))^1/2, L_nn = v_n^-1/2 and L_(j+1)j = -L_jj v_j / v_(j+1). Raw 0 is that walk, not N(0, I).
    """

    name = "random_walk"
    one_scale = True
    distribution = BandedGaussian

    def __init__(self, n: int):
        super().__init__(n, n + 2)

    def at(self, mean, rest):
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
    """Precision D^1/2 (I + VᵀV) D^1/2 with V of `rank` rows: a diagonal plus low rank.

    raw: mean (n), -log d / 2 bounded by log 1e3 (n), V bounded by 100 / sqrt(n rank) (rank * n), so that a row of V
    multiplies a precision by at most 1e4 and I + V Vᵀ stays well-conditioned in float32.
    """

    distribution = LowRankGaussian

    def __init__(self, n: int, rank: int = 1):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ConfigError(f"LowRank: rank is {rank!r}, expected an integer of at least 1")
        super().__init__(n, (2 + rank) * n)
        self.rank, self.name = rank, f"lowrank:{rank}"

    def at(self, mean, rest):
        n = self.n
        root = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        v = elementwise.bounded(rest[..., n:], limit=LOWRANK / math.sqrt(n * self.rank))
        v = arrays.reshape(v, shape=(*rest.shape[:-1], self.rank, n))
        return LowRankGaussian(mean, elementwise.square(root), v * root[..., None, :])

    def start(self, key, dtype):
        """A small random V: at V = 0, where its sign makes no difference, its gradient is zero."""
        raw = super().start(key, dtype)
        raw[2 * self.n :] = SMALL / math.sqrt(self.n) * random.normal(key, self.rank * self.n, dtype)
        return raw


class Full(Located):
    """Any covariance, R Rᵀ with a dense lower-triangular R = diag(s) (I + B): n (n + 1) / 2 numbers, O(n²) per sample.

    raw: mean (n), log s bounded by log 1e3 (n), the entries of B below the diagonal, row by row, bounded by 1e3. So B alone
    says how variables correlate, whatever their scales: a step of B is as large for a narrow variable as for a wide one.
    absolute : the entries of R itself below the diagonal, not those of B, as in earlier versions
    """

    distribution = DenseGaussian

    def __init__(self, n: int, absolute: bool = False):
        super().__init__(n, 2 * n + n * (n - 1) // 2)
        i, j = np.tril_indices(n, -1)
        self._diagonal, self._below = _constant(np.arange(n) * (n + 1)), _constant(i * n + j)
        self.absolute, self.name = absolute, "full:absolute" if absolute else "full"

    def at(self, mean, rest):
        n, shape = self.n, (*rest.shape[:-1], self.n, self.n)
        scale = elementwise.exp(elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        r = arrays.reshape(arrays.place(scale, index=self._diagonal, size=n * n), shape=shape)
        if n > 1:
            below = arrays.place(elementwise.bounded(rest[..., n:], limit=BELOW), index=self._below, size=n * n)
            below = arrays.reshape(below, shape=shape)
            r = elementwise.add(r, below if self.absolute else below * scale[..., None])
        return DenseGaussian(mean, r)

    def unconstrained(self, r: np.ndarray) -> np.ndarray:
        """The parameters beyond the mean, (n (n + 1) / 2,), from which R is this lower-triangular matrix (n, n)."""
        scale = np.diag(r)
        below = r if self.absolute else r / scale[:, None]
        below = below[np.tril_indices(self.n, -1)]
        return np.concatenate([unbounded(np.log(scale), LOG_SCALE), unbounded(below, BELOW)])


class Gaussian(Shared):
    """Independent Gaussians with one learned standard deviation per variable, the same for all data (as in factor
    analysis): shared:diagonal. raw: mean (n), log standard deviations (n, shared), floored at 1e-3: without a floor the
    likelihood of a pixel that never changes has no maximum. With standard deviations emitted per datum: diagonal."""

    def __init__(self, n: int):
        super().__init__(Diagonal(n))
        self.name = "gaussian"


class Mixture(Family):
    """A mixture of C independent Gaussians. raw: logits (C), means (C n), log standard deviations (C n), bounded by log 1e3.

    Raw 0 is N(0, I), from which equal components could not part: `start` draws their means.
    """

    distribution = GaussianMixture

    def __init__(self, n: int, components: int):
        if not isinstance(components, int) or isinstance(components, bool) or components < 1:
            raise ConfigError(f"Mixture: components is {components!r}, expected an integer of at least 1")
        super().__init__(n, components * (1 + 2 * n))
        self.components, self.name = components, f"mixture:{components}"
        self._means = slice(components, components * (1 + n))

    def _make(self, raw, shared=None):
        C, n, lead = self.components, self.n, raw.shape[:-1]
        mean, log_scale = (
            arrays.reshape(part, shape=(*lead, C, n)) for part in (raw[..., self._means], raw[..., self._means.stop :])
        )
        return GaussianMixture(raw[..., :C], mean, elementwise.bounded(log_scale, limit=LOG_SCALE))

    def start(self, key, dtype):
        raw = super().start(key, dtype)
        raw[self._means] = random.normal(key, self.components * self.n, dtype)
        return raw

    def start_weight(self, weight):
        start = np.zeros_like(weight)
        start[:, self._means] = weight[:, self._means]
        return start
