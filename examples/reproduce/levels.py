"""What each code holds of MNIST: ladders of flat codes, hierarchies, anchored codes, and priors of the aggregated posterior.

    python examples/reproduce/levels.py --runs FOLDER                      all models, trained or continued, and measured
    python examples/reproduce/levels.py vlae hierarchical --runs FOLDER
    python examples/reproduce/levels.py --draw FOLDER --runs FOLDER        pictures of runs that are there

    vlae, hierarchical     three levels, or layers, of two variables each (Zhao, Song and Ermon 2017)
    anchor-0.5, -0.9       ten codes, of which 0 and 1 are charged half, or a tenth, of their KL (Gao et al. 2019)
    standard, mixture      ten codes under N(0, I) and under a mixture of 50 Gaussians (Hoffman and Johnson 2016)

20 epochs of 60,000 images, binarized anew at each visit; measured on 5,000 test images: active units, information, surgery;
the accuracy of logistic regression on each level's means, fitted to 5,000 training images (which needs scikit-learn). A line
per model goes to docs/results/levels.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, append, check_names, lines, section

import gvae
from gvae import data, evaluation, plots, random
from gvae.data import Table

COMMON = {"observation": "bernoulli", "learning_rate": 2e-3, "schedule": "cosine", "random_state": 0}
TEN = {"latent": 10, "posterior": "diagonal", "hidden": (200, 200)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vlae": ("vlae", {"latent": (2, 2, 2), "hidden": ((400,), (200,), (100,))}),
    "hierarchical": ("hierarchical", {"latent": (2, 2, 2), "hidden": ((400, 200), (100,), (100,))}),
    "anchor-0.5": ("vae", TEN | {"objective": "elbo:anchor=0+1,weight=0.5"}),
    "anchor-0.9": ("vae", TEN | {"objective": "elbo:anchor=0+1,weight=0.9"}),
    "standard": ("vae", TEN),
    "mixture": ("vae", TEN | {"prior": "mixture:50"}),
}
ROWS = 5_000
RESULT = RESULTS / "levels.jsonl"
NOTES = """\
20 epochs of 60,000 images binarized anew at each visit, Adam at 2e-3 down to 0 along half a cosine, seed 0; on 5,000 test
images. I(z_j; x) is of each variable, by code; probes are logistic regressions on a code's means, fitted to 5,000 training
images. What the figures say is in docs/models.md.
KLs of `hierarchical` are KL(q(z_l) || p(z_l | z_(l+1))) on average over draws of z_(l+1), which depend on z_l: they add up
to 6.5, where the KL in the bound is 6.2."""


def page() -> str:
    """The part of docs/results.md."""
    found, rows = lines(RESULT, "model"), []
    for name in MODELS:
        if name not in found:
            rows.append([name, *["pending"] * 7])
            continue
        r = found[name]
        told, parts = r["information"], r.get("surgery")
        each = "; ".join(" ".join(f"{x:.1f}" for x in code["mutual_information"]) for code in told["codes"].values())
        probed = ", ".join(f"{code} {100 * share:.0f} %" for code, share in r["probes"].items())
        kl = "; ".join(f"{sum(layer['kl']):.1f}" for layer in r["units"]["layers"])
        surgery = ["-", "-"] if parts is None else [f"{parts['marginal_kl']:.2f}", f"{parts['mutual_information']:.2f}"]
        rows.append([name, f"{r['elbo']:.2f}", f"{r['log_likelihood']:.2f}", kl, *surgery, each, probed])
    columns = ("model", "ELBO", "log p(x), 100 samples", "KL by code", "marginal KL", "I(n; z)", "I(z_j; x)", "probes")
    return section("Information in codes of MNIST", "levels.py", columns, rows, NOTES, found.values())


def measured(model: Any, images: data.Dataset) -> dict[str, Any]:
    """The figures of a trained model."""
    found = model.evaluate(
        images.test[:ROWS], samples=100, measures=["units", "information", "surgery"][: 2 + (_flat(model))]
    )
    summary = found.summary()
    kept = ("elbo", "elbo_standard_error", "log_likelihood", "kl", "distortion", "units", "information", "surgery")
    row = {name: summary[name] for name in kept if name in summary}
    for name in ("entropy", "view_information"):  # a number for each pixel
        row["information"].pop(name)
    return row | {"probes": probes(model, images)}


def _flat(model: Any) -> bool:
    """Whether each code is inferred from x only, as `surgery` needs it."""
    return hasattr(model.model_, "coded")


def probes(model: Any, images: data.Dataset) -> dict[str, float]:
    """The accuracy of logistic regression on the means of each code."""
    from sklearn.linear_model import LogisticRegression

    labels, test_labels = images.columns["y"]
    codes, test_codes = model.codes(images.train[:ROWS]), model.codes(images.test[:ROWS])
    return {
        name: float(LogisticRegression(max_iter=1000).fit(z, labels[:ROWS]).score(test_codes[name], test_labels[:ROWS]))
        for name, z in codes.items()
    }


def traversals(model: Any, order: list[int] | None = None) -> dict[str, np.ndarray]:
    """A row for each variable: it goes from -2 to 2, all others are 0."""
    sizes = model.model_.codes
    n = sum(sizes.values())
    names = [f"{code}, {i}" for code, size in sizes.items() for i in range(size)]
    rows = {}
    for j in order if order is not None else range(n):
        z = np.zeros((11, n))
        z[:, j] = np.linspace(-2, 2, 11)
        rows[names[j]] = model.inverse_transform(z)
    return rows


def draw(models: dict[str, Any], images: data.Dataset, out: Path) -> None:
    shape = images.image_shape
    if "vlae" in models:
        plots.rows(out / "models-vlae.png", traversals(models["vlae"]), shape)
    if "anchor-0.9" in models:
        plots.rows(out / "models-anchor.png", traversals(models["anchor-0.9"]), shape)
    if "hierarchical" in models:
        model = models["hierarchical"]
        table = Table(images.test[:12].astype(np.float32), binarize="dynamic")
        subject = evaluation.Subject(model.model_, model.parameters_, table, key=random.key(1))
        rows = {"drawn from the top": model.sample(12, seed=1)}
        for steps in (1, 10, 100):
            chain = evaluation.gibbs(subject, steps=steps, keep=np.zeros(images.test.shape[1], bool))
            rows[f"x, z1, x: {steps} step{'s' if steps > 1 else ''}"] = chain.mean
        plots.rows(out / "models-chain.png", rows, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--runs", type=Path, required=True, help="where run folders lie, or are made")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULT)
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw what runs hold, and train nothing")
    options = parser.parse_args()
    check_names(parser, options.models, MODELS)
    images, chosen = data.load("mnist"), options.models or MODELS
    if options.draw is not None:
        draw({n: gvae.load(options.runs / n) for n in chosen if (options.runs / n).exists()}, images, options.draw)
        return
    for name in chosen:
        which, settings = MODELS[name]
        run = options.runs / name
        model = gvae.estimators()[which](**COMMON | settings, epochs=options.epochs)
        model.fit(images.train, run=run, resume=(run / "config.json").exists(), notes={"image_shape": images.image_shape})
        row = {"model": name, "settings": COMMON | settings, "epochs": options.epochs} | measured(model, images)
        append(options.results, row, f"python examples/reproduce/levels.py {name} --epochs {options.epochs}")
        told = ", ".join(f"{code} {share:.1%}" for code, share in row["probes"].items())
        print(f"{name}: ELBO {row['elbo']:.2f}, KL {row['kl']:.2f}; linear probes {told}", flush=True)


if __name__ == "__main__":
    main()
