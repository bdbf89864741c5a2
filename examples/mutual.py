"""Mutual autoencoders: three amounts of information of code and data, asked for and reached.

Eight bits, each equal to the one before it except for one in ten, and a decoder that is autoregressive in them: it can
explain them with a code or without one. How much of it the ELBO uses is left to the training. Here the model is asked for M
nats. "reached" is what the recogniser finds in draws from the model; next to it are the ELBO on test rows, and the KL and
mutual information of the encoder's codes. The ELBO is at most -2.97, minus the entropy of the data. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--nats", type=float, nargs="+", default=(0.5, 1.0, 1.5))
options = parser.parse_args()

rng = np.random.default_rng(0)
start, flips = rng.integers(2, size=(2000, 1)), rng.random((2000, 8)) < 0.1
bits = ((start + np.cumsum(flips, axis=1)) % 2).astype(float)
train, test = bits[:1500], bits[1500:]
COMMON = {
    "latent": 2,
    "posterior": "diagonal",
    "observation": "autoregressive:taylor",  # draws of bits with a surrogate derivative
    "hidden": (16,),
    "epochs": options.epochs,
    "batch_size": 100,
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "random_state": 0,
}
models = {"VAE": gvae.VAE(**COMMON)}
models |= {f"M = {nats:g}": gvae.MutualAutoencoder(nats=nats, **COMMON) for nats in options.nats}
print(f"{'':<10}{'reached':>10}{'ELBO':>10}{'KL':>8}{'I_q(z; x)':>12}")
for name, model in models.items():
    found = model.fit(train).evaluate(test, samples=20, measures="surgery").summary()
    last = [row["train_information"] for row in model.history_[-5:] if "train_information" in row]
    reached = f"{np.mean(last):.2f}" if last else ""
    encoded = found["surgery"]["mutual_information"]
    print(f"{name:<10}{reached:>10}{found['elbo']:>10.2f}{found['kl']:>8.2f}{encoded:>12.2f}")
