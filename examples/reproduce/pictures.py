"""The pictures of docs/models.md that no other script draws, and the numbers that accompany them.

    python examples/reproduce/pictures.py --out FOLDER [--data-dir FOLDER] [PICTURE ..]

    ar1           covariance of q(z|x) of one MNIST image under a diagonal, an AR(1) and a chain posterior
    priors        MNIST digits decoded from draws of N(0, I), a learned mixture and a learned random walk
    manifold      MNIST digits decoded from a grid of two codes
    autoencoder   held-out digits, what VAE and plain autoencoder make of them, and what both make of draws from N(0, I)
    denoising     held-out digits with half of the pixels masked, and what VAE and denoising VAE make of them
    layers        MNIST digits of two stochastic layers: a row per draw of z_2, a column per draw of z_1 given it
    imputation    MNIST digits whose lower half is hidden, filled in by a deep latent Gaussian model: Gibbs steps
    factors       Frey faces: factor analysis (EM), NLFA and its amortized twin; loadings, draws, reconstructions

MNIST: 20,000 images, 10 epochs; faces: 1,765 and 200 held out; seed 1 throughout. All of it takes about ten minutes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import gvae
from gvae import data, evaluation, plots, random
from gvae.data import Table

ROWS, EPOCHS, SEED = 20_000, 10, 1
Images = dict[str, np.ndarray]


def fitted(x: np.ndarray, test: np.ndarray, samples: int = 100, model: str = "vae", **settings: Any) -> Any:
    """A trained estimator of a model, by name; its settings and held-out bounds are printed."""
    started = time.perf_counter()
    common = {"observation": "bernoulli", "epochs": EPOCHS, "random_state": SEED}
    made = gvae.estimators()[model](**common | settings).fit(x)
    seconds = time.perf_counter() - started
    summary = made.evaluate(test, samples=samples).summary()
    named = " ".join([model, *(f"{name}={value}" for name, value in settings.items())])
    print(f"{named}\n    ELBO {summary['elbo']:.2f}, log p(x) {summary['log_likelihood']:.2f}; {seconds:.0f} s", flush=True)
    return made


def mnist(data_dir: str | None) -> tuple[data.Dataset, np.ndarray, np.ndarray]:
    dataset = data.load("mnist", data_dir=data_dir)
    return dataset, dataset.train[:ROWS], dataset.test[:500]


def ar1(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    matrices: Images = {}
    for posterior in ("diagonal", "ar1", "chain"):
        model = fitted(train, test, posterior=posterior, latent=10)
        matrices[posterior] = model.posterior_of(test[:1]).covariance()[0]
    plots.covariances(out / "models-ar1.png", test[0], matrices, dataset.image_shape)


def priors(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    drawn: Images = {}
    for prior, name in ((None, "N(0, I)"), ("mixture:10", "mixture of 10"), ("random_walk", "random walk")):
        drawn[name] = fitted(train, test, prior=prior, latent=10, posterior="chain").sample(14, seed=3)
    plots.rows(out / "models-priors.png", drawn, dataset.image_shape)


def manifold(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    model = fitted(train, test, latent=2, posterior="diagonal", epochs=2 * EPOCHS)
    plots.manifold(out / "models-manifold.png", model.inverse_transform(plots.manifold_codes(11)), dataset.image_shape)


def autoencoder(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    rows: Images = {}
    for name in ("vae", "autoencoder"):
        model = fitted(train, test, model=name, latent=10, posterior="diagonal")
        rows[f"{name}, its mean code"] = model.reconstruct(test[:12])
        rows[f"{name}, codes from N(0, I)"] = model.inverse_transform(random.normal(random.key(2), (12, 10), np.float64))
    order = sorted(rows, key=lambda name: "N(0" in name)
    plots.reconstructions(
        out / "models-autoencoder.png", test[:12], {name: rows[name] for name in order}, dataset.image_shape
    )


def denoising(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    masked = np.where(random.uniform(random.key(4), test.shape, test.dtype) < 0.5, 0, test)
    rows: Images = {"half masked": masked[:12]}
    for name in ("vae", "denoising"):
        model = fitted(train, test, model=name, latent=16, posterior="diagonal")
        restored = model.reconstruct(masked)
        error = -(test * np.log(restored) + (1 - test) * np.log1p(-restored)).sum(axis=1).mean()
        print(f"    cross-entropy of the clean image from the masked one: {error:.1f} nats")
        rows[f"restored, {name}"] = restored[:12]
    plots.reconstructions(out / "models-denoising.png", test[:12], rows, dataset.image_shape)


def layers(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    settings = {"model": "hierarchical", "latent": (50, 10), "learning_rate": 3e-3}
    fitted(train, test, **settings)
    model = fitted(train, test, **settings, warmup=5)
    top, params = model.model_.prior_of(model.parameters_), model.parameters_
    p = model.model_.decoders[1](params, top.sample(top.noise(random.key(1), (5,))))  # p(z_1 | z_2)
    z = p.sample(p.noise(random.key(2), (14,)))
    rows = {f"z_2, draw {i + 1}": model.inverse_transform(z[:, i]) for i in range(5)}
    plots.rows(out / "models-layers.png", rows, dataset.image_shape)


def imputation(out: Path, data_dir: str | None) -> None:
    dataset, train, test = mnist(data_dir)
    settings = {"latent": (50, 20), "posterior": "lowrank:1", "hidden": (200, 200), "output_bias": "data"}
    model = fitted(train, test, model="dlgm", **settings)
    shown = (test[:12] > 0.5).astype(np.float32)
    keep = np.arange(shown.shape[1]) < shown.shape[1] // 2
    rows: Images = {"lower half hidden": np.where(keep, shown, 0.5)}
    for steps in (1, 10, 100):
        subject = evaluation.Subject(model.model_, model.parameters_, Table(shown), key=random.key(1))
        found = evaluation.gibbs(subject, steps=steps, keep=keep)
        rows[f"{steps} step{'s' if steps > 1 else ''}"] = np.where(keep, shown, found.mean)
        print(f"    {steps} steps: squared error per hidden pixel {found.squared_error.mean():.4f}, of 12 images")
    plots.reconstructions(out / "models-imputation.png", shown, rows, dataset.image_shape)


def factors(out: Path, data_dir: str | None) -> None:
    faces = data.load("frey_faces", data_dir=data_dir)
    shown, drawn, rows = faces.test[::20], {}, {}
    common = {"latent": 10, "observation": "gaussian", "dtype": "float64"}
    em = fitted(faces.train, faces.test, model="factor_analysis", **common, epochs=200)
    networks = common | {"posterior": "diagonal", "hidden": (100,), "epochs": 300}
    models = {"factor analysis": em}
    models["NLFA"] = fitted(faces.train, faces.test, model="nlfa", **networks)
    models["amortized"] = fitted(faces.train, faces.test, model="vae", **networks)
    loadings = em.parameters_["decoder.0.weight"]
    drawn["loadings"] = 0.5 + 0.5 * loadings / np.abs(loadings).max(axis=1, keepdims=True)
    for name, model in models.items():
        rows[name] = model.reconstruct(shown).clip(0, 1)
        drawn[f"draws, {name}"] = model.sample(10, seed=2).clip(0, 1)
    plots.reconstructions(out / "models-factors.png", shown, rows, faces.image_shape)
    plots.rows(out / "models-loadings.png", drawn, faces.image_shape)


DRAWN = (ar1, priors, manifold, autoencoder, denoising, layers, imputation, factors)
PICTURES = {function.__name__: function for function in DRAWN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"{', '.join(PICTURES)} (default: all)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    if unknown := set(options.pictures) - PICTURES.keys():
        parser.error(f"unknown picture {sorted(unknown)[0]!r}; known are {', '.join(PICTURES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.pictures or PICTURES:
        PICTURES[name](options.out, options.data_dir)


if __name__ == "__main__":
    main()
