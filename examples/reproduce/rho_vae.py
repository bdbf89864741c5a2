"""The AR(1) posterior of rho-VAE under its published loss and under a true bound, compared with a diagonal one.

    python examples/reproduce/rho_vae.py [--data mnist] [--data-dir FOLDER] [--rows 20000] [--epochs 15] [--seeds 1 2 3]

The published loss sums the likelihood and 1/2 |mu|² over the batch, and *averages* over it the rest of the KL, that of the
covariance: each row is charged 1/B of it. Trained here in the set-up of the published notebooks (784-400-5, ReLU, Adam
with 1e-3, batches of 128, 15 epochs; grey levels binarized anew at every presentation), with the right sampler in each case.
Printed: the loss that training reports for held-out rows, in nats per row, and what the model is worth: ELBO and log p(x).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import gvae
from gvae import data, models, objectives, ops, random, training


class Published(models.VAE):
    """A VAE whose rows are charged 1/B of the KL's part that does not depend on the mean."""

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int | None = None) -> objectives.Terms:
        terms = super().terms(params, state, batch, noise, step)
        layer = terms.layers[0]
        of_mean = 0.5 * ops.sum(ops.square(layer.q.mean), axis=-1)
        layer.kl = of_mean + (layer.q.kl() - of_mean) * (1 / len(batch))
        return terms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--latent", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    dataset = data.load(options.data, data_dir=options.data_dir)
    train = data.Table(dataset.train[: options.rows].astype(np.float32), binarize="dynamic")
    test = data.Table(dataset.test[:2000].astype(np.float32), binarize="dynamic")
    n = dataset.train.shape[1]
    print(f"{'posterior, loss':<24}{'reported loss':>20}{'-ELBO':>20}{'-log p(x)':>20}")
    for posterior, cls in (("diagonal", models.VAE), ("ar1", models.VAE), ("ar1", Published)):
        rows = []
        for seed in options.seeds:
            model = cls(n, options.latent, posterior, hidden=(400,), activation="relu")
            trainer, _ = training.train(model, train, epochs=options.epochs, batch_size=128, seed=seed)
            reported = trainer.validate(test, batch_size=128)["bound"]
            plain = models.VAE(n, options.latent, posterior, hidden=(400,), activation="relu")
            summary = gvae.evaluate(plain, trainer.parameters, test, samples=200, key=random.key(seed)).summary()
            rows.append((-reported, -summary["elbo"], -summary["log_likelihood"]))
        errors = [f" +-{s:4.2f}" for s in np.std(rows, axis=0, ddof=1)] if len(rows) > 1 else [" " * 7] * 3
        name = f"{posterior}, {'published' if cls is Published else 'a bound'}"
        cells = "".join(f"{m:>13.2f}{s}" for m, s in zip(np.mean(rows, axis=0), errors, strict=True))
        print(f"{name:<24}{cells}", flush=True)


if __name__ == "__main__":
    main()
