"""Poisson counts with rates z wᵀ: a batch of 20 newsgroups, and pictures, of which nearly all entries have a count.

Baselines: all rates in NumPy, and SciPy's matrices with rates at the counts alone.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.special

from .common import DTYPES, MODES, Op

SHAPES = [(500, 1995, 100, 3), (320, 4096, 100, 100)]  # rows, columns, units, counts in a hundred entries
PART = 1 << 14  # counts whose rows of z and w are gathered at a time


class PoissonCounts(Op):
    params = (["gvae", "numpy", "scipy"], MODES, SHAPES, DTYPES)
    param_names = ("implementation", "mode", "shape", "dtype")

    def data(self, shape, dtype):
        B, D, H, filled = shape
        counts = (self.rng.random((B, D)) < filled / 100) * (1 + self.rng.poisson(2.0, size=(B, D)))
        self.x = scipy.sparse.csr_array(counts.astype(dtype))
        return self.uniform(0.1, 2, B, H, dtype=dtype), self.uniform(0.001, 0.1, D, H, dtype=dtype)

    def op(self, ops, shape, dtype):
        x = ops.CountMatrix(self.x)
        return lambda z, w: ops.poisson_counts_log_prob(x, z, w)

    def numpy(self, mode, shape, dtype):
        (z, w), x = self.data(shape, dtype), self.x.toarray()
        constants = scipy.special.gammaln(x + 1).sum(axis=1)
        s = self.cotangent(constants)[:, None]

        def call():
            rates = z @ w.T
            value = (x * np.log(rates)).sum(axis=1) - z @ w.sum(axis=0) - constants
            if mode == "forward":
                return value
            residual = np.divide(x, rates, out=rates)
            residual -= 1
            residual *= s
            return value, residual @ w, residual.T @ z

        return call

    def scipy(self, mode, shape, dtype):
        (z, w), x = self.data(shape, dtype), self.x
        rows, columns = x.tocoo().coords
        constants = np.bincount(rows, scipy.special.gammaln(x.data + 1), len(z)).astype(dtype)
        s = self.cotangent(constants)

        def call():
            rates = np.empty_like(x.data)
            for lo in range(0, x.nnz, PART):
                part = slice(lo, lo + PART)
                np.einsum("tj,tj->t", z[rows[part]], w[columns[part]], out=rates[part])
            logs = np.bincount(rows, x.data * np.log(rates), len(z)).astype(dtype)
            total = w.sum(axis=0)
            value = logs - z @ total - constants
            if mode == "forward":
                return value
            ratio = scipy.sparse.csr_array((s[rows] * x.data / rates, x.indices, x.indptr), shape=x.shape)
            return value, ratio @ w - s[:, None] * total, ratio.T @ z - s @ z

        return call

    def time_poisson_counts(self, *_):
        return self.call()
