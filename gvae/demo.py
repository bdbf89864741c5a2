"""`gvae demo`: three posteriors on scikit-learn's digits, a table and four pictures."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from gvae import data, estimator, plots, training
from gvae.errors import RunError

__all__ = ["run"]

POSTERIORS = {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}


def run(out: str | os.PathLike, *, epochs: int, seed: int = 1, samples: int = 500, quiet: bool = False) -> list[dict]:
    """Train, print the table, write the pictures into the folder `out`. Returns the table's rows."""
    folder = Path(out)
    training.check_free(folder)
    plots.require()  # now, not after a minute of training
    digits = data.load("digits")
    assert digits.image_shape is not None
    shape = digits.image_shape

    def say(*lines: str) -> None:
        if not quiet:
            print(*lines, sep="\n", flush=True)

    say(
        f"{len(digits.train)} training and {len(digits.test)} test images of 8 x 8, 16 latent variables, {epochs} epochs",
        "(the very first run compiles the kernels first, some seconds)",
    )
    fitted: dict[str, estimator.VAE] = {}
    rows: list[dict[str, Any]] = []
    baseline = None
    for name, posterior in POSTERIORS.items():
        model = estimator.VAE(
            latent=16, posterior=posterior, observation="bernoulli", epochs=epochs, random_state=seed, verbose=not quiet
        )
        fitted[name] = model.fit(digits.train, validation=digits.test)
        result = model.evaluate(digits.test, samples=samples, seed=seed)
        baseline = result.elbo if baseline is None else baseline
        gain = result.elbo - baseline
        rows.append(
            {
                "posterior": name,
                **result.summary(),
                "gain": float(gain.mean()),
                "gain_standard_error": float(gain.std(ddof=1) / math.sqrt(len(gain))),
                "seconds": sum(row["seconds"] for row in model.history_),
            }
        )

    say(
        "",
        f"nats per image, mean over the {len(digits.test)} test images; grey levels binarized by one fixed random draw",
        "",
        f"{'posterior':<15}{'test ELBO':>11}{'log p(x)':>11}{'ELBO - diagonal':>22}{'training':>12}",
    )
    for i, row in enumerate(rows):
        gained = f"{row['gain']:+.2f} +- {row['gain_standard_error']:.2f}" if i else ""
        say(f"{row['posterior']:<15}{row['elbo']:>11.2f}{row['log_likelihood']:>11.2f}{gained:>22}{row['seconds']:>10.1f} s")
    say("", f"log p(x) by {samples} importance samples; +- is the standard error over images, image by image")

    few = digits.test[:: len(digits.test) // 12][:12]
    image = digits.test[3]
    posteriors = {n: m.posterior_of(image[None]).covariance()[0].astype(np.float64) for n, m in fitted.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    pictures = [folder / f"{name}.png" for name in ("learning-curves", "reconstructions", "samples", "covariance")]
    plots.learning_curves(pictures[0], {n: m.history_ for n, m in fitted.items()})
    plots.reconstructions(pictures[1], few, {n: m.reconstruct(few) for n, m in fitted.items()}, shape)
    plots.samples(pictures[2], {n: m.sample(60, seed=seed) for n, m in fitted.items()}, shape)
    plots.covariances(pictures[3], image, posteriors, shape)
    say("", "pictures:", *(f"  {picture}" for picture in pictures))
    return rows
