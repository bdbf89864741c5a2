"""Importance weights along the first axis. Baseline: scipy.special."""

from __future__ import annotations

import math

import numpy as np

from .common import DTYPES, MODES, Op, only

SHAPES = [(50, 20), (500, 1000)]  # (K, B)


class Weights(Op):
    param_names = ("implementation", "mode", "shape", "dtype")

    def data(self, shape, dtype):
        return (10 * self.normal(*shape, dtype=dtype),)


class LogMeanExp(Weights):
    params = (["gvae", "scipy"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return ops.log_mean_exp

    def scipy(self, mode, shape, dtype):
        from scipy.special import logsumexp, softmax

        (log_weights,) = self.data(shape, dtype)
        log_k = np.dtype(dtype).type(math.log(shape[0]))
        if mode == "forward":
            return lambda: logsumexp(log_weights, axis=0) - log_k
        y_bar = self.normal(shape[1], dtype=dtype)
        return lambda: (logsumexp(log_weights, axis=0) - log_k, y_bar * softmax(log_weights, axis=0))

    def time_log_mean_exp(self, *_):
        return self.call()


class NormalizedWeights(Weights):
    params = (["gvae", "scipy"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return ops.normalized_weights

    def scipy(self, mode, shape, dtype):
        from scipy.special import softmax

        (log_weights,) = self.data(shape, dtype)
        if mode == "forward":
            return lambda: softmax(log_weights, axis=0)
        w_bar = self.normal(*shape, dtype=dtype)

        def call():
            w = softmax(log_weights, axis=0)
            return w, w * (w_bar - (w_bar * w).sum(axis=0))

        return call

    def time_normalized_weights(self, *_):
        return self.call()


class EffectiveSampleSize(Weights):
    params = (["gvae", "scipy"], MODES, SHAPES, DTYPES)

    def op(self, ops, shape, dtype):
        return ops.effective_sample_size

    def scipy(self, mode, shape, dtype):
        from scipy.special import softmax

        only(mode == "forward")
        (log_weights,) = self.data(shape, dtype)
        return lambda: 1 / np.square(softmax(log_weights, axis=0)).sum(0)

    def time_effective_sample_size(self, *_):
        return self.call()
