"""The log of the mean importance weight. Baseline: scipy.special."""

from __future__ import annotations

import math

import numpy as np

from .common import Benchmark, with_gradient

SHAPES = [(50, 20), (500, 1000)]  # (K, B)


class LogMeanExp(Benchmark):
    params = (["gvae", "scipy"], SHAPES)
    param_names = ("implementation", "shape")

    def gvae(self, shape):
        from gvae import ops

        log_weights = 10 * self.normal(*shape)
        return lambda: ops.log_mean_exp(log_weights, axis=0)

    def scipy(self, shape):
        from scipy.special import logsumexp

        log_weights = 10 * self.normal(*shape)
        return lambda: logsumexp(log_weights, axis=0) - np.float32(math.log(shape[0]))

    def time_log_mean_exp(self, *_):
        return self.call()


class LogMeanExpGradient(Benchmark):
    params = (["gvae", "scipy"], SHAPES)
    param_names = ("implementation", "shape")

    def gvae(self, shape):
        from gvae import ops

        log_weights = 10 * self.normal(*shape)
        return with_gradient(lambda w: ops.log_mean_exp(w, axis=0), (log_weights,), self.normal(shape[1]))

    def scipy(self, shape):
        from scipy.special import logsumexp, softmax

        log_weights = 10 * self.normal(*shape)
        y_bar = self.normal(shape[1])

        def call():
            value = logsumexp(log_weights, axis=0) - np.float32(math.log(shape[0]))
            return value, y_bar * softmax(log_weights, axis=0)

        return call

    def time_log_mean_exp_gradient(self, *_):
        return self.call()
