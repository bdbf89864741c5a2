"""One step of Adam on a flat buffer. Baseline: the NumPy expression."""

from __future__ import annotations

import math

import numpy as np

from .common import Benchmark


class Adam(Benchmark):
    params = (["gvae", "numpy"], [30_000, 400_000])
    param_names = ("implementation", "size")

    def data(self, size):
        """parameters, gradient."""
        return self.normal(size), self.normal(size)

    def gvae(self, size):
        from gvae.nn import Parameters
        from gvae.optim import Adam

        values, gradient = (Parameters({"network.weight": a}) for a in self.data(size))
        optimizer = Adam(values, 1e-3)

        def call():
            optimizer.update(gradient)
            return values.flat

        return call

    def numpy(self, size):
        values, gradient = self.data(size)
        m, v, step = np.zeros_like(values), np.zeros_like(values), 0

        def call():
            nonlocal step
            step += 1
            m[...] = 0.9 * m + 0.1 * gradient
            v[...] = 0.999 * v + 0.001 * gradient * gradient
            rate = 1e-3 / (1 - 0.9**step)
            values[...] -= rate * m / (np.sqrt(v) / math.sqrt(1 - 0.999**step) + 1e-8)
            return values

        return call

    def time_adam(self, *_):
        return self.call()
