"""Bits one after the other: autoregressive draws, and NADE. Baseline: a loop over the variables in PyTorch. Gamma variables:
baseline SciPy's quantile."""

from __future__ import annotations

import math

import numpy as np

from .common import MODES, Benchmark, Op, only, optional

SIZES = [(100, 784)]  # rows, variables
UNITS = 500


class NADE(Op):
    """log p(x) of 784 bits with 500 hidden units, a batch of 100, and its gradient."""

    params = (["gvae", "torch"], MODES, SIZES, ["float32"])
    param_names = ("implementation", "mode", "size", "dtype")

    def data(self, size, dtype):
        rows, N = size
        self.x = (self.rng.random((rows, N)) < 0.13).astype(dtype)  # as many ones as binarized MNIST has
        weight, out_weight = (0.05 * self.normal(N, UNITS, dtype=dtype) for _ in range(2))
        return self.normal(N, dtype=dtype), self.normal(UNITS, dtype=dtype), weight, out_weight

    def op(self, ops, size, dtype):
        return lambda bias, hidden, weight, out_weight: ops.nade_log_prob(self.x, bias, hidden, weight, out_weight)

    def torch(self, mode, size, dtype):
        torch = optional("torch")
        torch.set_num_threads(2)
        given = {"requires_grad": mode == "gradient"}
        bias, hidden, weight, out_weight = (torch.tensor(a, **given) for a in self.data(size, dtype))
        x = torch.tensor(self.x)
        cotangent = torch.tensor(self.cotangent(self.x[:, 0]))

        def forward():
            a, total = hidden.expand(len(x), -1), 0.0
            for j in range(x.shape[1]):
                t = torch.sigmoid(a) @ out_weight[j] + bias[j]
                total = total + x[:, j] * t - torch.nn.functional.softplus(t)
                a = a + x[:, j, None] * weight[j]
            return total

        def call():
            if mode == "forward":
                with torch.no_grad():
                    return forward()
            value = forward()
            bars = torch.autograd.grad(value, (bias, hidden, weight, out_weight), cotangent)
            return (value.detach(), *bars)

        self.to_numpy = lambda r: tuple(each.numpy() for each in (r if isinstance(r, tuple) else (r,)))
        return call

    def time_nade(self, *_):
        return self.call()


class NADEDraw(Benchmark):
    """Draws of 784 bits with 500 hidden units, a batch of 100."""

    params = (["gvae", "torch"], SIZES)
    param_names = ("implementation", "size")

    def data(self, size):
        rows, N = size
        weight, out_weight = (0.05 * self.normal(N, UNITS) for _ in range(2))
        return self.uniform(0, 1, rows, N), self.normal(N) - 2, self.normal(UNITS), weight, out_weight

    def gvae(self, size):
        from gvae import ops

        given = self.data(size)
        return lambda: ops.nade_draw(*given)

    def torch(self, size):
        torch = optional("torch")
        torch.set_num_threads(2)
        uniform, bias, hidden, weight, out_weight = map(torch.tensor, self.data(size))

        def call():
            a, draws = hidden.expand(len(uniform), -1), []
            for j in range(uniform.shape[1]):
                p = torch.sigmoid(torch.sigmoid(a) @ out_weight[j] + bias[j])
                draws.append((uniform[:, j] < p).float())
                a = a + draws[-1][:, None] * weight[j]
            return torch.stack(draws, dim=1)

        self.to_numpy = lambda r: (r.numpy(),)
        return call

    def time_nade_draw(self, *_):
        return self.call()


class AutoregressiveDraw(Op):
    """Draws of 500 bits with linear logits, a batch of 100; in the gradient, their surrogate path."""

    params = (["gvae", "torch"], MODES, [(100, 500)], ["float32"])
    param_names = ("implementation", "mode", "size", "dtype")

    def data(self, size, dtype):
        rows, N = size
        self.u = self.uniform(0, 1, rows, N, dtype=dtype)
        weight = 0.05 * self.normal(N, N, dtype=dtype)
        return self.normal(rows, N, dtype=dtype) - 1, weight

    def op(self, ops, size, dtype):
        return lambda bias, weight: ops.autoregressive_draw(bias, weight, self.u, path="taylor")

    def torch(self, mode, size, dtype):
        torch = optional("torch")
        torch.set_num_threads(2)
        bias, weight = (torch.tensor(a, requires_grad=mode == "gradient") for a in self.data(size, dtype))
        u, cotangent = torch.tensor(self.u), torch.tensor(self.cotangent(self.u))

        class Draw(torch.autograd.Function):
            @staticmethod
            def forward(ctx, a, u):
                p = torch.sigmoid(a)
                h = (u < p).to(a.dtype)
                ctx.save_for_backward(h, p)
                return h

            @staticmethod
            def backward(ctx, h_bar):
                h, p = ctx.saved_tensors
                return 0.5 * h_bar * (h - p).abs(), None

        def forward():
            a, draws = bias, []
            for j in range(u.shape[1]):
                draws.append(Draw.apply(a[:, j], u[:, j]))
                a = torch.cat([a[:, : j + 1], a[:, j + 1 :] + draws[-1][:, None] * weight[j, j + 1 :]], dim=1)
            return torch.stack(draws, dim=1)

        def call():
            if mode == "forward":
                with torch.no_grad():
                    return forward()
            value = forward()
            return (value.detach(), *torch.autograd.grad(value, (bias, weight), cotangent))

        self.to_numpy = lambda r: tuple(each.numpy() for each in (r if isinstance(r, tuple) else (r,)))
        return call

    def time_autoregressive_draw(self, *_):
        return self.call()


class LogGammaDraw(Op):
    """Logarithms of 20,000 gamma variables with shapes in a range, and their derivatives in the shapes."""

    params = (["gvae", "scipy"], MODES, [(0.05, 100.0), (0.05, 0.5), (0.5, 8.0), (8.0, 100.0), (100.0, 1e4)], ["float64"])
    param_names = ("implementation", "mode", "shapes", "dtype")

    def data(self, shapes, dtype):
        self.u = self.uniform(0, 1, 100, 200, dtype=dtype)
        low, high = map(math.log, shapes)
        return (np.exp(self.uniform(low, high, 100, 200, dtype=dtype)),)

    def op(self, ops, shapes, dtype):
        return lambda shape: ops.log_gamma_draw(shape, self.u)

    def scipy(self, mode, shapes, dtype):
        special = optional("scipy.special")
        only(mode == "forward", "SciPy has no derivative in the shape")
        (shape,) = self.data(shapes, dtype)
        return lambda: np.log(special.gammaincinv(shape, self.u))

    def time_log_gamma_draw(self, *_):
        return self.call()
