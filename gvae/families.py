"""Families: raw network outputs -> a distribution. One family serves as posterior, prior or observation model alike.

    family = parse("extended_grid:4x4", 16)
    q = family(raw)                     raw : (..., family.n_params), any real numbers

Every raw number is first bounded smoothly, c tanh(raw / c): near 0 it is the number itself, far out it saturates at c, so
that any raw in +-1e4 gives a finite sample, KL and gradient in float32 and float64. Raw 0 is N(0, I), or a fair coin.

`n_shared` of the raw numbers (the last ones) are by default not emitted per data point but learned once for all data: see
`Conditional`, which ties a network to a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gvae import graphs
from gvae.distributions import (
    AR1Gaussian,
    BandedGaussian,
    BernoulliDistribution,
    DenseGaussian,
    DiagonalGaussian,
    Distribution,
    LowRankGaussian,
)
from gvae.errors import ConfigError
from gvae.nn import MLP
from gvae.ops import arrays, banded, elementwise

__all__ = [
    "AR1",
    "FAMILIES",
    "Bernoulli",
    "Cholesky",
    "Conditional",
    "Diagonal",
    "Dominant",
    "Family",
    "Full",
    "Gaussian",
    "LowRank",
    "parse",
]

LOG_SCALE = math.log(1e3)  # conditional standard deviations lie in (1e-3, 1e3)
GAIN = 1e8  # no entry of a unit factor's inverse exceeds this
RHO = 0.999
LOWRANK = 1e2
EDGE = 1e3


def bounded(raw: Any, limit: float) -> Any:
    """limit * tanh(raw / limit): the identity near 0, within (-limit, limit) everywhere."""
    return limit * elementwise.tanh(raw / limit)


class Family:
    """A map from raw numbers to distributions over n variables.

    n        : variables                         n_params : raw numbers per distribution
    n_shared : how many of these (the last) are by default learned once instead of emitted per data point
    name     : the text that `parse` reads back
    """

    name: str
    n_shared = 0
    distribution: type[Distribution]

    def __init__(self, n: int, n_params: int):
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ConfigError(f"{type(self).__name__}: n is {n!r}, expected an integer of at least 1")
        self.n, self.n_params = n, n_params

    def __call__(self, raw: Any, shared: Any = None) -> Distribution:
        """raw : (..., n_params); or (..., n_params - n_shared) with the shared numbers (n_shared,) beside it."""
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

    def _make(self, raw: Any, shared: Any = None) -> Distribution:
        raise NotImplementedError

    @property
    def reparameterized(self) -> bool:
        return self.distribution.reparameterized

    def noise(self, key: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The noise of draws of shape (*shape, n), before any distribution exists."""
        return self.distribution.draw_noise(key, (*shape, self.n), dtype)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, n={self.n})"


class Diagonal(Family):
    """Independent Gaussians. raw: mean (n), log standard deviations (n), bounded by log 1e3."""

    name = "diagonal"
    distribution = DiagonalGaussian

    def __init__(self, n: int):
        super().__init__(n, 2 * n)

    def _make(self, raw, shared=None):
        n = self.n
        return DiagonalGaussian(raw[..., :n], bounded(raw[..., n:], LOG_SCALE))


class Cholesky(Family):
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
        self._edges = np.flatnonzero(graph.mask[1:])

    def _make(self, raw, shared=None):
        n, M = self.n, len(self.graph.offsets)
        diagonal = elementwise.exp(-bounded(raw[..., n : 2 * n], LOG_SCALE))[..., None, :]
        if M == 1:
            return BandedGaussian(raw[..., :n], diagonal, (0,), check=False)
        ratios = arrays.place(bounded(raw[..., 2 * n :], self.limit), index=self._edges, size=(M - 1) * n)
        ratios = arrays.reshape(ratios, shape=(*raw.shape[:-1], M - 1, n))
        chol = arrays.concatenate([diagonal, ratios * diagonal], axis=-2)
        return BandedGaussian(raw[..., :n], chol, self.graph.offsets, check=False)


class Dominant(Family):
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
        self._edges = np.flatnonzero(graph.mask[1:])

    def _make(self, raw, shared=None):
        n, offsets = self.n, self.graph.offsets
        a = elementwise.exp(-bounded(raw[..., n : 2 * n], LOG_SCALE))
        zero = np.zeros((*raw.shape[:-1], 1, n), raw.dtype)
        diagonal, rows = 1.0, {}
        if len(offsets) > 1:
            w = arrays.place(bounded(raw[..., 2 * n :], EDGE), index=self._edges, size=(len(offsets) - 1) * n)
            for k, o in enumerate(offsets[1:]):
                w_k = w[..., k * n : (k + 1) * n]  # entry j ties variables j and j + o
                size = elementwise.abs(w_k)
                diagonal = diagonal + size + _shift(size, o)
                rows[o] = (a * _shift(a, -o) * w_k)[..., None, :]
        rows[0] = (elementwise.square(a) * diagonal)[..., None, :]
        ab = arrays.concatenate([rows.get(d, zero) for d in range(offsets[-1] + 1)], axis=-2)
        chol = banded.cholesky_banded(ab, check=False)
        return BandedGaussian(raw[..., :n], chol, check=False)


def _shift(x: Any, o: int) -> Any:
    """y_j = x_(j - o), zero where there is none: moved o places up (o > 0) or down the last axis."""
    n = x.shape[-1]
    size = min(abs(o), n)
    pad = np.zeros((*x.shape[:-1], size), x.dtype)
    parts = [pad, x[..., : n - size]] if o > 0 else [x[..., size:], pad]
    return arrays.concatenate(parts, axis=-1)


class AR1(Family):
    """Covariance s rho^|i-j|. raw: mean (n), log s / 2 bounded by log 1e3, rho = 0.999 tanh(raw)."""

    name = "ar1"
    distribution = AR1Gaussian

    def __init__(self, n: int):
        super().__init__(n, n + 2)

    def _make(self, raw, shared=None):
        n = self.n
        variance = elementwise.exp(2 * bounded(raw[..., n], LOG_SCALE))
        return AR1Gaussian(raw[..., :n], variance, RHO * elementwise.tanh(raw[..., n + 1]))


class LowRank(Family):
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

    def _make(self, raw, shared=None):
        n = self.n
        root = elementwise.exp(-bounded(raw[..., n : 2 * n], LOG_SCALE))
        v = bounded(raw[..., 2 * n :], LOWRANK / math.sqrt(n * self.rank))
        v = arrays.reshape(v, shape=(*raw.shape[:-1], self.rank, n))
        return LowRankGaussian(raw[..., :n], elementwise.square(root), v * root[..., None, :])


class Full(Family):
    """Any covariance, R Rᵀ with a dense lower-triangular R: n (n + 1) / 2 numbers, O(n²) per sample.

    raw: mean (n), log R_jj bounded by log 1e3 (n), the entries of R below the diagonal, row by row, bounded by 1e3.
    """

    name = "full"
    distribution = DenseGaussian

    def __init__(self, n: int):
        super().__init__(n, 2 * n + n * (n - 1) // 2)
        i, j = np.tril_indices(n, -1)
        self._diagonal, self._below = np.arange(n) * (n + 1), i * n + j

    def _make(self, raw, shared=None):
        n = self.n
        diagonal = elementwise.exp(bounded(raw[..., n : 2 * n], LOG_SCALE))
        r = arrays.place(diagonal, index=self._diagonal, size=n * n)
        if n > 1:
            r = elementwise.add(r, arrays.place(bounded(raw[..., 2 * n :], 1e3), index=self._below, size=n * n))
        return DenseGaussian(raw[..., :n], arrays.reshape(r, shape=(*raw.shape[:-1], n, n)))


class Gaussian(Family):
    """Independent Gaussians with one learned standard deviation per variable, the same for all data (as in factor
    analysis). raw: mean (n), log standard deviations (n, shared), floored at 1e-3: without a floor the likelihood of a
    pixel that never changes has no maximum."""

    name = "gaussian"
    distribution = DiagonalGaussian

    def __init__(self, n: int):
        super().__init__(n, 2 * n)
        self.n_shared = n

    def _make(self, raw, shared=None):
        return DiagonalGaussian(raw, bounded(shared, LOG_SCALE))


class Bernoulli(Family):
    """Independent binary variables. raw: logits (n)."""

    name = "bernoulli"
    distribution = BernoulliDistribution

    def __init__(self, n: int):
        super().__init__(n, n)

    def _make(self, raw, shared=None):
        return BernoulliDistribution(raw)


def _sized(name: str, make: Callable[[int, int], Family]) -> Callable[[int, str | None], Family]:
    def build(n: int, setting: str | None) -> Family:
        if setting is None:
            rows = max((r for r in range(2, math.isqrt(n) + 1) if n % r == 0), default=0)
            if not rows:
                raise ConfigError(f"{name}: {n} variables form no grid; write its size, as in {name}:1x{n}")
            return make(rows, n // rows)
        parts = setting.split("x")
        if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise ConfigError(f"{name}: size is {setting!r}, expected ROWSxCOLUMNS such as 4x4")
        rows, cols = map(int, parts)
        if rows * cols != n:
            raise ConfigError(f"{name}:{setting} has {rows} x {cols} = {rows * cols} variables, expected {n}")
        return make(rows, cols)

    return build


def _counted(name: str, make: Callable[[int, int], Family], default: int, least: int) -> Callable:
    def build(n: int, setting: str | None) -> Family:
        if setting is not None and not setting.isdecimal():
            raise ConfigError(f"{name}: its number is {setting!r}, expected an integer such as {name}:{default}")
        number = default if setting is None else int(setting)
        if number < least:
            raise ConfigError(f"{name}: its number is {number}, expected at least {least}")
        return make(n, number)

    return build


def _plain(make: Callable[[int], Family]) -> Callable[[int, str | None], Family]:
    def build(n: int, setting: str | None) -> Family:
        family = make(n)
        if setting is not None:
            raise ConfigError(f"{family.name} takes no size, got {family.name}:{setting}")
        return family

    return build


FAMILIES: dict[str, Callable[[int, str | None], Family]] = {
    "diagonal": _plain(Diagonal),
    "independent": _plain(lambda n: Cholesky(graphs.independent(n))),
    "chain": _plain(lambda n: Cholesky(graphs.chain(n))),
    "band": _counted("band", lambda n, w: Cholesky(graphs.band(n, w)), 2, 0),
    "grid": _sized("grid", lambda rows, cols: Dominant(graphs.grid(rows, cols))),
    "extended_grid": _sized("extended_grid", lambda rows, cols: Cholesky(graphs.extended_grid(rows, cols))),
    "ar1": _plain(AR1),
    "lowrank": _counted("lowrank", LowRank, 1, 1),
    "full": _plain(Full),
    "gaussian": _plain(Gaussian),
    "bernoulli": _plain(Bernoulli),
}


def parse(text: str | Family, n: int) -> Family:
    """The family that a text names: "diagonal", "chain", "band:3", "extended_grid:4x4", "lowrank:2", ...

    Raises ConfigError: an unknown name (with the list of known ones), a size that does not fit n.
    """
    if isinstance(text, Family):
        if text.n != n:
            raise ConfigError(f"{text!r} has {text.n} variables, expected {n}")
        return text
    if not isinstance(text, str):
        raise ConfigError(f"a family is written as text such as 'chain', got {text!r}")
    name, _, setting = text.partition(":")
    if name not in FAMILIES or (":" in text and not setting):
        raise ConfigError(f"unknown family {text!r}; known are {', '.join(FAMILIES)} (band:3, extended_grid:4x4, lowrank:2)")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"{name}: the number of variables is {n!r}, expected an integer of at least 1")
    return FAMILIES[name](n, setting or None)


class Conditional:
    """p(y | x) = family(network(x)): an encoder, a decoder, or one layer given another.

    The network emits the family's raw numbers, except the shared ones, which are parameters of their own.
    """

    def __init__(self, name: str, n_inputs: int, family: Family, hidden: Sequence[int] = (), activation: str = "elu"):
        self.name, self.family = name, family
        self.network = MLP(name, (n_inputs, *hidden, family.n_params - family.n_shared), activation)

    def init(self, key: np.ndarray, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        params = self.network.init(key, dtype)
        if self.family.n_shared:
            params[f"{self.name}.shared"] = np.zeros(self.family.n_shared, dtype)
        return params

    def __call__(self, params: Mapping[str, Any], x: Any) -> Distribution:
        """p(y | x); where params have raw numbers of each row as `NAME.raw`, those instead of the network's."""
        raw = params.get(f"{self.name}.raw")
        if raw is not None:
            return self.family(raw)
        return self.family(self.network(params, x), params.get(f"{self.name}.shared"))

    def raw(self, params: Mapping[str, Any], x: Any) -> np.ndarray:
        """All of the family's raw numbers for each row, the shared ones included: (..., n_params)."""
        emitted, shared = self.network(params, x), params.get(f"{self.name}.shared")
        if shared is None:
            return emitted
        return np.concatenate([emitted, np.broadcast_to(shared, (*emitted.shape[:-1], len(shared)))], axis=-1)
