"""A ladder VAE and a hierarchy: the same model and networks, inferred from the top down, and from the data upwards.

Three layers of binarized digits. Inferred upwards, the layer next to the data has a posterior of its own, and the upper
layers explain that code; on a ladder each layer merges its factor from the data with the prior from the layer above. Printed
are the bounds and the KL of each layer, from the data upwards, with the number of its active variables (variance of the mean
over rows above 0.01): on the ladder more of them are active in the upper layers, and the bound is higher. Needs
scikit-learn, whose digits they are. Run time: some seconds.
"""

import argparse

import gvae
from gvae import data

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

digits = data.load("digits")
COMMON = {
    "latent": (16, 8, 4),
    "hidden": ((64,), (32,), (16,)),
    "activation": "leaky_relu",
    "posterior": "diagonal",
    "observation": "bernoulli",
    "output_bias": "data",
    "normalize": "batch",
    "warmup": options.epochs // 3,
    "epochs": options.epochs,
    "batch_size": 100,
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "random_state": options.seed,
}

print(f"{'':<12}{'ELBO':>9}{'log p(x)':>10}   KL of each layer, active variables")
for name, kind in {"ladder": gvae.LadderVAE, "hierarchy": gvae.HierarchicalVAE}.items():
    found = kind(**COMMON).fit(digits.train).evaluate(digits.test, samples=50, measures="units").summary()
    layers = [f"{sum(layer['kl']):.2f}, {layer['active']:>2} of {layer['units']:<2}" for layer in found["units"]["layers"]]
    print(f"{name:<12}{found['elbo']:>9.2f}{found['log_likelihood']:>10.2f}   " + "    ".join(layers))
