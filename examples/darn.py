"""Deep autoregressive networks: codes of bits, and what dependence within the layers gains.

Rows are images of 5 x 5 pixels: each row and column of pixels is lit with probability 1/5, and 2 in 100 pixels are flipped.
Printed for each model: log p(x) of held-out images, by importance sampling, and the KL of its codes. A sigmoid belief
network has independent bits in each layer; DARN links them, with a factorial or an autoregressive encoder. A good model has
the entropy of the data as its -log p(x). Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=60)
options = parser.parse_args()

SIDE, LIT, TURNED = 5, 0.2, 0.02
rng = np.random.default_rng(0)


def images(n):
    rows, columns = rng.random((2, n, SIDE)) < LIT
    lit = rows[:, :, None] | columns[:, None, :]
    return (lit ^ (rng.random(lit.shape) < TURNED)).reshape(n, -1).astype(np.float32)


def log_p(x):
    """log p(x) of the process that made the images: a sum over all 2^10 sets of bars."""
    bits = (np.arange(2 ** (2 * SIDE))[:, None] >> np.arange(2 * SIDE)) & 1
    lit = (bits[:, :SIDE, None] | bits[:, None, SIDE:]).reshape(len(bits), -1)
    bars = bits.sum(axis=1) * np.log(LIT) + (2 * SIDE - bits.sum(axis=1)) * np.log(1 - LIT)
    wrong = x @ (1 - lit).T + (1 - x) @ lit.T
    joint = bars + wrong * np.log(TURNED) + (x.shape[1] - wrong) * np.log(1 - TURNED)
    return np.logaddexp.reduce(joint, axis=1)


train, test = images(4000), images(1000)
common = {"epochs": options.epochs, "learning_rate": 1e-2, "schedule": "cosine", "random_state": 0}
models = {
    "sbn, 10 bits": gvae.SBN(10, **common),
    "sbn, 10 bits, vimco": gvae.SBN(10, objective="iwae", gradient="vimco", samples=5, **common),
    "darn, 10 bits": gvae.DARN(10, **common),
    "darn, autoregressive encoder": gvae.DARN(10, posterior="autoregressive:taylor", **common),
    "no code (fvsbn)": gvae.AutoregressiveDensity(**common),
}
print(f"{'model':<32}{'log p(x)':>10}{'KL':>8}")
for name, model in models.items():
    found = model.fit(train).evaluate(test, samples=200).summary()
    print(f"{name:<32}{found['log_likelihood']:>10.2f}{found['kl']:>8.2f}")
print(f"{'the process itself':<32}{log_p(test).mean():>10.2f}")
drawn = models["darn, 10 bits"].sample(8, draw=True).reshape(-1, SIDE, SIDE)
print(
    "\ndraws of darn:", *("  ".join("".join(".#"[int(b)] for b in row[i]) for row in drawn) for i in range(SIDE)), sep="\n"
)
