"""Log-likelihoods of 784 pixels, of all K samples of each row. Baseline: the NumPy expression."""

from __future__ import annotations

import math

import numpy as np

from .common import DTYPES, MODES, Op

SHAPES = [(1, 100, 784), (50, 20, 784)]  # (K, B, N)


class Likelihood(Op):
    param_names = ("implementation", "mode", "shape", "dtype")


def bernoulli(x, logits):
    return (x * logits - np.logaddexp(0, logits)).sum(-1)


class Bernoulli(Likelihood):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        self.x = self.binary(*shape[1:], dtype=dtype)
        return (3 * self.normal(*shape, dtype=dtype),)

    def op(self, ops, shape, dtype):
        return lambda logits: ops.bernoulli_log_prob(self.x, logits)

    def numpy(self, mode, shape, dtype):
        (logits,), x = self.data(shape, dtype), self.x
        if mode == "forward":
            return lambda: bernoulli(x, logits)
        y_bar = self.normal(*shape[:2], dtype=dtype)[..., None]
        return lambda: (bernoulli(x, logits), y_bar * (x - 1 / (1 + np.exp(-logits))))

    def time_bernoulli(self, *_):
        return self.call()


class BernoulliAffine(Likelihood):
    """From the last hidden layer of 200 units."""

    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        self.x = self.binary(*shape[1:], dtype=dtype)
        h, weight = self.normal(*shape[:2], 200, dtype=dtype), self.normal(200, shape[2], dtype=dtype)
        return h, 0.1 * weight, self.normal(shape[2], dtype=dtype)

    def op(self, ops, shape, dtype):
        return lambda h, weight, bias: ops.bernoulli_affine_log_prob(self.x, h, weight, bias)

    def numpy(self, mode, shape, dtype):
        (h, weight, bias), x = self.data(shape, dtype), self.x
        y_bar = self.normal(*shape[:2], dtype=dtype)[..., None]

        def call():
            logits = h @ weight + bias
            value = bernoulli(x, logits)
            if mode == "forward":
                return value
            bar = (y_bar * (x - 1 / (1 + np.exp(-logits)))).reshape(-1, shape[2])
            rows = h.reshape(-1, 200)
            return value, (bar @ weight.T).reshape(h.shape), rows.T @ bar, bar.sum(axis=0)

        return call

    def time_bernoulli_affine(self, *_):
        return self.call()


class Normal(Likelihood):
    """With one learned scale per pixel."""

    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)

    def data(self, shape, dtype):
        self.x = self.normal(*shape[1:], dtype=dtype)
        return self.normal(*shape, dtype=dtype), self.uniform(-1, 1, shape[2], dtype=dtype)

    def op(self, ops, shape, dtype):
        return lambda mean, log_scale: ops.normal_log_prob(self.x, mean, log_scale)

    def numpy(self, mode, shape, dtype):
        (mean, log_scale), x = self.data(shape, dtype), self.x
        y_bar = self.normal(*shape[:2], dtype=dtype)[..., None]
        constant = x.dtype.type(0.5 * math.log(2 * math.pi))

        def call():
            root = np.exp(-log_scale)
            t = (x - mean) * root
            value = (-0.5 * t * t - log_scale - constant).sum(-1)
            if mode == "forward":
                return value
            return value, y_bar * t * root, (y_bar * (t * t - 1)).sum((0, 1))

        return call

    def time_normal(self, *_):
        return self.call()
