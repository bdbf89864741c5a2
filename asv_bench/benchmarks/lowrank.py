"""Gaussians with precision diag(d) + UᵀU. Baseline: NumPy on dense (B, N, N) matrices."""

from __future__ import annotations

import math

import numpy as np

from .common import DENSE_LIMIT, DTYPES, MODES, Op, only

SHAPES = [(100, 16, 1), (1024, 64, 4), (100, 784, 4)]  # (B, N, R)


class LowRank(Op):
    param_names = ("implementation", "mode", "shape", "dtype")

    def data(self, shape, dtype):
        """d, u, mean, and eps or x."""
        B, N, R = shape
        d, u = self.uniform(0.3, 3.0, B, N, dtype=dtype), self.normal(B, R, N, dtype=dtype)
        u *= 0.5
        return d, u, self.normal(B, N, dtype=dtype), self.normal(B, N, dtype=dtype)

    def dense_data(self, mode, shape, dtype):
        """The precision, and the vectors."""
        only(mode == "forward" and shape[0] * shape[1] ** 2 <= DENSE_LIMIT)
        d, u, *vectors = self.data(shape, dtype)
        return d[:, :, None] * np.eye(shape[1], dtype=dtype) + u.swapaxes(1, 2) @ u, *vectors


class Sample(LowRank):
    """No two square roots of a covariance need be equal, so the draws of the dense form are others of the same Gaussian."""

    params = (["gvae", "dense"], MODES, SHAPES, DTYPES)
    agree = False

    def op(self, ops, shape, dtype):
        return lambda d, u, mean, eps: ops.sample_lowrank(mean, d, u, eps)

    def dense(self, mode, shape, dtype):
        precision, mean, eps = self.dense_data(mode, shape, dtype)

        def call():
            L = np.linalg.cholesky(precision)
            return mean + np.linalg.solve(L.swapaxes(1, 2), eps[..., None])[..., 0]

        return call

    def time_sample(self, *_):
        return self.call()


class LogProb(LowRank):
    params = (["gvae", "dense"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return lambda d, u, mean, x: ops.log_prob_lowrank(x, mean, d, u)

    def dense(self, mode, shape, dtype):
        precision, mean, x = self.dense_data(mode, shape, dtype)
        constant = x.dtype.type(0.5 * shape[1] * math.log(2 * math.pi))

        def call():
            L = np.linalg.cholesky(precision)
            w = ((x - mean)[:, None] @ L)[:, 0]
            return (np.log(np.diagonal(L, axis1=1, axis2=2)) - 0.5 * w * w).sum(-1) - constant

        return call

    def time_log_prob(self, *_):
        return self.call()


class Kl(LowRank):
    params = (["gvae", "dense"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        return super().data(shape, dtype)[:3]

    def op(self, ops, shape, dtype):
        return lambda d, u, mean: ops.kl_divergence_lowrank(mean, d, u)

    def dense(self, mode, shape, dtype):
        precision, mean = self.dense_data(mode, shape, dtype)

        def call():
            trace = np.trace(np.linalg.inv(precision), axis1=1, axis2=2)
            return 0.5 * (trace + np.square(mean).sum(-1) - shape[1] + np.linalg.slogdet(precision)[1])

        return call

    def time_kl(self, *_):
        return self.call()
