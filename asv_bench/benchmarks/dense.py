"""Affine layers with an ELU. Baseline: plain NumPy."""

from __future__ import annotations

import numpy as np

from .common import Benchmark, with_gradient

LAYERS = [(100, 784, 200), (1000, 200, 200)]  # (rows, inputs, outputs)


class Layer(Benchmark):
    param_names = ("implementation", "layer")

    def data(self, layer):
        """x, weight, bias."""
        B, I, O = layer
        return self.normal(B, I), self.normal(I, O) * np.float32(I**-0.5), self.normal(O)


def affine(x, weight, bias):
    a = x @ weight + bias
    return np.where(a > 0, a, np.expm1(np.minimum(a, 0)))


class Affine(Layer):
    params = (["gvae", "numpy"], LAYERS)

    def gvae(self, layer):
        from gvae import ops

        x, weight, bias = self.data(layer)
        return lambda: ops.affine(x, weight, bias, activation="elu")

    def numpy(self, layer):
        x, weight, bias = self.data(layer)
        return lambda: affine(x, weight, bias)

    def time_affine(self, *_):
        return self.call()


class AffineGradient(Layer):
    params = (["gvae", "numpy"], LAYERS)

    def gvae(self, layer):
        from gvae import ops

        arrays = self.data(layer)
        y_bar = self.normal(layer[0], layer[2])
        return with_gradient(lambda x, w, b: ops.affine(x, w, b, activation="elu"), arrays, y_bar)

    def numpy(self, layer):
        x, weight, bias = self.data(layer)
        y_bar = self.normal(layer[0], layer[2])

        def call():
            y = affine(x, weight, bias)
            a_bar = y_bar * np.where(y > 0, np.float32(1), y + 1)
            return y, a_bar @ weight.T, x.T @ a_bar, a_bar.sum(0)

        return call

    def time_affine_gradient(self, *_):
        return self.call()
