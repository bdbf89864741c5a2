"""JAX's training step, one compiled function: the forms that were fastest on a 2-core CPU.

A chain is a scan over the variables: at (100, 1) a fifth of a batched triangular solve's time, at (20, 50) four fifths. On a
grid the rows of W are found one after the other, unrolled, the batch in the last axis: a half of the solve's time, and nine
tenths. The decoder sees all samples as rows of one matrix, and softplus is spelled out, faster than jax.nn.softplus.
"""

from __future__ import annotations

import math

import numpy as np
from benchmarks.common import SEED, optional
from training_cases import Case

from gvae.families import LOG_SCALE

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Jax:
    """Noise, gradient and Adam in one jitted function; parameters and the optimiser's state are donated to it."""

    def __init__(self, case: Case):
        self.jax = jax = optional("jax")
        self.np, self.case = jax.numpy, case
        self.x = self.np.array(case.data())
        self.values = {name: self.np.array(value) for name, value in case.parameters().items()}
        zeros = lambda: {name: self.np.zeros_like(value) for name, value in self.values.items()}  # noqa: E731
        self.state = (zeros(), zeros(), self.np.array(0))
        self.key = jax.random.key(SEED)
        self.step = jax.jit(self._step, donate_argnums=(0, 1))
        self.step_with_draw = jax.jit(self._step_with_draw, donate_argnums=(0, 1))

    def __call__(self):
        self.values, self.state, loss = self.step_with_draw(self.values, self.state, self.x, self.key)
        return float(loss)

    def given(self, noise):
        self.values, self.state, loss = self.step(self.values, self.state, self.x, noise)
        return float(loss)

    def parameters(self):
        return {name: np.asarray(value) for name, value in self.values.items()}

    def _step_with_draw(self, values, state, x, key):
        shape = (self.case.samples, self.case.rows, self.case.latent)
        noise = self.jax.random.normal(self.jax.random.fold_in(key, state[-1]), shape)
        return self._step(values, state, x, noise)

    def _step(self, values, state, x, noise):
        loss, gradient = self.jax.value_and_grad(self.loss)(values, x, noise)
        m, v, step = state
        step = step + 1
        m = {name: BETA1 * m[name] + (1 - BETA1) * g for name, g in gradient.items()}
        v = {name: BETA2 * v[name] + (1 - BETA2) * g * g for name, g in gradient.items()}
        rate, root = self.case.learning_rate / (1 - BETA1**step), self.np.sqrt(1 - BETA2**step)
        values = {name: p - rate * m[name] / (self.np.sqrt(v[name]) / root + EPS) for name, p in values.items()}
        return values, (m, v, step), loss

    def loss(self, values, x, noise):
        n = self.case.latent
        raw = self.network(values, "encoder", x)
        mean, log_scale = raw[:, :n], self.bounded(raw[:, n : 2 * n], LOG_SCALE)
        draw, trace = self.draw(self.np.exp(log_scale), raw[:, 2 * n :], noise)
        z = mean + draw
        logits = self.network(values, "decoder", z.reshape(-1, n)).reshape(*z.shape[:-1], -1)
        softplus = self.np.maximum(logits, 0) + self.np.log1p(self.np.exp(-self.np.abs(logits)))
        likelihood = (x * logits - softplus).sum(-1)
        log_det = log_scale.sum(-1)
        if self.case.samples == 1:
            kl = 0.5 * (trace + (mean * mean).sum(-1) - n) - log_det
            return (kl - likelihood).mean()
        log_weights = likelihood + 0.5 * (noise * noise - z * z).sum(-1) + log_det
        return math.log(len(noise)) - self.jax.nn.logsumexp(log_weights, axis=0).mean()

    def network(self, values, name, x):
        activation = {"elu": self.jax.nn.elu, "tanh": self.np.tanh}[self.case.activation]
        for i in range(3):
            x = x @ values[f"{name}.{i}.weight"] + values[f"{name}.{i}.bias"]
            x = activation(x) if i < 2 else x
        return x

    def bounded(self, raw, limit):
        return limit * self.np.tanh(raw / limit)

    def draw(self, scale, raw, noise):
        """W eps (samples, rows, n), and |W|² (rows,), which the compiler drops where nobody reads it."""
        if not self.case.edges:
            return scale * noise, (scale * scale).sum(-1)
        ratios = self.bounded(raw, self.case.family.limit)
        return (self.chain if self.case.posterior == "chain" else self.grid)(scale, ratios, noise)

    def chain(self, scale, ratios, noise):
        """x_j = s_j eps_j - r_j x_(j+1), and with it the variances."""

        def step(after, now):
            (x, variance), (e, s, r) = after, now
            after = e - r * x, s * s + r * r * variance
            return after, after

        ratios = self.np.pad(ratios, ((0, 0), (0, 1)))
        start = self.np.zeros(noise.shape[:-1]), self.np.zeros(len(scale))
        along = (self.np.moveaxis(scale * noise, -1, 0), scale.T, ratios.T)
        x, variance = self.jax.lax.scan(step, start, along, reverse=True)[1]
        return self.np.moveaxis(x, 0, -1), variance.sum(0)

    def grid(self, scale, ratios, noise):
        """Row j of W is s_j e_j less the later rows that it is tied to, each times its ratio."""
        n, rows = self.case.latent, {}
        for j in reversed(range(n)):
            rows[j] = self.np.eye(n)[j][:, None] * scale[:, j]
            for k, (first, later) in enumerate(self.case.edges):
                if first == j:
                    rows[j] -= ratios[:, k] * rows[later]
        W = self.np.stack([rows[j] for j in range(n)])  # (n, n, rows of the batch)
        return self.np.einsum("ijb,kbj->kbi", W, noise), (W * W).sum((0, 1))
