"""A variational ladder autoencoder: flat codes whose networks grow in depth, and what each of them holds.

Rows are bars on a ring of 24 pixels, each at a place and of a brightness. Printed for each level: its KL, and how much of
both a linear map of the code tells (R² on held-out rows; the place as sine and cosine). Nothing in the objective gives a
factor to a level: here the place is shared between them. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--combine", default="gate", choices=("concat", "gate"))
options = parser.parse_args()

rng = np.random.default_rng(0)
place, brightness = rng.uniform(0, 2 * np.pi, 2000), rng.normal(size=2000)
pixels = np.linspace(0, 2 * np.pi, 24, endpoint=False)
bars = np.exp(3 * (np.cos(pixels - place[:, None]) - 1))
x = bars + 0.5 * brightness[:, None] + 0.1 * rng.normal(size=(2000, 24))
train, test = slice(0, 1600), slice(1600, 2000)


def told(code, target):
    """R² of a linear map, fitted to training rows, on held-out ones."""
    design = np.column_stack([code, np.ones(len(code))])
    fit = design[test] @ np.linalg.lstsq(design[train], target[train], rcond=None)[0]
    return 1 - np.square(target[test] - fit).sum() / np.square(target[test] - target[test].mean(axis=0)).sum()


model = gvae.VLAE(latent=(1, 2), hidden=((24,), (64, 64)), combine=options.combine, epochs=options.epochs,
                  learning_rate=3e-3, random_state=0).fit(x[train])  # fmt: skip
circle = np.column_stack([np.sin(place), np.cos(place)])
codes, posteriors = model.codes(x), model.posterior_of(x[test])
print(f"{'level':<8}{'KL':>8}{'brightness':>14}{'place':>10}")
for name, code in codes.items():
    kl = posteriors[name].kl().mean()
    print(f"{name:<8}{kl:>8.2f}{told(code, brightness[:, None]):>14.2f}{told(code, circle):>10.2f}")
print(f"held-out log p(x): {model.score(x[test]):.2f} nats per row")
