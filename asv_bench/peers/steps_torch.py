"""PyTorch's training step, eager and compiled: the forms that were fastest on a 2-core CPU.

W comes from a batched triangular solve of dense matrices. Unrolled over the variables it takes 1.2 to 3 times as long in
eager mode; compiled it takes 0.8 of the time at (100, 1), but 2 to 500 times as long at (20, 50). The likelihood is written
with log sigmoid, which with its gradient is faster here than softplus and binary_cross_entropy_with_logits.
"""

from __future__ import annotations

import math
import os
import shutil

from benchmarks.common import only, optional
from training_cases import Case

from gvae.families import LOG_SCALE


class Torch:
    """Autograd, and the fused Adam."""

    def __init__(self, case: Case):
        self.torch = torch = optional("torch")
        self.case, self.x = case, torch.tensor(case.data())
        self.values = {name: torch.tensor(value, requires_grad=True) for name, value in case.parameters().items()}
        self.optimizer = torch.optim.Adam(self.values.values(), case.learning_rate, eps=1e-8, fused=True)
        self.eye = torch.eye(case.latent)
        self.places = torch.tensor([j * case.latent + i for j, i in case.edges], dtype=torch.long)

    def __call__(self):
        return self._step(self.torch.randn(self.case.samples, self.case.rows, self.case.latent))

    def given(self, noise):
        return self._step(self.torch.from_numpy(noise))

    def parameters(self):
        return {name: value.detach().numpy() for name, value in self.values.items()}

    def _step(self, noise):
        loss = self.loss(noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, noise):
        torch, n = self.torch, self.case.latent
        raw = self.network("encoder", self.x)
        mean, log_scale = raw[:, :n], self.bounded(raw[:, n : 2 * n], LOG_SCALE)
        scale = log_scale.exp()
        if self.case.edges:
            W = self.root(scale, self.bounded(raw[:, 2 * n :], self.case.family.limit))
            z = mean + (W @ noise.permute(1, 2, 0)).permute(2, 0, 1)
        else:
            W = scale
            z = mean + scale * noise
        logits = self.network("decoder", z.reshape(-1, n)).view(*z.shape[:2], -1)
        likelihood = ((self.x - 1) * logits + torch.nn.functional.logsigmoid(logits)).sum(-1)
        log_det = log_scale.sum(-1)
        if self.case.samples == 1:
            kl = 0.5 * (W.square().flatten(1).sum(1) + mean.square().sum(1) - n) - log_det
            return (kl - likelihood).mean()
        log_weights = likelihood + 0.5 * (noise.square() - z.square()).sum(-1) + log_det
        return math.log(len(noise)) - torch.logsumexp(log_weights, 0).mean()

    def network(self, name, x):
        activation = getattr(self.torch.nn.functional, self.case.activation)
        for i in range(3):
            x = self.torch.addmm(self.values[f"{name}.{i}.bias"], x, self.values[f"{name}.{i}.weight"])
            x = activation(x) if i < 2 else x
        return x

    def bounded(self, raw, limit):
        return limit * self.torch.tanh(raw / limit)

    def root(self, scale, ratios):
        n = self.case.latent
        N = ratios.new_zeros(len(ratios), n * n).index_copy(1, self.places, ratios).view(-1, n, n)
        diagonal = self.torch.diag_embed(scale)
        return self.torch.linalg.solve_triangular(self.eye + N, diagonal, upper=True, unitriangular=True)


class Compiled(Torch):
    """The same with torch.compile around the loss, and so around its gradient."""

    def __init__(self, case: Case):
        super().__init__(case)
        compiler = os.environ.get("CXX", "g++")
        only(shutil.which(compiler) is not None, f"torch.compile needs a C++ compiler, and there is no {compiler}")
        self.torch.compiler.reset()  # other cases have other shapes: each is compiled for its own, and they do not add up
        self.loss = self.torch.compile(self.loss, dynamic=False)
