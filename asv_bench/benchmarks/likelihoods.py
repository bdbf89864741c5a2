"""The Bernoulli log-likelihood of 784 pixels, of all K samples of each row. Baseline: the NumPy expression."""

from __future__ import annotations

import numpy as np

from .common import Benchmark, with_gradient

SHAPES = [(1, 100, 784), (50, 20, 784)]  # (K, B, N)


class Likelihood(Benchmark):
    param_names = ("implementation", "shape")

    def data(self, shape):
        """x, logits."""
        return self.binary(*shape[1:]), 3 * self.normal(*shape)


def log_prob(x, logits):
    return (x * logits - np.logaddexp(0, logits)).sum(-1)


class Bernoulli(Likelihood):
    params = (["gvae", "numpy"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        x, logits = self.data(shape)
        return lambda: ops.bernoulli_log_prob(x, logits)

    def numpy(self, shape):
        x, logits = self.data(shape)
        return lambda: log_prob(x, logits)

    def time_bernoulli(self, *_):
        return self.call()


class BernoulliGradient(Likelihood):
    params = (["gvae", "numpy"], SHAPES)

    def gvae(self, shape):
        from gvae import ops

        x, logits = self.data(shape)
        return with_gradient(lambda a: ops.bernoulli_log_prob(x, a), (logits,), self.normal(*shape[:2]))

    def numpy(self, shape):
        x, logits = self.data(shape)
        y_bar = self.normal(*shape[:2])[..., None]
        return lambda: (log_prob(x, logits), y_bar * (x - 1 / (1 + np.exp(-logits))))

    def time_bernoulli_gradient(self, *_):
        return self.call()
