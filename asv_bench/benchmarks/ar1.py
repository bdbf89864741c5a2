"""Gaussians with covariance s rho^|i-j|. Baseline: the recursion in NumPy, vectorised over the batch."""

from __future__ import annotations

import math

import numpy as np

from .common import DTYPES, MODES, Op, only

SHAPES = [(100, 16), (1024, 64), (1024, 784)]  # (B, N)


class AR1(Op):
    param_names = ("implementation", "mode", "shape", "dtype")

    def data(self, shape, dtype):
        """variance, rho, mean, and eps or x."""
        B = shape[0]
        scalars = self.uniform(0.3, 3.0, B, dtype=dtype), self.uniform(-0.9, 0.9, B, dtype=dtype)
        return *scalars, self.normal(*shape, dtype=dtype), self.normal(*shape, dtype=dtype)


class Sample(AR1):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return lambda variance, rho, mean, eps: ops.sample_ar1(mean, variance, rho, eps)

    def numpy(self, mode, shape, dtype):
        only(mode == "forward")
        variance, rho, mean, eps = self.data(shape, dtype)

        def call():
            e = np.sqrt(variance * (1 - rho * rho))[:, None] * eps
            e[:, 0] = np.sqrt(variance) * eps[:, 0]
            for j in range(1, shape[1]):
                e[:, j] += rho * e[:, j - 1]
            return mean + e

        return call

    def time_sample(self, *_):
        return self.call()


class LogProb(AR1):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return lambda variance, rho, mean, x: ops.log_prob_ar1(x, mean, variance, rho)

    def numpy(self, mode, shape, dtype):
        only(mode == "forward")
        variance, rho, mean, x = self.data(shape, dtype)
        N = shape[1]
        constant = x.dtype.type(N * math.log(2 * math.pi))

        def call():
            ratio, d = 1 - rho * rho, x - mean
            squares = np.square(d[:, 1:] - rho[:, None] * d[:, :-1]).sum(-1) / ratio + np.square(d[:, 0])
            logdet = N * np.log(variance) + (N - 1) * np.log(ratio)
            return -0.5 * (squares / variance + logdet + constant)

        return call

    def time_log_prob(self, *_):
        return self.call()


class Kl(AR1):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        return super().data(shape, dtype)[:3]

    def op(self, ops, shape, dtype):
        return lambda variance, rho, mean: ops.kl_divergence_ar1(mean, variance, rho)

    def numpy(self, mode, shape, dtype):
        only(mode == "forward")
        variance, rho, mean = self.data(shape, dtype)
        N = shape[1]

        def call():
            node = N * (variance - 1 - np.log(variance)) - (N - 1) * np.log(1 - rho * rho)
            return 0.5 * (np.square(mean).sum(-1) + node)

        return call

    def time_kl(self, *_):
        return self.call()


class PrecisionFactor(AR1):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        return super().data(shape, dtype)[:2]

    def op(self, ops, shape, dtype):
        return lambda variance, rho: ops.precision_factor_ar1(variance, rho, N=shape[1])

    def numpy(self, mode, shape, dtype):
        only(mode == "forward")
        variance, rho = self.data(shape, dtype)

        def call():
            chol = np.zeros((shape[0], 2, shape[1]), dtype)
            chol[:, 0] = ((variance * (1 - rho * rho)) ** -0.5)[:, None]
            chol[:, 0, -1] = variance**-0.5
            chol[:, 1, :-1] = -rho[:, None] * chol[:, 0, :-1]
            return chol

        return call

    def time_precision_factor(self, *_):
        return self.call()
