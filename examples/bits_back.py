"""Compression by models with codes: bits-back coding, whose mean length is -ELBO / ln 2, decoded again bit for bit.

Rows are 32 counts along a line, of a rate that varies slowly. They are encoded by a VAE with independent codes, by one whose
posterior is a Gaussian chain, coded by its conditional distributions, and by a density without a code, for comparison with
the compressors gzip and bz2. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=40)
options = parser.parse_args()

rng = np.random.default_rng(0)
smooth = np.cumsum(0.4 * rng.normal(size=(5000, 32)), axis=1) + rng.normal(size=(5000, 1))
x = rng.poisson(np.exp(smooth.clip(-3, 3))).astype(np.float32)
train, test = x[:4000], x[4000:]

common = {"observation": "poisson", "epochs": options.epochs, "learning_rate": 3e-3, "random_state": 0}
models = {
    "vae, independent codes": gvae.VAE(8, "diagonal", hidden=(64,), **common),
    "vae, a chain of codes": gvae.VAE(8, "chain", hidden=(64,), **common),
    "no code": gvae.AutoregressiveDensity(**common | {"observation": "negative_binomial"}),
}
print(f"{'bits a row':<26}{'net':>10}{'-ELBO':>10}{'decoded':>10}")
for name, model in models.items():
    found = model.fit(train).evaluate(test, samples=20, measures="bits").summary()["bits"]
    print(f"{name:<26}{found['net_bits_per_row']:>10.2f}{found['bound_bits_per_row']:>10.2f}{found['decoded']!s:>10}")
print(f"{'gzip':<26}{found['gzip_bits_per_row']:>10.2f}\n{'bz2':<26}{found['bz2_bits_per_row']:>10.2f}")
