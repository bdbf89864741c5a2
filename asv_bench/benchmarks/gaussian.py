"""Gaussians with a banded precision: draws, densities, entropies, divergences. Baselines as in banded.py."""

from __future__ import annotations

import math

import numpy as np

from . import peers
from .banded import (
    SHAPES,
    Banded,
    dense_factor,
    diagonals,
    lapack_solver,
    matrix,
    offsets_of,
    sparse_factor,
)
from .common import only, optional

LOG_2PI = math.log(2 * math.pi)


def log_density(w, diagonal):
    """log N of a point with w = Lᵀ (x - mean)."""
    return (np.log(diagonal) - 0.5 * w * w).sum(-1) - w.dtype.type(0.5 * w.shape[-1] * LOG_2PI)


class Sample(Banded):
    """mean + L⁻ᵀ eps."""

    params = matrix("gvae", "lapack")

    def data(self, graph, shape, dtype):
        chol = self.factor(graph, shape, dtype)
        return chol, self.normal(*shape, dtype=dtype), self.normal(*shape, dtype=dtype)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, mean, eps: ops.sample_banded(mean, chol, eps, offsets=offsets)

    def lapack(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, mean, eps = self.data(graph, shape, dtype)
        solve = lapack_solver(chol, offsets_of(graph, shape[1]), trans=True)
        return lambda: mean + solve(eps)

    def time_sample(self, *_):
        return self.call()


class LogProb(Banded):
    params = matrix("gvae", "scipy")
    data = Sample.data

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, mean, x: ops.log_prob_banded(x, mean, chol, offsets=offsets)

    def scipy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, mean, x = self.data(graph, shape, dtype)
        L_transposed = sparse_factor(chol, offsets_of(graph, shape[1])).T.tocsr()
        return lambda: log_density((L_transposed @ (x - mean).ravel()).reshape(shape), chol[:, 0])

    def time_log_prob(self, *_):
        return self.call()


class LogProbOfDraw(Banded):
    """Reads the diagonal and the noise alone, whatever the graph. Baseline: NumPy without checks."""

    params = matrix("gvae", "numpy", graphs=["chain"])

    def data(self, graph, shape, dtype):
        return self.factor(graph, shape, dtype), self.normal(*shape).astype(dtype)

    def op(self, ops, graph, shape, dtype):
        return ops.log_prob_of_draw_banded

    def numpy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, eps = self.data(graph, shape, dtype)
        return lambda: log_density(eps, chol[:, 0])

    def time_log_prob_of_draw(self, *_):
        return self.call()


class SampleAndLogProb(Banded):
    """What a training step does with a chain: draw z and take log q(z); then, from the cotangents w of z and 1 of log q(z),
    those of mean and chol. Shapes are (samples, posteriors, variables), or (posteriors, variables) for one sample each.

    Everybody takes log q(z) from the noise that z was drawn with, which is cheapest, or with `at` "z" as of any point.
    """

    params = (["gvae", "torch", *peers.JAX], [(50, 100, 16), (1024, 64), (1024, 784)], ["noise", "z"])
    param_names = ("implementation", "shape", "at")

    def data(self, shape, at):
        """chol (B, 2, N), mean (B, N), eps and w as shape."""
        chol = self.factor("chain", shape[-2:], np.float32)
        return chol, self.normal(*shape[-2:]), self.normal(*shape), self.normal(*shape)

    def gvae(self, shape, at):
        from gvae import ops
        from gvae.autodiff import vjp

        chol, mean, eps, w = self.data(shape, at)
        one = np.ones(shape[:-1], np.float32)

        def draw(chol, mean):
            if at == "noise":
                return ops.sample_and_log_prob_banded(mean, chol, eps)
            z = ops.sample_banded(mean, chol, eps)
            return z, ops.log_prob_banded(z, mean, chol)

        def call():
            values, pull = vjp(draw, chol, mean)
            return *values, *pull((w, one))

        return call

    def torch(self, shape, at):
        torch = optional("torch")
        chol, mean, eps, w = self.data(shape, at)
        # A matrix per posterior: at (1024, 784) 2.5 GB each for L and its cotangent, so that shape is left out here
        # (peers_table.py times 32 posteriors and counts per posterior).
        L = torch.from_numpy(dense_factor(chol, (0, 1))).requires_grad_()
        mean = torch.from_numpy(mean)[..., None].requires_grad_()
        eps, w = (
            torch.from_numpy(np.ascontiguousarray(np.moveaxis(x.reshape(-1, *mean.shape[:2]), 0, -1))) for x in (eps, w)
        )
        one = torch.ones(eps.shape[0], eps.shape[2])

        def call():
            z = mean + torch.linalg.solve_triangular(L.mT, eps, upper=True)
            u = eps if at == "noise" else L.mT @ (z - mean)
            log_pivots = torch.diagonal(L, dim1=1, dim2=2).log().sum(-1)[:, None]
            log_q = log_pivots - 0.5 * (u * u).sum(1) - 0.5 * shape[-1] * LOG_2PI
            return z, log_q, *torch.autograd.grad((z, log_q), (L, mean), (w, one))

        def to_numpy(result):
            z, log_q, L_bar, mean_bar = (r.detach().numpy() for r in result)
            z, log_q = np.moveaxis(z, -1, 0).reshape(shape), log_q.T.reshape(shape[:-1])
            return z, log_q, diagonals(L_bar, (0, 1)), mean_bar[..., 0]

        self.to_numpy = to_numpy
        return call

    def jax(self, name, shape, at):
        form = peers.JAX[name]()
        jnp = form.np
        chol, mean, eps, w = self.data(shape, at)
        own = (lambda x: x[None]) if len(shape) == 3 else (lambda x: x)  # a factor serves all samples of its posterior
        factor = (form.pack(own(chol[:, 0])), form.pack(own(chol[:, 1])))

        def draw(chol, mean, eps):
            a, c = chol
            z = mean + form.solve(chol, eps, trans=True)
            u = eps
            if at == "z":
                d = z - mean
                u = a * d + c * form.later(d)
            return z, (jnp.log(a) - 0.5 * u * u).sum(form.axis) - 0.5 * shape[-1] * LOG_2PI

        def both(chol, mean, eps, w):
            (z, log_q), pull = form.jax.vjp(lambda chol, mean: draw(chol, mean, eps), chol, mean)
            return z, log_q, *pull((w, jnp.ones_like(log_q)))

        def to_numpy(result):
            z, log_q, chol_bar, mean_bar = result
            a_bar, c_bar, mean_bar = (form.unpack(x).reshape(mean.shape) for x in (*chol_bar, mean_bar))
            log_q = np.moveaxis(np.asarray(log_q), 0, -1) if form.axis else np.asarray(log_q)
            return form.unpack(z).reshape(shape), log_q.reshape(shape[:-1]), np.stack([a_bar, c_bar], axis=1), mean_bar

        self.to_numpy = to_numpy
        compiled = form.jax.jit(both)
        arguments = form.jax.device_put((factor, form.pack(own(mean)), form.pack(eps), form.pack(w)))
        return lambda: form.jax.block_until_ready(compiled(*arguments))

    def time_sample_and_log_prob(self, *_):
        return self.call()


class Entropy(Banded):
    """Reads the diagonal alone, whatever the graph. Baseline: NumPy without checks."""

    params = matrix("gvae", "numpy", graphs=["chain"])

    def data(self, graph, shape, dtype):
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        return ops.entropy_banded

    def numpy(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (chol,) = self.data(graph, shape, dtype)
        constant = chol.dtype.type(0.5 * shape[1] * (1 + LOG_2PI))
        return lambda: constant - np.log(chol[:, 0]).sum(-1)

    def time_entropy(self, *_):
        return self.call()


class MarginalVariances(Banded):
    params = matrix("gvae", "dense", shapes=SHAPES[:2])

    def data(self, graph, shape, dtype):
        return (self.factor(graph, shape, dtype),)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol: ops.variance_banded(chol, offsets=offsets)

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        (L,) = self.dense_data(graph, shape, dtype)
        return lambda: np.square(np.linalg.inv(L)).sum(-2)

    def time_marginal_variances(self, *_):
        return self.call()


class Kl(Banded):
    """KL to N(0, I)."""

    params = matrix("gvae", "dense", "jax_scan", "jax_associative")

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])
        return lambda chol, mean: ops.kl_divergence_banded(mean, chol, offsets=offsets)

    def dense(self, mode, graph, shape, dtype):
        chol, mean = self.data(graph, shape, dtype)
        offsets = offsets_of(graph, shape[1])
        L = dense_factor(chol, offsets)

        def kl(root):
            return (0.5 * (np.square(root).sum(-2) + mean * mean - 1) + np.log(chol[:, 0])).sum(-1)

        if mode == "forward":
            return lambda: kl(np.linalg.inv(L))
        kl_bar = self.normal(shape[0], dtype=dtype)

        def call():
            root = np.linalg.inv(L)
            inverse = root.swapaxes(1, 2) @ root  # d/dL of 1/2 |L⁻¹|² is -(L Lᵀ)⁻¹ L⁻ᵀ
            chol_bar = -diagonals(inverse @ root.swapaxes(1, 2), offsets)
            chol_bar[:, 0] += 1 / chol[:, 0]
            return kl(root), kl_bar[:, None, None] * chol_bar, kl_bar[:, None] * mean

        return call

    def jax_op(self, form):
        def kl(chol, mean):
            variance, _ = form.inverse(chol)
            return (0.5 * (variance + mean * mean - 1) + form.np.log(chol[0])).sum(form.axis)

        return kl

    def time_kl(self, *_):
        return self.call()


class KlToChain(Banded):
    """KL to a second structured Gaussian, a chain."""

    params = matrix("gvae", "dense", shapes=SHAPES[:2])

    def data(self, graph, shape, dtype):
        chol, prior_chol = (self.factor(g, shape, dtype) for g in (graph, "chain"))
        return chol, prior_chol, self.normal(*shape, dtype=dtype), self.normal(*shape, dtype=dtype)

    def op(self, ops, graph, shape, dtype):
        offsets = offsets_of(graph, shape[1])

        def kl(chol, prior_chol, mean, prior_mean):
            return ops.kl_divergence_banded(mean, chol, prior_mean, prior_chol, offsets=offsets, prior_offsets=(0, 1))

        return kl

    def dense(self, mode, graph, shape, dtype):
        only(mode == "forward")
        chol, prior_chol, mean, prior_mean = self.data(graph, shape, dtype)
        L, L_p = dense_factor(chol, offsets_of(graph, shape[1])), dense_factor(prior_chol, (0, 1))

        def call():
            root = np.linalg.inv(L) @ L_p
            w = ((mean - prior_mean)[:, None] @ L_p)[:, 0]
            log_pivots = np.log(chol[:, 0]) - np.log(prior_chol[:, 0])
            return (0.5 * (np.square(root).sum(-2) + w * w - 1) + log_pivots).sum(-1)

        return call

    def time_kl_to_chain(self, *_):
        return self.call()
