"""Steps of models with discrete codes as Python and as launches, and what NADE's step consists of.

    python asv_bench/discrete_steps.py [--repeats 25]

Batches of 100 rows of 784 bits, 13 in 100 of them ones, in float32. The two ways of a step take turns; medians, in
milliseconds. NADE's recurrence computes hidden units only where a bit is 1: rows without ones cost no logistic function.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import gvae
from gvae import models, ops, random, training
from gvae.data import Table

D, ROWS, ONES, UNITS = 784, 100, 0.13, 500
MODELS = {
    "SBN, 200-200 bits": (models.SBN(D, latent=(200, 200)), 1),
    "SBN, 200-200-200 bits, 5 draws": (models.SBN(D, latent=(200, 200, 200)), 5),
    "SBN, 8-8 bits of 16": (models.SBN(16, latent=(8, 8)), 1),
    "DARN, 500 bits": (models.DARN(D, latent=500), 1),
    "DARN, 500 bits, autoregressive encoder": (models.DARN(D, latent=500, posterior="autoregressive:taylor"), 1),
    "VAE, 20 categories of 8": (models.VAE(D, 20, "categorical:8", observation="bernoulli"), 1),
    "VAE, 50 counts": (models.VAE(D, 50, "poisson", observation="bernoulli"), 1),
    f"NADE, {UNITS} units": (models.Density(D, observation=f"nade:{UNITS}"), 1),
}


def medians(repeats: int, *calls: Callable[[], object]) -> list[float]:
    """Milliseconds of each call, in turns."""
    spent: list[list[float]] = [[] for _ in calls]
    for i in range(repeats + 3):
        for call, times in zip(calls, spent, strict=True):
            start = time.perf_counter()
            call()
            if i >= 3:  # those before compile, record and verify
                times.append(time.perf_counter() - start)
    return [1e3 * float(np.median(times)) for times in spent]


def rows(share: float, n: int = D) -> np.ndarray:
    return (np.random.default_rng(0).random((ROWS, n)) < share).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    repeats = parser.parse_args().repeats
    print("| step, ms | Python | captured |\n| --- | --- | --- |")
    for name, (model, draws) in MODELS.items():
        batch = Table(rows(ONES, model.sizes["x"])).batch(np.arange(ROWS), random.key(0))
        ways = [training.Trainer(model, samples=draws, seed=1, programs=programs) for programs in (False, True)]
        python, captured = medians(repeats, *(partial(trainer.step, batch) for trainer in ways))
        print(f"| {name} | {python:.1f} | {captured:.1f} |")
    rng = np.random.default_rng(1)
    bias, hidden = (rng.normal(size=n).astype(np.float32) for n in (D, UNITS))
    weights = [0.05 * rng.normal(size=(D, UNITS)).astype(np.float32) for _ in range(2)]
    print("\n| NADE, ms | log p(x) | and its gradient |\n| --- | --- | --- |")
    for share in (0.0, ONES, 0.5):
        x = rows(share)

        def log_p(*given, x=x):
            return ops.nade_log_prob(x, *given)

        forward, gradient = medians(
            repeats,
            lambda: log_p(bias, hidden, *weights),
            lambda: gvae.gradient(lambda *given: log_p(*given).sum(), bias, hidden, *weights),
        )
        print(f"| {share:.0%} of the bits are 1 | {forward:.1f} | {gradient:.1f} |")


if __name__ == "__main__":
    main()
