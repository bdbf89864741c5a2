"""Gaussians with precision diag(d) + UᵀU. Baseline: NumPy on dense (B, N, N) matrices."""

from __future__ import annotations

import math

import numpy as np

from .common import Benchmark, with_gradient

SHAPES = [(100, 16, 1), (32, 256, 4)]  # (B, N, R)


class LowRank(Benchmark):
    param_names = ("implementation", "shape")

    def data(self, shape):
        """mean, d, u, eps."""
        B, N, R = shape
        return self.normal(B, N), self.uniform(0.3, 3.0, B, N), 0.5 * self.normal(B, R, N), self.normal(B, N)


def precision(d, u):
    return d[:, :, None] * np.eye(d.shape[1], dtype=d.dtype) + u.swapaxes(1, 2) @ u


class SampleAndLogProb(LowRank):
    """Returns the log-density only: a draw depends on which square root of the covariance is taken, its density does not."""

    params = (["gvae", "dense"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, d, u, eps = self.data(shape)
        return lambda: ops.log_prob_lowrank(ops.sample_lowrank(mean, d, u, eps), mean, d, u)

    def dense(self, shape):
        mean, d, u, eps = self.data(shape)

        def call():
            L = np.linalg.cholesky(precision(d, u))
            z = mean + np.linalg.solve(L.swapaxes(1, 2), eps[..., None])[..., 0]
            w = ((z - mean)[:, None] @ L)[:, 0]
            node = np.log(np.diagonal(L, axis1=1, axis2=2)) - 0.5 * w * w
            return node.sum(-1) - np.float32(0.5 * shape[1] * math.log(2 * math.pi))

        return call

    def time_sample_and_log_prob(self, *_):
        return self.call()


class SampleAndLogProbGradient(LowRank):
    params = (["gvae"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, d, u, eps = self.data(shape)

        def f(m, d, u):
            z = ops.sample_lowrank(m, d, u, eps)
            return z, ops.log_prob_lowrank(z, m, d, u)

        return with_gradient(f, (mean, d, u), (self.normal(*mean.shape), self.normal(shape[0])))

    def time_sample_and_log_prob_gradient(self, *_):
        return self.call()


class Kl(LowRank):
    params = (["gvae", "dense"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, d, u, _ = self.data(shape)
        return lambda: ops.kl_divergence_lowrank(mean, d, u)

    def dense(self, shape):
        mean, d, u, _ = self.data(shape)

        def call():
            p = precision(d, u)
            trace = np.trace(np.linalg.inv(p), axis1=1, axis2=2)
            return 0.5 * (trace + np.square(mean).sum(-1) - shape[1] + np.linalg.slogdet(p)[1])

        return call

    def time_kl(self, *_):
        return self.call()


class KlGradient(LowRank):
    params = (["gvae"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        return with_gradient(ops.kl_divergence_lowrank, self.data(shape)[:3], self.normal(shape[0]))

    def time_kl_gradient(self, *_):
        return self.call()
