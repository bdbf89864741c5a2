"""`gvae demo`: three posteriors on scikit-learn's digits, a table and four pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from gvae import data, estimator, plots, training

__all__ = ["run"]

POSTERIORS = {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}


def run(out: str | os.PathLike, *, epochs: int = 200, seed: int = 1, samples: int = 500, quiet: bool = False) -> list[dict]:
    """Train, print the table, write the pictures into the folder `out`. Returns the table's rows."""
    folder = Path(out)
    training.check_free(folder)
    digits = data.load("digits")
    assert digits.image_shape is not None
    say = (lambda *_: None) if quiet else print
    say(
        f"{len(digits.train)} training and {len(digits.test)} test images of 8 x 8; 16 latent variables, {epochs} epochs each"
    )
    say("(the first run compiles the kernels, some seconds)")
    fitted, rows = {}, []
    for name, posterior in POSTERIORS.items():
        model = estimator.VAE(
            latent=16, posterior=posterior, observation="bernoulli", epochs=epochs, random_state=seed, verbose=not quiet
        )
        fitted[name] = model.fit(digits.train, validation=digits.test)
        summary = model.evaluate(digits.test, samples=samples, seed=seed).summary()
        rows.append({"posterior": name, **summary})
    say()
    say(
        f"{'posterior':<15}{'test ELBO':>12}{f'log p(x), {samples} samples':>26}     nats per image, mean over the test images"
    )
    for row in rows:
        say(f"{row['posterior']:<15}{row['elbo']:>12.2f}{row['log_likelihood']:>26.2f}")
    say(
        f"(standard error over images: {rows[0]['elbo_standard_error']:.2f}; grey levels binarized at random, one fixed draw)"
    )

    folder.mkdir(parents=True, exist_ok=True)
    shape = digits.image_shape
    few = digits.test[:: len(digits.test) // 12][:12]
    image = digits.test[3]
    plots.learning_curves(folder / "learning-curves.png", {n: m.history_ for n, m in fitted.items()})
    plots.reconstructions(folder / "reconstructions.png", few, {n: m.reconstruct(few) for n, m in fitted.items()}, shape)
    plots.samples(folder / "samples.png", {n: m.sample(60, seed=seed) for n, m in fitted.items()}, shape)
    posteriors = {n: m.posterior_of(image[None]).covariance()[0].astype(np.float64) for n, m in fitted.items()}
    plots.covariances(folder / "covariance.png", image, posteriors, shape)
    say(
        "\npictures:",
        *(f"  {folder / name}.png" for name in ("learning-curves", "reconstructions", "samples", "covariance")),
        sep="\n",
    )
    return rows
