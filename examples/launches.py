"""Repeated work without Python: a function of arrays, captured once and replayed as a list of launches.

Daily returns have a log-variance h that walks at random (a stochastic-volatility model). Its posterior is fitted by a
Gaussian whose precision is tridiagonal: a step draws from it, takes the ELBO's gradient, and moves. Most of the
cost of a step is Python, not arithmetic. So `captured` traces the function once, and from then on replays its launches, with
the same bits.
"""

import time

import numpy as np

from gvae import captured, nn, ops, optim, random
from gvae.autodiff import value_and_gradient

N, DRAWS, WALK = 500, 8, 0.2

rng = np.random.default_rng(0)
h = np.cumsum(WALK * rng.normal(size=N)).astype(np.float32)
y = np.exp(h / 2) * rng.normal(size=N).astype(np.float32)


def loss(mean, raw, eps):
    """-ELBO, up to a constant: log q(h) - log p(y | h) - log p(h), with L's pivots e^raw_0."""
    chol = ops.stack([ops.exp(raw[0]), raw[1]])
    draws, log_q = ops.sample_and_log_prob_banded(mean, chol, eps, check=False)
    log_likelihood = ops.sum(draws + y * y * ops.exp(-draws), axis=-1) * -0.5
    log_prior = ops.sum(ops.square(draws[:, 1:] - draws[:, :-1]), axis=-1) * (-0.5 / WALK**2)
    return ops.mean(log_q - log_likelihood - log_prior)


def gradient(mean, raw, eps):
    value, (mean_bar, raw_bar) = value_and_gradient(lambda m, r: loss(m, r, eps), mean, raw)
    return value, mean_bar, raw_bar


def fit(gradient, steps=1500):
    """(posterior mean, seconds per step)"""
    parameters = nn.Parameters({"mean": np.zeros(N, np.float32), "raw": np.ones((2, N), np.float32)})
    slope, adam = parameters.zeros(), optim.Adam(parameters, 0.02)
    key, start = random.key(1), time.perf_counter()
    for i in range(steps):
        eps = random.normal(random.fold_in(key, i), (DRAWS, N), np.float32)
        _, slope["mean"][...], slope["raw"][...] = gradient(parameters["mean"], parameters["raw"], eps)
        adam.update(slope)
    return parameters["mean"], (time.perf_counter() - start) / steps


shapes = np.zeros(N, np.float32), np.ones((2, N), np.float32), np.zeros((DRAWS, N), np.float32)
fit(gradient, steps=10)  # compiles
plain, slow = fit(gradient)
again, fast = fit(captured(gradient, *shapes))

assert np.array_equal(plain, again)
print(f"log-variance: correlation {np.corrcoef(h, again)[0, 1]:.2f} with the true one")
print(f"a step takes {slow * 1e6:.0f} us, and {fast * 1e6:.0f} us as launches, with the same bits")
