"""Densities of bits without a code: linear logits, NADE, and EoNADE's ensemble of orders.

Rows are 12 bits: eight fair coins in four pairs, and the parity of each pair. Linear logits (a fully visible belief network)
cannot express a parity; NADE's hidden units can, if the parities come after their coins. EoNADE learns one network for all
orders; the probability of its ensemble is at least the geometric mean over its orders. The best log p(x) is -8 log 2. Run
time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=80)
options = parser.parse_args()

rng = np.random.default_rng(0)
coins = rng.integers(0, 2, (5000, 8))
x = np.concatenate([coins, coins[:, ::2] ^ coins[:, 1::2]], axis=1).astype(np.float32)
train, test = x[:4000], x[4000:]

common = {"epochs": options.epochs, "learning_rate": 1e-2, "schedule": "cosine", "random_state": 0}
models = {
    "independent bits": gvae.AutoregressiveDensity("bernoulli", **common),
    "linear logits": gvae.AutoregressiveDensity("autoregressive", **common),
    "nade, 16 units": gvae.AutoregressiveDensity("nade:16", **common),
    "eonade, 1 order": gvae.EoNADE((64,), orders=1, **common),
    "eonade, 8 orders": gvae.EoNADE((64,), orders=8, **common),
}
print(f"{'model':<20}{'log p(x)':>10}{'parities kept':>16}")
for name, model in models.items():
    drawn = model.fit(train).sample(500, draw=True).astype(int)
    kept = ((drawn[:, 0:8:2] ^ drawn[:, 1:8:2]) == drawn[:, 8:]).mean()
    print(f"{name:<20}{model.score(test):>10.3f}{kept:>16.3f}")
print(f"{'the process itself':<20}{-8 * np.log(2):>10.3f}{1:>16.3f}")
