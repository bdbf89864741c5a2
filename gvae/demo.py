"""`gvae demo`: three posteriors on scikit-learn's digits, a table and four figures."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from gvae import data, estimator, plots, training
from gvae.errors import RunError

__all__ = ["run"]

POSTERIORS = {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}


def run(out: str | os.PathLike, *, epochs: int, seed: int = 1, samples: int = 500, quiet: bool = False) -> list[dict]:
    """Train, print the table, write the figures into the folder `out`. Returns the table's rows."""
    folder = Path(out)
    training.check_free(folder)
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {folder}: {error.strerror or error}") from None
    try:
        return _run(folder, epochs, seed, samples, quiet)
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing is in it


def _run(folder: Path, epochs: int, seed: int, samples: int, quiet: bool) -> list[dict]:
    plots.require()  # now, not after a minute of training
    digits = data.load("digits")
    assert digits.image_shape is not None
    shape = digits.image_shape

    def say(*lines: str) -> None:
        if not quiet:
            print(*lines, sep="\n", flush=True)

    say(
        f"{len(digits.train)} training and {len(digits.test)} test images of 8 x 8, 16 latent variables, {epochs} epochs",
        "(the first run also compiles the kernels, which takes some seconds)",
    )
    fitted: dict[str, estimator.VAE] = {}
    rows: list[dict[str, Any]] = []
    for name, posterior in POSTERIORS.items():
        model = estimator.VAE(
            latent=16, posterior=posterior, observation="bernoulli", epochs=epochs, random_state=seed, verbose=not quiet
        )
        fitted[name] = model.fit(digits.train, validation=digits.test)
        summary = model.evaluate(digits.test, samples=samples, seed=seed).summary()
        rows.append({"posterior": name, **summary, "seconds": sum(row["seconds"] for row in model.history_)})

    log_p = f"log p(x), {samples} samples"
    say("", f"{'posterior':<15}{'test ELBO':>12}{log_p:>25}{'training':>15}")
    for row in rows:
        say(f"{row['posterior']:<15}{row['elbo']:>12.2f}{row['log_likelihood']:>25.2f}{row['seconds']:>13.1f} s")
    say(
        "",
        f"nats per image, mean over the {len(digits.test)} test images, grey levels binarized by one fixed random draw;",
        f"the choice of images causes a standard error of {rows[0]['elbo_standard_error']:.2f}, in all three rows alike",
    )

    few = digits.test[:: len(digits.test) // 12][:12]
    image = digits.test[3]
    posteriors = {n: m.posterior_of(image[None]).covariance()[0].astype(np.float64) for n, m in fitted.items()}
    pictures = [folder / f"{name}.png" for name in ("learning-curves", "reconstructions", "samples", "covariance")]
    plots.learning_curves(pictures[0], {n: m.history_ for n, m in fitted.items()})
    plots.reconstructions(pictures[1], few, {n: m.reconstruct(few) for n, m in fitted.items()}, shape)
    plots.samples(pictures[2], {n: m.sample(60, seed=seed) for n, m in fitted.items()}, shape)
    plots.covariances(pictures[3], image, posteriors, shape)
    say("", "figures:", *(f"  {picture}" for picture in pictures))
    return rows
