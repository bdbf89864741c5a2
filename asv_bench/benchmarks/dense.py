"""Affine layers with an ELU, and batch normalisation. Baselines: plain NumPy, PyTorch."""

from __future__ import annotations

import numpy as np

from .common import Benchmark, Op, optional, with_gradient

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


class BatchNorm(Op):
    """With an ELU after it. PyTorch on two threads, with F.batch_norm."""

    params = (["gvae", "torch"], ["gradient", "forward"], [(100, 200), (1000, 200), (5000, 512)])
    param_names = ("implementation", "mode", "shape")

    def data(self, shape):
        """x, scale, shift."""
        return 2 * self.normal(*shape), self.uniform(0.5, 2, shape[-1]), self.normal(shape[-1])

    def op(self, ops, shape):
        return lambda x, scale, shift: ops.batch_norm(x, scale, shift, activation="elu")

    def torch(self, mode, shape):
        torch = optional("torch")
        torch.set_num_threads(2)
        F = torch.nn.functional
        arrays = [torch.tensor(a, requires_grad=mode == "gradient") for a in self.data(shape)]
        y_bar = torch.tensor(self.normal(*shape))

        def forward():
            x, scale, shift = arrays
            return F.elu(F.batch_norm(x, None, None, scale, shift, training=True))

        def call():
            y = forward()
            return y, *torch.autograd.grad(y, arrays, y_bar)

        def to_numpy(result):
            return tuple(a.detach().numpy() for a in (result if isinstance(result, tuple) else (result,)))

        self.to_numpy = to_numpy
        return call if mode == "gradient" else forward

    def time_batch_norm(self, *_):
        return self.call()
