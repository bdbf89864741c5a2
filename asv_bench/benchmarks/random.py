"""Counter-based draws of 10^5 numbers. Baseline: NumPy's default generator, which keeps a state."""

from __future__ import annotations

import numpy as np

from .common import SEED, Benchmark

DTYPES = ["float32", "float64"]
SIZE = 100_000


class Draw(Benchmark):
    params = (["gvae", "numpy"], DTYPES)
    param_names = ("implementation", "dtype")
    agree = False  # other generators, other numbers


class Uniform(Draw):
    def gvae(self, dtype):
        from gvae import random

        key = random.key(SEED)
        return lambda: random.uniform(key, SIZE, dtype)

    def numpy(self, dtype):
        return lambda: self.rng.random(SIZE, dtype)

    def time_uniform(self, *_):
        return self.call()


class Normal(Draw):
    def gvae(self, dtype):
        from gvae import random

        key = random.key(SEED)
        return lambda: random.normal(key, SIZE, dtype)

    def numpy(self, dtype):
        return lambda: self.rng.standard_normal(SIZE, dtype)

    def time_normal(self, *_):
        return self.call()


class Bernoulli(Draw):
    def gvae(self, dtype):
        from gvae import random

        key, p = random.key(SEED), self.uniform(0, 1, SIZE, dtype=dtype)
        return lambda: random.bernoulli(key, p)

    def numpy(self, dtype):
        p = self.uniform(0, 1, SIZE, dtype=dtype)
        return lambda: (self.rng.random(SIZE, dtype) < p).astype(dtype)

    def time_bernoulli(self, *_):
        return self.call()


class StepNoise(Benchmark):
    """The noise of one training step: a key of its own, then a short draw."""

    params = (["gvae", "numpy"], [(1, 100, 16), (50, 20, 16)])
    param_names = ("implementation", "shape")
    agree = False

    def gvae(self, shape):
        from gvae import random

        key = random.key(SEED)
        return lambda: random.normal(random.fold_in(key, 3, 1000), shape)

    def numpy(self, shape):
        return lambda: np.random.default_rng((SEED, 3, 1000)).standard_normal(shape, np.float32)

    def time_step_noise(self, *_):
        return self.call()
