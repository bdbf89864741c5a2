"""Linear algebra with a banded factor. Baselines:

scipy   a loop over the systems, one call of LAPACK each
lapack  one call of LAPACK for the whole batch: systems side by side are one long banded system
dense   NumPy on (B, N, N) matrices
torch   PyTorch's dense triangular solve
jax_*   chains in JAX, in three forms: see peers.py
"""

from __future__ import annotations

import math

import numpy as np

from . import peers
from .common import DENSE_LIMIT, DTYPES, MODES, Op, only, optional

GRAPHS = ["chain", "band:4", "extended_grid"]
SHAPES = [(100, 16), (1024, 64), (1024, 784)]  # (B, N)


def matrix(*implementations: str, modes=MODES, graphs=GRAPHS, shapes=SHAPES, dtypes=DTYPES) -> tuple[list, ...]:
    return list(implementations), modes, graphs, shapes, dtypes


def offsets_of(graph: str, N: int) -> tuple[int, ...]:
    """The diagonals of the factor; a grid is square."""
    side = math.isqrt(N)
    return {
        "chain": (0, 1),
        "band:4": (0, 1, 2, 3, 4),
        "extended_grid": (0, 1, side),
        "grid": tuple(range(side + 1)),
    }[graph]


class Banded(Op):
    """A baseline in JAX is `jax_op(form)`, the same function as `op` of a pair of diagonals and vectors."""

    param_names = ("implementation", "mode", "graph", "shape", "dtype")

    def data(self, graph, shape, dtype):
        """(chol (B, M, N), a vector (B, N)): well-conditioned, with zeros where an entry does not exist."""
        return self.factor(graph, shape, dtype), self.normal(*shape, dtype=dtype)

    def factor(self, graph, shape, dtype):
        B, N = shape
        offsets = offsets_of(graph, N)
        chol = self.normal(B, len(offsets), N, dtype=dtype) * np.dtype(dtype).type(0.6 / (len(offsets) - 1))
        chol[:, 0] = self.uniform(0.7, 2.0, B, N, dtype=dtype)
        for k, o in enumerate(offsets):
            chol[:, k, N - o :] = 0
        return chol

    def dense_data(self, graph, shape, dtype):
        """L (B, N, N) and the vectors."""
        chol, *vectors = self.data(graph, shape, dtype)
        return dense_factor(chol, offsets_of(graph, shape[1])), *vectors

    def jax(self, name, mode, graph, shape, dtype):
        only(graph == "chain" and dtype == "float32")
        form = peers.JAX[name]()
        chol, *vectors = self.data(graph, shape, dtype)
        arguments = (form.factor(chol), *map(form.pack, vectors))
        f = self.jax_op(form)
        bar = None
        if mode == "gradient":
            bar = self.jax_cotangent(form, form.jax.eval_shape(f, *arguments), shape)
        self.to_numpy = lambda result: tuple(map(form.to_numpy, result if mode == "gradient" else (result,)))
        return peers.jax_call(f, arguments, bar)

    def jax_cotangent(self, form, value, shape):
        if isinstance(value, tuple):
            return form.factor(self.normal(shape[0], 2, shape[1]))
        return form.pack(self.normal(*shape)) if value.ndim > 1 else self.normal(shape[0])

    def jax_scan(self, *params):
        return self.jax("jax_scan", *params)

    def jax_associative(self, *params):
        return self.jax("jax_associative", *params)

    def jax_tridiagonal(self, *params):
        return self.jax("jax_tridiagonal", *params)


def dense_factor(chol, offsets):
    """(B, N, N) lower-triangular matrices."""
    B, _, N = chol.shape
    only(B * N * N <= DENSE_LIMIT, "too large for dense matrices")
    L = np.zeros((B, N, N), chol.dtype)
    for k, o in enumerate(offsets):
        j = np.arange(N - o)
        L[:, j + o, j] = chol[:, k, : N - o]
    return L


def diagonals(a, offsets):
    """The entries of (B, N, N) matrices on the pattern: (B, M, N)."""
    return pattern(lambda i, j: a[:, i, j], offsets, a.shape, a.dtype)


def pattern(entry, offsets, shape, dtype):
    """entry(i, j) for all entries of the pattern, in the factor's storage."""
    B, N = shape[0], shape[-1]
    out = np.zeros((B, len(offsets), N), dtype)
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


def lapack(name, array):
    from scipy.linalg import get_lapack_funcs

    return get_lapack_funcs(name, (array,))


def lapack_solver(chol, offsets, trans):
    """b (B, N) -> x by one call of LAPACK's tbtrs."""
    band = lapack_band(chol, offsets)
    tbtrs, trans = lapack("tbtrs", band), "T" if trans else "N"
    return lambda b: tbtrs(band, b.reshape(-1, 1), uplo="L", trans=trans)[0].reshape(b.shape)


def each(call, systems, shape, dtype):
    """A loop over the systems: call(system, b) -> x."""

    def loop(b):
        x = np.empty(shape, dtype)
        for i, system in enumerate(systems):
            x[i] = call(system, b[i])
        return x

    return loop


def sparse_factor(chol, offsets):
    """The whole batch as one CSR matrix of order B N."""
    from scipy.sparse import dia_array

    B, M, N = chol.shape
    return dia_array((chol.swapaxes(0, 1).reshape(M, B * N), [-o for o in offsets]), shape=(B * N, B * N)).tocsr()


def solve_dense(L, b):
    return np.linalg.solve(L, b[..., None])[..., 0]


class Gram(Banded):
    """The product of a factor with its transpose."""

    params = matrix("gvae", "dense", graphs=["chain", "band:4", "grid"])

    def data(self, graph, shape, dtype):
        only(len(offsets_of(graph, shape[1])) ** 2 * math.prod(shape) <= 2**27, "takes seconds")
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        return lambda chol: ops.gram_banded(chol, offsets=offsets_of(graph, shape[1]))

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (chol,) = self.data(graph, shape, dtype)
        offsets = offsets_of(graph, shape[1])
        lower = dense_factor(chol, offsets)
        return lambda: diagonals(lower @ lower.swapaxes(-1, -2), tuple(range(offsets[-1] + 1)))


class Cholesky(Banded):
    """The factor of a symmetric positive definite band. A lattice ("grid") is a full band as wide as its rows."""

    params = matrix("gvae", "scipy", "lapack", "dense", graphs=["chain", "band:4", "grid"])

    def data(self, graph, shape, dtype):
        M = len(offsets_of(graph, shape[1]))
        only(M * M * math.prod(shape) <= 2**27, "takes seconds")
        ab = self.factor(graph, shape, dtype)
        ab[:, 1:] = ab[:, 1:].clip(-1 / (M - 1), 1 / (M - 1))
        ab[:, 0] += 2  # diagonally dominant
        return (ab,)

    def op(self, ops, graph, shape, dtype):
        return ops.cholesky_banded

    def scipy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (ab,) = self.data(graph, shape, dtype)
        pbtrf = lapack("pbtrf", ab)
        return lambda: np.stack([pbtrf(a, lower=True)[0] for a in ab])

    def lapack(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (ab,) = self.data(graph, shape, dtype)
        offsets = offsets_of(graph, shape[1])
        band = lapack_band(ab, offsets)
        pbtrf = lapack("pbtrf", band)
        return lambda: pbtrf(band, lower=True)[0].reshape(len(offsets), *shape).swapaxes(0, 1)

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (ab,) = self.data(graph, shape, dtype)
        offsets = offsets_of(graph, shape[1])
        lower = dense_factor(ab, offsets)  # all that the factorisation reads
        return lambda: diagonals(np.linalg.cholesky(lower), offsets)

    def time_cholesky(self, *_):
        return self.call()


class Solve(Banded):
    params = matrix("gvae", "scipy", "lapack", "dense", "torch", *peers.JAX)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, b: ops.solve_triangular_banded(chol, b, offsets=offsets)

    def scipy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, b = self.data(graph, shape, dtype)
        bands = [lapack_band(c[None], offsets_of(graph, shape[1])) for c in chol]
        tbtrs = lapack("tbtrs", b)
        loop = each(lambda band, b: tbtrs(band, b, uplo="L")[0], bands, shape, dtype)
        return lambda: loop(b)

    def lapack(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, b = self.data(graph, shape, dtype)
        solve = lapack_solver(chol, offsets_of(graph, shape[1]), trans=False)
        return lambda: solve(b)

    def dense(self, mode, graph, shape, dtype):
        L, b = self.dense_data(graph, shape, dtype)
        if mode == "forward":
            return lambda: solve_dense(L, b)
        x_bar = self.normal(*shape, dtype=dtype)
        offsets = offsets_of(graph, shape[1])

        def call():
            x = solve_dense(L, b)
            b_bar = solve_dense(L.swapaxes(1, 2), x_bar)
            return x, pattern(lambda i, j: -b_bar[:, i] * x[:, j], offsets, shape, dtype), b_bar

        return call

    def torch(self, mode, graph, shape, dtype):
        only(graph == "chain" and dtype == "float32", "a dense matrix does not know its graph")
        torch = optional("torch")
        L, b = map(torch.from_numpy, self.dense_data(graph, shape, dtype))
        b = b[..., None]
        if mode == "forward":
            self.to_numpy = lambda x: (x[..., 0].numpy(),)
            return lambda: torch.linalg.solve_triangular(L, b, upper=False)
        x_bar = torch.from_numpy(self.normal(*shape))[..., None]
        arrays = (L.requires_grad_(), b.requires_grad_())
        offsets = offsets_of(graph, shape[1])

        def call():
            x = torch.linalg.solve_triangular(L, b, upper=False)
            return x, *torch.autograd.grad(x, arrays, x_bar)

        def to_numpy(result):
            x, L_bar, b_bar = (r.detach().numpy() for r in result)
            return x[..., 0], diagonals(L_bar, offsets), b_bar[..., 0]

        self.to_numpy = to_numpy
        return call

    def jax_op(self, form):
        return lambda chol, b: form.solve(chol, b, trans=False)

    def time_solve(self, *_):
        return self.call()


class SolveTransposed(Banded):
    params = matrix("gvae", "lapack")

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, b: ops.solve_triangular_banded(chol, b, offsets=offsets, trans=True)

    def lapack(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, b = self.data(graph, shape, dtype)
        solve = lapack_solver(chol, offsets_of(graph, shape[1]), trans=True)
        return lambda: solve(b)

    def time_solve_transposed(self, *_):
        return self.call()


class ChoSolve(Banded):
    """(L Lᵀ) x = b. The gradient is that of two triangular solves."""

    params = matrix("gvae", "scipy", "lapack", modes=["forward"])

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, b: ops.cho_solve_banded(chol, b, offsets=offsets)

    def scipy(self, mode, graph, shape, dtype):
        chol, b = self.data(graph, shape, dtype)
        bands = [lapack_band(c[None], offsets_of(graph, shape[1])) for c in chol]
        pbtrs = lapack("pbtrs", b)
        loop = each(lambda band, b: pbtrs(band, b, lower=True)[0], bands, shape, dtype)
        return lambda: loop(b)

    def lapack(self, mode, graph, shape, dtype):
        chol, b = self.data(graph, shape, dtype)
        band = lapack_band(chol, offsets_of(graph, shape[1]))
        pbtrs = lapack("pbtrs", band)
        return lambda: pbtrs(band, b.reshape(-1, 1), lower=True)[0].reshape(shape)

    def time_cho_solve(self, *_):
        return self.call()


class Multiply(Banded):
    """L x. Baseline: the whole batch as one CSR matrix."""

    params = matrix("gvae", "scipy")

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, x: ops.multiply_triangular_banded(chol, x, offsets=offsets)

    def scipy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, x = self.data(graph, shape, dtype)
        L = sparse_factor(chol, offsets_of(graph, shape[1]))
        return lambda: (L @ x.ravel()).reshape(shape)

    def time_multiply(self, *_):
        return self.call()


class MultiplyTransposed(Banded):
    """Lᵀ x."""

    params = matrix("gvae", "scipy", graphs=["chain", "extended_grid"], dtypes=["float32"])

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, x: ops.multiply_triangular_banded(chol, x, offsets=offsets, trans=True)

    def scipy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, x = self.data(graph, shape, dtype)
        L_transposed = sparse_factor(chol, offsets_of(graph, shape[1])).T.tocsr()
        return lambda: (L_transposed @ x.ravel()).reshape(shape)

    def time_multiply_transposed(self, *_):
        return self.call()


class Inverse(Banded):
    """Entries of (L Lᵀ)⁻¹ on the pattern of L. SciPy has no selected inverse: it solves for all N columns."""

    params = matrix("gvae", "scipy", "dense", "jax_scan")

    def data(self, graph, shape, dtype):
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol: ops.inverse_banded(chol, offsets=offsets)

    def cotangent(self, value):
        bar = Op.cotangent(self, value)
        return np.where(value != 0, bar, bar.dtype.type(0))  # zero where an entry does not exist

    def scipy(self, mode, graph, shape, dtype):
        from scipy.linalg import cho_solve_banded

        only(mode == "forward" and math.prod(shape) * shape[1] <= DENSE_LIMIT)
        (chol,) = self.data(graph, shape, dtype)
        offsets = offsets_of(graph, shape[1])
        bands = [lapack_band(c[None], offsets) for c in chol]
        identity = np.eye(shape[1], dtype=dtype)

        def call():
            inverse = np.stack([cho_solve_banded((band, True), identity, check_finite=False) for band in bands])
            return diagonals(inverse, offsets)

        return call

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (L,) = self.dense_data(graph, shape, dtype)
        precision = L @ L.swapaxes(1, 2)
        offsets = offsets_of(graph, shape[1])
        return lambda: diagonals(np.linalg.inv(precision), offsets)

    def jax_op(self, form):
        return form.inverse

    def jax_cotangent(self, form, value, shape):
        bar = self.normal(shape[0], 2, shape[1])
        bar[:, 1, -1] = 0
        return form.factor(bar)

    def time_inverse(self, *_):
        return self.call()


class LogDet(Banded):
    """log |L Lᵀ|, which reads the diagonal alone, whatever the graph. Baseline: NumPy without checks."""

    params = matrix("gvae", "numpy", graphs=["chain"])

    def data(self, graph, shape, dtype):
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        return ops.logdet_banded

    def numpy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (chol,) = self.data(graph, shape, dtype)
        return lambda: 2 * np.log(chol[:, 0]).sum(-1)

    def time_logdet(self, *_):
        return self.call()


class TraceInverse(Banded):
    """tr (L Lᵀ)⁻¹, exactly."""

    params = matrix("gvae", "dense", shapes=SHAPES[:2])

    def data(self, graph, shape, dtype):
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol: ops.trace_inverse_banded(chol, offsets=offsets)

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (L,) = self.dense_data(graph, shape, dtype)
        return lambda: np.square(np.linalg.inv(L)).sum((-2, -1))

    def time_trace_inverse(self, *_):
        return self.call()


class TraceProbe(Banded):
    """tr (L Lᵀ)⁻¹, from one random probe: |L⁻ᵀ v|²."""

    params = matrix("gvae", "lapack", dtypes=["float32"])

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, v: ops.trace_probe_banded(chol, v, offsets=offsets)

    def lapack(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, v = self.data(graph, shape, dtype)
        solve = lapack_solver(chol, offsets_of(graph, shape[1]), trans=True)
        return lambda: np.square(solve(v)).sum(-1)

    def time_trace_probe(self, *_):
        return self.call()
