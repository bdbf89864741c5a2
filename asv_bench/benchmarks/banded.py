"""Gaussians with a banded factor. Baselines: "scipy" is LAPACK or CSR, for the solves and products one call for the whole
batch (systems side by side are one long banded system); "dense" is NumPy on (B, N, N) matrices."""

from __future__ import annotations

import math

import numpy as np

from .common import Benchmark, with_gradient

GRAPHS = ["chain", "band:4", "extended_grid"]
SHAPES = [(100, 16), (32, 256)]  # (B, N)


def offsets_of(graph: str, N: int) -> tuple[int, ...]:
    """The diagonals of the factor; an extended grid is square."""
    return {"chain": (0, 1), "band:4": (0, 1, 2, 3, 4), "extended_grid": (0, 1, math.isqrt(N))}[graph]


class Banded(Benchmark):
    param_names = ("implementation", "graph", "shape")

    def data(self, graph, shape):
        """(chol (B, M, N), a vector (B, N), offsets): well-conditioned, with zeros where an entry does not exist."""
        B, N = shape
        offsets = offsets_of(graph, N)
        chol = self.normal(B, len(offsets), N) * np.float32(0.6 / (len(offsets) - 1))
        chol[:, 0] = self.uniform(0.7, 2.0, B, N)
        for k, o in enumerate(offsets):
            chol[:, k, N - o :] = 0
        return chol, self.normal(B, N), offsets


def dense_factor(chol, offsets):
    """(B, N, N) lower-triangular matrices."""
    B, _, N = chol.shape
    L = np.zeros((B, N, N), chol.dtype)
    for k, o in enumerate(offsets):
        j = np.arange(N - o)
        L[:, j + o, j] = chol[:, k, : N - o]
    return L


def diagonals(a, offsets):
    """The entries of (B, N, N) matrices on the pattern: (B, M, N)."""
    return pattern(lambda i, j: a[:, i, j], offsets, a.shape)


def pattern(entry, offsets, shape):
    """entry(i, j) for all entries of the pattern, in the factor's storage."""
    B, N = shape[0], shape[-1]
    out = np.zeros((B, len(offsets), N), np.float32)
    for k, o in enumerate(offsets):
        j = np.arange(N - o)
        out[:, k, : N - o] = entry(j + o, j)
    return out


def lapack_band(chol, offsets):
    """LAPACK's lower band storage (offsets[-1] + 1, B N) of the whole batch as one block-diagonal matrix."""
    B, _, N = chol.shape
    band = np.zeros((offsets[-1] + 1, B, N), chol.dtype)
    for k, o in enumerate(offsets):
        band[o] = chol[:, k]
    return np.asfortranarray(band.reshape(-1, B * N))


def lapack_solver(chol, offsets, trans):
    """b (B, N) -> x by one call of LAPACK's tbtrs."""
    from scipy.linalg import get_lapack_funcs

    band = lapack_band(chol, offsets)
    (tbtrs,) = get_lapack_funcs(("tbtrs",), (band,))
    return lambda b: tbtrs(band, b.reshape(-1, 1), uplo="L", trans="T" if trans else "N")[0].reshape(b.shape)


def sparse_factor(chol, offsets):
    """The whole batch as one CSR matrix of order B N."""
    from scipy.sparse import dia_array

    B, M, N = chol.shape
    return dia_array((chol.swapaxes(0, 1).reshape(M, B * N), [-o for o in offsets]), shape=(B * N, B * N)).tocsr()


def solve_dense(L, b):
    return np.linalg.solve(L, b[..., None])[..., 0]


class Solve(Banded):
    params = (["gvae", "scipy", "dense"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, b, offsets = self.data(graph, shape)
        return lambda: ops.solve_triangular_banded(chol, b, offsets=offsets)

    def scipy(self, graph, shape):
        chol, b, offsets = self.data(graph, shape)
        solve = lapack_solver(chol, offsets, trans=False)
        return lambda: solve(b)

    def dense(self, graph, shape):
        chol, b, offsets = self.data(graph, shape)
        L = dense_factor(chol, offsets)
        return lambda: solve_dense(L, b)

    def time_solve(self, *_):
        return self.call()


class SolveTransposed(Banded):
    params = (["gvae", "scipy"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, b, offsets = self.data(graph, shape)
        return lambda: ops.solve_triangular_banded(chol, b, offsets=offsets, trans=True)

    def scipy(self, graph, shape):
        chol, b, offsets = self.data(graph, shape)
        solve = lapack_solver(chol, offsets, trans=True)
        return lambda: solve(b)

    def time_solve_transposed(self, *_):
        return self.call()


class SolveGradient(Banded):
    params = (["gvae", "dense"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, b, offsets = self.data(graph, shape)
        return with_gradient(lambda l, v: ops.solve_triangular_banded(l, v, offsets=offsets), (chol, b), self.normal(*shape))

    def dense(self, graph, shape):
        chol, b, offsets = self.data(graph, shape)
        x_bar = self.normal(*shape)
        L = dense_factor(chol, offsets)

        def call():
            x = solve_dense(L, b)
            b_bar = solve_dense(L.swapaxes(1, 2), x_bar)
            return x, pattern(lambda i, j: -b_bar[:, i] * x[:, j], offsets, shape), b_bar

        return call

    def time_solve_gradient(self, *_):
        return self.call()


class Multiply(Banded):
    params = (["gvae", "scipy"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, x, offsets = self.data(graph, shape)
        return lambda: ops.multiply_triangular_banded(chol, x, offsets=offsets)

    def scipy(self, graph, shape):
        chol, x, offsets = self.data(graph, shape)
        L = sparse_factor(chol, offsets)
        return lambda: (L @ x.ravel()).reshape(shape)

    def time_multiply(self, *_):
        return self.call()


class Inverse(Banded):
    """Entries of (L Lᵀ)⁻¹ on the pattern of L. SciPy has no selected inverse: it solves for all N columns."""

    params = (["gvae", "scipy"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, _, offsets = self.data(graph, shape)
        return lambda: ops.inverse_banded(chol, offsets=offsets)

    def scipy(self, graph, shape):
        from scipy.linalg import cho_solve_banded

        chol, _, offsets = self.data(graph, shape)
        bands = [lapack_band(c[None], offsets) for c in chol]
        identity = np.eye(shape[1], dtype=np.float32)

        def call():
            inverse = np.stack([cho_solve_banded((band, True), identity, check_finite=False) for band in bands])
            return diagonals(inverse, offsets)

        return call

    def time_inverse(self, *_):
        return self.call()


class InverseGradient(Banded):
    params = (["gvae"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, _, offsets = self.data(graph, shape)
        cotangent = np.where(chol != 0, self.normal(*chol.shape), np.float32(0))
        return with_gradient(lambda l: ops.inverse_banded(l, offsets=offsets), (chol,), cotangent)

    def time_inverse_gradient(self, *_):
        return self.call()


class SampleAndLogProb(Banded):
    """A draw, mean + L⁻ᵀ eps, and its log-density."""

    params = (["gvae", "scipy"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, eps, offsets = self.data(graph, shape)
        mean = self.normal(*shape)

        def call():
            z = ops.sample_banded(mean, chol, eps, offsets=offsets)
            return z, ops.log_prob_banded(z, mean, chol, offsets=offsets)

        return call

    def scipy(self, graph, shape):
        chol, eps, offsets = self.data(graph, shape)
        mean = self.normal(*shape)
        solve, L_transposed = lapack_solver(chol, offsets, trans=True), sparse_factor(chol, offsets).T.tocsr()

        def call():
            z = mean + solve(eps)
            w = (L_transposed @ (z - mean).ravel()).reshape(shape)
            return z, log_density(w, chol[:, 0])

        return call

    def time_sample_and_log_prob(self, *_):
        return self.call()


def log_density(w, diagonal):
    """log N of a point with w = Lᵀ (x - mean)."""
    return (np.log(diagonal) - 0.5 * w * w).sum(-1) - np.float32(0.5 * w.shape[-1] * math.log(2 * math.pi))


class SampleAndLogProbGradient(Banded):
    params = (["gvae"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, eps, offsets = self.data(graph, shape)
        mean, z_bar, p_bar = self.normal(*shape), self.normal(*shape), self.normal(shape[0])

        def f(m, l):
            z = ops.sample_banded(m, l, eps, offsets=offsets)
            return z, ops.log_prob_banded(z, m, l, offsets=offsets)

        return with_gradient(f, (mean, chol), (z_bar, p_bar))

    def time_sample_and_log_prob_gradient(self, *_):
        return self.call()


class Kl(Banded):
    """KL to N(0, I)."""

    params = (["gvae", "dense"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, mean, offsets = self.data(graph, shape)
        return lambda: ops.kl_divergence_banded(mean, chol, offsets=offsets)

    def dense(self, graph, shape):
        chol, mean, offsets = self.data(graph, shape)
        L = dense_factor(chol, offsets)

        def call():
            variance = np.square(np.linalg.inv(L)).sum(-2)
            return (0.5 * (variance + mean * mean - 1) + np.log(chol[:, 0])).sum(-1)

        return call

    def time_kl(self, *_):
        return self.call()


class KlGradient(Banded):
    params = (["gvae", "dense"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, mean, offsets = self.data(graph, shape)
        return with_gradient(
            lambda m, l: ops.kl_divergence_banded(m, l, offsets=offsets), (mean, chol), self.normal(shape[0])
        )

    def dense(self, graph, shape):
        chol, mean, offsets = self.data(graph, shape)
        kl_bar = self.normal(shape[0])
        L = dense_factor(chol, offsets)

        def call():
            root = np.linalg.inv(L)
            kl = (0.5 * (np.square(root).sum(-2) + mean * mean - 1) + np.log(chol[:, 0])).sum(-1)
            inverse = root.swapaxes(1, 2) @ root  # d/dL of 1/2 |L⁻¹|² is -(L Lᵀ)⁻¹ L⁻ᵀ
            chol_bar = -diagonals(inverse @ root.swapaxes(1, 2), offsets)
            chol_bar[:, 0] += 1 / chol[:, 0]
            return kl, kl_bar[:, None] * mean, kl_bar[:, None, None] * chol_bar

        return call

    def time_kl_gradient(self, *_):
        return self.call()


class KlToChainGradient(Banded):
    """KL to a second structured Gaussian, a chain."""

    params = (["gvae"], GRAPHS, SHAPES)

    def gvae(self, graph, shape):
        from gvae import ops

        chol, mean, offsets = self.data(graph, shape)
        prior, prior_mean, prior_offsets = self.data("chain", shape)

        def f(m, l, p):
            return ops.kl_divergence_banded(m, l, prior_mean, p, offsets=offsets, prior_offsets=prior_offsets)

        return with_gradient(f, (mean, chol, prior), self.normal(shape[0]))

    def time_kl_to_chain_gradient(self, *_):
        return self.call()


class Long(Banded):
    """One long system, where a dense form is out of the question."""

    params = (["gvae"], ["chain", "extended_grid"], [(1, 10_000)])
    gvae = KlGradient.gvae

    def time_long_kl_gradient(self, *_):
        return self.call()

    def peakmem_long_kl_gradient(self, *_):
        return self.call()
