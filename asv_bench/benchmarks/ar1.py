"""Gaussians with covariance s rho^|i-j|. Baseline: the recursion in NumPy, vectorised over the batch."""

from __future__ import annotations

import math

import numpy as np

from .common import Benchmark, with_gradient

SHAPES = [(100, 16), (32, 256)]  # (B, N)


class AR1(Benchmark):
    param_names = ("implementation", "shape")

    def data(self, shape):
        """mean, variance, rho, eps."""
        B = shape[0]
        return self.normal(*shape), self.uniform(0.3, 3.0, B), self.uniform(-0.9, 0.9, B), self.normal(*shape)


class SampleAndLogProb(AR1):
    params = (["gvae", "numpy"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, variance, rho, eps = self.data(shape)

        def call():
            z = ops.sample_ar1(mean, variance, rho, eps)
            return z, ops.log_prob_ar1(z, mean, variance, rho)

        return call

    def numpy(self, shape):
        mean, variance, rho, eps = self.data(shape)
        N = shape[1]

        def call():
            ratio = 1 - rho * rho
            e = np.sqrt(variance * ratio)[:, None] * eps
            e[:, 0] = np.sqrt(variance) * eps[:, 0]
            for j in range(1, N):
                e[:, j] += rho * e[:, j - 1]
            z = mean + e
            d = z - mean
            squares = np.square(d[:, 1:] - rho[:, None] * d[:, :-1]).sum(-1) / ratio + np.square(d[:, 0])
            logdet = N * np.log(variance) + (N - 1) * np.log(ratio)
            return z, -0.5 * (squares / variance + logdet + np.float32(N * math.log(2 * math.pi)))

        return call

    def time_sample_and_log_prob(self, *_):
        return self.call()


class SampleAndLogProbGradient(AR1):
    params = (["gvae"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, variance, rho, eps = self.data(shape)

        def f(m, s, r):
            z = ops.sample_ar1(m, s, r, eps)
            return z, ops.log_prob_ar1(z, m, s, r)

        return with_gradient(f, (mean, variance, rho), (self.normal(*shape), self.normal(shape[0])))

    def time_sample_and_log_prob_gradient(self, *_):
        return self.call()


class Kl(AR1):
    params = (["gvae", "numpy"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        mean, variance, rho, _ = self.data(shape)
        return lambda: ops.kl_divergence_ar1(mean, variance, rho)

    def numpy(self, shape):
        mean, variance, rho, _ = self.data(shape)
        N = shape[1]

        def call():
            node = N * (variance - 1 - np.log(variance)) - (N - 1) * np.log(1 - rho * rho)
            return 0.5 * (np.square(mean).sum(-1) + node)

        return call

    def time_kl(self, *_):
        return self.call()


class KlGradient(AR1):
    params = (["gvae"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        return with_gradient(ops.kl_divergence_ar1, self.data(shape)[:3], self.normal(shape[0]))

    def time_kl_gradient(self, *_):
        return self.call()
