"""A training step in plain sight: NumPy, the tape, the ops, random numbers and Adam.

A VAE of binary images (bars of 8 x 8 pixels), encoder 64-32-(8), decoder 8-32-64, whose posterior is a Gaussian chain: its
precision is L L', where L has a diagonal and one off-diagonal, and a network emits both. `gvae.training.Trainer` does the
same, with the same bits.

    python examples/plain_step.py
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np

from gvae import ops, optim, random
from gvae.autodiff import value_and_gradient

LATENT, ROWS, RATIO = 8, 100, 10.0  # RATIO: 1e8 ** (1 / LATENT), the bound on a ratio L_(j+1)j / L_jj
SIZES = {"encoder": (64, 32, 3 * LATENT - 1), "decoder": (LATENT, 32, 64)}


class Parameters(dict):
    """Named arrays that are views of one flat buffer, over which Adam makes one pass."""

    def __init__(self, arrays):
        self.flat = np.concatenate([a.ravel() for a in arrays.values()])
        self.groups = {"all": slice(0, len(self.flat))}
        parts = np.split(self.flat, np.cumsum([a.size for a in arrays.values()]))
        super().__init__({name: part.reshape(a.shape) for (name, a), part in zip(arrays.items(), parts[:-1], strict=True)})

    def zeros(self):
        return Parameters({name: np.zeros_like(a) for name, a in self.items()})


def initial(key):
    """Weights uniform in +-sqrt(6 / (inputs + outputs)), biases 0; what the encoder's last layer says beyond means starts
    at 0, so that the posterior starts with covariance I."""
    p = {}
    for j, (net, sizes) in enumerate(SIZES.items()):
        for i, (n, m) in enumerate(pairwise(sizes)):
            u = random.uniform(random.fold_in(key, j, i), (n, m), np.float32)
            p[f"{net}.{i}.weight"] = np.float32(np.sqrt(6 / (n + m))) * (2 * u - 1)
            p[f"{net}.{i}.bias"] = np.zeros(m, np.float32)
    p["encoder.1.weight"][:, LATENT:] = 0
    return Parameters(p)


def elbo(p, x, eps):
    """E log p(x | z) - KL(q(z | x) || N(0, I)), its mean over rows x (B, 64), in nats, by one draw z from eps (1, B, n)."""
    n = LATENT
    h = ops.affine(x, p["encoder.0.weight"], p["encoder.0.bias"], activation="elu")
    raw = ops.affine(h, p["encoder.1.weight"], p["encoder.1.bias"])
    diagonal = ops.exp(-ops.bounded(raw[:, n : 2 * n], limit=math.log(1e3)))
    ratios = ops.bounded(raw[:, 2 * n :], limit=RATIO)
    ratios = ops.concatenate([ratios, np.zeros((len(x), 1), np.float32)], axis=-1)
    L = ops.stack([diagonal, ratios * diagonal], axis=-2)  # (B, 2, n): the diagonals of L
    z = ops.sample_banded(raw[:, :n], L, eps, check=False)
    kl = ops.kl_divergence_banded(raw[:, :n], L, check=False)
    g = ops.affine(z, p["decoder.0.weight"], p["decoder.0.bias"], activation="elu")
    likelihood = ops.bernoulli_affine_log_prob(x, g, p["decoder.1.weight"], p["decoder.1.bias"])
    return ops.mean(likelihood) - ops.mean(kl)


def images(step):
    """(ROWS, 64): each row and each column of an image is a bar with probability 1/8."""
    rows, columns = np.random.default_rng(step).random((2, ROWS, 8)) < 1 / 8
    return (rows[:, :, None] | columns[:, None, :]).reshape(ROWS, 64).astype(np.float32)


def train(steps, seed=1):
    """Yields the bound of each step, and the parameters after it."""
    key = random.key(seed)
    p = initial(random.fold_in(key, 0))
    adam = optim.Adam(p, 1e-3)
    for step in range(steps):
        x = images(step)
        eps = random.normal(random.fold_in(key, 3, step), (1, ROWS, LATENT), np.float32)
        bound, up = value_and_gradient(partial(elbo, x=x, eps=eps), dict(p))
        adam.update(Parameters({name: -bar for name, bar in up.items()}))
        yield float(bound), p


if __name__ == "__main__":
    for step, (bound, _) in enumerate(train(201)):
        if step % 50 == 0:
            print(f"step {step:>3}: ELBO {bound:8.3f} nats per image")
