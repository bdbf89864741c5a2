"""Cost against the number of variables: one long system, N from 10^3 to 10^6. Baseline "serial": the one-system kernel
itself, a plain loop that runs once."""

from __future__ import annotations

import numpy as np

from . import banded, gaussian  # the modules: asv would run a class that is imported here a second time, as one of this file
from .banded import Banded, offsets_of
from .common import only

SIZES = [(1, 1000), (1, 10_000), (1, 100_000), (1, 1_000_000)]


class LongSolve(Banded):
    params = (["gvae", "serial", "lapack"], ["forward"], ["chain", "band:4"], SIZES, ["float32"])
    op, lapack = banded.Solve.op, banded.Solve.lapack

    def serial(self, mode, graph, shape, dtype):
        from gvae.kernels.cpu.banded import solve_triangular_one

        (chol,), (b,) = self.data(graph, shape, dtype)
        offsets, x = np.array(offsets_of(graph, shape[1])), np.empty_like(b)

        def call():
            x[:] = b  # it solves in place
            solve_triangular_one(chol, offsets, x)
            return x[None]

        return call

    def time_long_solve(self, *_):
        return self.call()


class LongInverse(Banded):
    params = (["gvae", "serial"], ["forward", "gradient"], ["chain", "band:4"], SIZES, ["float32"])
    data, op, cotangent = banded.Inverse.data, banded.Inverse.op, banded.Inverse.cotangent

    def serial(self, mode, graph, shape, dtype):
        from gvae.kernels.cpu.banded import inverse_one

        only(mode == "forward")
        ((chol,),) = self.data(graph, shape, dtype)
        offsets = np.array(offsets_of(graph, shape[1]))

        def call():
            s = np.empty((offsets[-1] + 1, shape[1]), dtype)
            inverse_one(chol, offsets, s)
            return s[None]

        return call

    def time_long_inverse(self, *_):
        return self.call()


class LongKl(Banded):
    """Where a dense form is out of the question: time, and peak memory of the process with Python, NumPy and Numba."""

    params = (["gvae"], ["gradient"], ["chain", "extended_grid"], [(1, 10_000), (1, 1_000_000)], ["float32"])
    op = gaussian.Kl.op

    def data(self, graph, shape, dtype):
        only(graph == "chain" or shape[1] <= 10_000, "a closure of N^1.5 entries")
        return super().data(graph, shape, dtype)

    def time_long_kl(self, *_):
        return self.call()

    def peakmem_long_kl(self, *_):
        return self.call()
