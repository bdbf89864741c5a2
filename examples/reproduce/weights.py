"""The decoder's weights on MNIST: point estimates (VAE), the most probable ones (MAP), full variational Bayes.

    python examples/reproduce/weights.py --out FOLDER [--rows 20000] [--epochs 30] [--seed 1] [--models bayes map vae]

A 784-100-16 encoder and a 16-100-784 decoder, dynamic binarization. Printed per model: the reconstruction term
E log p(x | z) of the first and of the last epoch; the bound per row, with what the weights cost (KL(q(w) ‖ p(w)) / N) where
they cost something; test ELBO and importance-sampled log p(x); for comparison the log-likelihood of a decoder that ignores
z, each pixel a coin of its training frequency. FOLDER receives results.jsonl and spread.png: test images, the mean of 100
predictions that differ by their weights only, and the standard deviation of these.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from tables import check_names

import gvae
from gvae import data, plots, random


def ignoring_z(train: np.ndarray, test: np.ndarray) -> float:
    """Mean log-likelihood of binarized rows if pixels were independent coins; grey levels are the coins' odds."""
    p = np.clip(train.mean(axis=0), 1e-6, 1 - 1e-6)
    return float((test * np.log(p) + (1 - test) * np.log(1 - p)).sum(axis=1).mean())


def spread(model: gvae.BayesianVAE, images: np.ndarray, draws: int = 100) -> dict[str, np.ndarray]:
    """Predictions at the posterior's mean code under `draws` draws of the weights."""
    bayes, params = model.model_, model.parameters_
    z = np.broadcast_to(bayes.encoder(params, images).mean, (draws, len(images), bayes.posterior.n))
    batch = data.Batch({"x": images}, np.arange(len(images)))
    p = bayes.decode(params, model.state_, {"z": z}, bayes.noise(random.key(5), batch, draws))["x"].mean
    return {"images": images, "mean": p.mean(axis=0), "standard deviation": p.std(axis=0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=["bayes", "map", "vae"])
    options = parser.parse_args()
    check_names(parser, options.models, gvae.estimators())
    options.out.mkdir(parents=True, exist_ok=True)
    mnist = data.load("mnist", data_dir=options.data_dir)
    train, test = mnist.train[: options.rows], mnist.test[:2000]
    print(f"a decoder that ignores z: {ignoring_z(train, test):.2f} nats per test image")
    for name in options.models:
        started = time.perf_counter()
        settings = {"latent": 16, "posterior": "diagonal", "observation": "bernoulli", "hidden": (100,)}
        make = gvae.estimators()[name]
        model = make(**settings, epochs=options.epochs, random_state=options.seed).fit(train)
        first, last = model.history_[0], model.history_[-1]
        summary = model.evaluate(test, samples=100).summary()
        row = {"model": name, "rows": len(train), "epochs": options.epochs, "seed": options.seed}
        row |= {"reconstruction_first": first["train_log_likelihood"], "reconstruction_last": last["train_log_likelihood"]}
        row |= {"bound": last["train_bound"], "test_elbo": summary["elbo"], "test_log_p": summary["log_likelihood"]}
        row["seconds"] = round(time.perf_counter() - started, 1)
        with open(options.out / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row))
        if name == "bayes":
            pictures = spread(model, test[:14])
            shown = pictures["standard deviation"]
            pictures["standard deviation"] = shown / shown.max()
            plots.rows(options.out / "spread.png", pictures, mnist.image_shape)


if __name__ == "__main__":
    main()
