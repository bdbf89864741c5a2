"""Mutual autoencoders with an autoregressive decoder on MNIST, held to 2, 5 and 10 nats, and the VAE for comparison.

    python examples/reproduce/mutual.py --runs FOLDER           all points, trained or continued
    python examples/reproduce/mutual.py vae mutual-5 --runs FOLDER

A decoder whose pixels depend on each other can explain them without the code, and under the ELBO it does. Eight variables,
20 epochs of 60,000 images binarized anew at each visit; the derivative of the information through the dreamed pixels is a
surrogate, see `taylor` in `gvae.ops.draws`. A line per point goes to docs/results/mutual.jsonl.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, lines, run_points, section

import gvae
from gvae import data

RESULT = RESULTS / "mutual.jsonl"
COMMON = {"latent": 8, "posterior": "diagonal", "observation": "autoregressive:taylor", "hidden": (200, 200)}
COMMON |= {"output_bias": "data", "batch_size": 100, "epochs": 20, "learning_rate": 1e-3, "schedule": "cosine"}
COMMON |= {"binarize": "dynamic", "random_state": 0}
NATS = (2, 5, 10)
LAST = 3  # epochs of which the information is the mean


def trained(kind: str, own: dict[str, Any], run: Path) -> dict[str, Any]:
    """Train a point, or continue it, and measure it on 2,000 test images."""
    images = data.load("mnist")
    model = gvae.estimators()[kind](**COMMON | own)
    model.fit(images.train, run=run, resume=(run / "config.json").exists(), notes={"image_shape": images.image_shape})
    found = model.evaluate(images.test[::5], samples=100).summary()
    kept = ("elbo", "elbo_standard_error", "log_likelihood", "log_likelihood_standard_error", "kl")
    told = [row["train_information"] for row in model.history_[-LAST:] if "train_information" in row]
    row = {"settings": own, "information": float(np.mean(told)) if told else None}
    return row | {name: found[name] for name in kept} | {"seconds": sum(row["seconds"] for row in model.history_)}


POINTS = {
    "vae": partial(trained, "vae", {}),
    **{
        f"mutual-{nats}": partial(trained, "mutual", {"nats": float(nats), "weight": 2.0, "alone": "recogniser=2"})
        for nats in NATS
    },
}
NOTES = """\
Eight variables, networks of 200-200 units, an autoregressive decoder of the pixels (`autoregressive:taylor`), 20 epochs,
batches of 100, Adam at 1e-3 down to 0 along half a cosine; C = 2, two steps of the recogniser alone before each.
Information: the bound on that of the model, in the mean over the last three epochs; ELBO and KL, the information that the
posterior has of the data, on 2,000 test images: the KL does not follow the target, which holds a lower bound on the
information of draws from the model. One seed. The paper has no figures of this kind."""


def page() -> str:
    """The part of docs/results.md."""
    found, rows = lines(RESULT, "point"), []
    for name in POINTS:
        if name not in found:
            rows.append([name, *["pending"] * 5])
            continue
        r = found[name]
        told = "-" if r["information"] is None else f"{r['information']:.2f}"
        p, error = r["log_likelihood"], r["log_likelihood_standard_error"]
        rows.append([name, told, f"{r['kl']:.2f}", f"{r['elbo']:.2f}", f"{p:.2f} ± {error:.2f}", f"{r['seconds'] / 60:.0f}"])
    columns = ("point", "information, nats", "KL", "ELBO", "log p(x), 100 samples", "minutes")
    return section("Training towards a target mutual information", "mutual.py", columns, rows, NOTES, found.values())


if __name__ == "__main__":
    run_points(POINTS, RESULT, __doc__)
