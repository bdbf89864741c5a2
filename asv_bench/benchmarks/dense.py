"""Affine layers with an ELU, batch normalisation, Cholesky factors. Baselines: plain NumPy, PyTorch, SciPy."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from .common import DTYPES, MODES, Benchmark, Op, optional, with_gradient

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


class CholeskySolve(Op):
    """L⁻¹ B of A = L Lᵀ. SciPy: LAPACK, and the formula of the derivative (Murray 2016)."""

    params = (["gvae", "scipy"], MODES, [100, 200], DTYPES)
    param_names = ("implementation", "mode", "size", "dtype")

    def data(self, size, dtype):
        """A, B."""
        a = self.normal(size, size, dtype=dtype)
        return (a @ a.T / size + np.eye(size, dtype=dtype)).astype(dtype), self.normal(size, size, dtype=dtype)

    def op(self, ops, size, dtype):
        return lambda a, b: ops.solve_triangular(ops.cholesky(a), b)

    def scipy(self, mode, size, dtype):
        (a, b), y_bar = self.data(size, dtype), self.normal(size, size, dtype=dtype)

        def solve(l, b, trans=0):
            return scipy.linalg.solve_triangular(l, b, trans=trans, lower=True, check_finite=False)

        def call():
            l = scipy.linalg.cholesky(a, lower=True, check_finite=False)
            x = solve(l, b)
            if mode == "forward":
                return x
            b_bar = solve(l, y_bar, 1)
            phi = np.tril(l.T @ -np.tril(b_bar @ x.T))
            phi[np.diag_indices_from(phi)] /= 2
            half = solve(l, solve(l, phi, 1).T, 1)
            return x, 0.5 * (half + half.T), b_bar

        return call

    def time_cholesky_solve(self, *_):
        return self.call()
