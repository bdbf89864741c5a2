"""Deep Gaussian processes: a step with a gap, the diabetes data, digits by depth, and two groups of outputs.

    python examples/reproduce/deep_gp.py --runs FOLDER                   all points
    python examples/reproduce/deep_gp.py step diabetes --runs FOLDER

A line per point goes to docs/results/deep_gp.jsonl. `step`: 50 points of a step in [-1, 1], none within 0.1 of it, noise of
deviation 0.01, five seeds. `diabetes`: scikit-learn's, ten splits of 90 % and 10 %. `digits-L`: the 0, 1 and 6 of
scikit-learn's digits, 50 each, explained by L layers (they stand in for USPS, on which the paper's code found five layers
best). `groups`: upper and lower halves of the same digits as two groups of outputs or as one. Exact processes are
scikit-learn's.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tables import RESULTS, lines, run_points, section

import gvae

RESULT = RESULTS / "deep_gp.jsonl"
SEEDS, SPLITS, DEPTHS = 5, 10, (1, 2, 3, 4, 5)
WIDTH = 5  # width of each layer for digits and diabetes
LAYERS = {"sparse": (), "two": (1,), "three": (1, 1)}


def exact(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of new observations by scikit-learn's process, with its hyper-parameters from five starts."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel() * RBF(np.ones(x.shape[1]), (1e-3, 1e5)) + WhiteKernel(0.1, (1e-8, 1e2))
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=4, normalize_y=True, random_state=0).fit(x, y)
    return model.predict(new, return_std=True)


def step(run: Path) -> dict[str, Any]:
    """Mean log density of new points, all of them and outside the gap, by model and seed."""
    began, found = time.perf_counter(), {name: {"all": [], "outside": []} for name in ("exact", *LAYERS)}
    new = np.linspace(-1, 1, 401)[:, None]
    outside = np.abs(new[:, 0]) > 0.1
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        x = np.sort(rng.uniform(0.1, 1, 50) * rng.choice([-1, 1], 50))[:, None]
        y = np.sign(x[:, 0]) + 0.01 * rng.normal(size=50)
        truth = np.sign(new[:, 0] + 1e-9) + 0.01 * rng.normal(size=401)
        log_p = {"exact": stats.norm(*exact(x, y, new)).logpdf(truth)}
        for name, latent in LAYERS.items():
            model = gvae.DeepGP(latent, inducing=25, random_state=seed).fit(x, y)
            log_p[name] = model.score_samples(new, truth)
        for name, values in log_p.items():
            found[name]["all"].append(float(values.mean()))
            found[name]["outside"].append(float(values[outside].mean()))
    return {"found": found, "seconds": time.perf_counter() - began}


def diabetes(run: Path) -> dict[str, Any]:
    """RMSE and mean log density of held-out rows, by model and split."""
    from sklearn.datasets import load_diabetes

    began, (x, y) = time.perf_counter(), load_diabetes(return_X_y=True)
    found: dict[str, Any] = {name: {"rmse": [], "log_p": []} for name in ("exact", *LAYERS)}
    x = x / x.std(axis=0)
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(len(x))
        test, train = order[: len(x) // 10], order[len(x) // 10 :]
        mean, deviation = exact(x[train], y[train], x[test])
        predicted = {"exact": (mean, stats.norm(mean, deviation).logpdf(y[test]))}
        for name, latent in LAYERS.items():
            widths = (WIDTH,) * len(latent)
            model = gvae.DeepGP(widths, inducing=40, epochs=6, random_state=split).fit(x[train], y[train])
            predicted[name] = model.predict(x[test]), model.score_samples(x[test], y[test])
        for name, (mean, log_p) in predicted.items():
            found[name]["rmse"].append(float(np.sqrt(np.square(mean - y[test]).mean())))
            found[name]["log_p"].append(float(log_p.mean()))
    return {"found": found, "seconds": time.perf_counter() - began}


def some_digits() -> tuple[np.ndarray, np.ndarray]:
    """50 each of the digits 0, 1 and 6, and their classes."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(labels == c)[:50] for c in (0, 1, 6)])
    x = x[chosen]
    return x[:, x.std(axis=0) > 0], labels[chosen]


def errors(codes: np.ndarray, labels: np.ndarray) -> int:
    """Rows whose nearest other row is of another class."""
    from scipy.spatial.distance import cdist

    distance = cdist(codes, codes)
    np.fill_diagonal(distance, np.inf)
    return int((labels[distance.argmin(axis=1)] != labels).sum())


def digits(depth: int, run: Path) -> dict[str, Any]:
    """The bound of all rows, and nearest neighbours of another class by the training rows' codes in each layer."""
    x, labels = some_digits()
    settings = {"unsupervised": True, "inducing": 40, "epochs": 20, "random_state": 0}
    model = gvae.DeepGP((WIDTH,) * depth, **settings).fit(x)
    neighbours = [errors(model.state_[f"rows.z{l}"], labels) for l in range(1, depth + 1)]
    seconds = sum(row["seconds"] for row in model.history_)
    return {"bound": len(x) * model.history_[-1]["train_bound"], "errors": neighbours, "seconds": seconds}


def groups(run: Path) -> dict[str, Any]:
    """The bound with halves of images as two groups, and as one; how many inputs either half uses, alone or shared."""
    x, _ = some_digits()
    half = x.shape[1] // 2
    settings = {"unsupervised": True, "inducing": 40, "epochs": 10, "random_state": 0}
    one = gvae.DeepGP((6,), **settings).fit(x)
    columns = {"upper": list(range(half)), "lower": list(range(half, x.shape[1]))}
    two = gvae.DeepGP((6,), groups=columns, **settings).fit(x)
    spread = two.embedding_.var(axis=0)
    used = {n: np.exp(two.parameters_[f"kernel.0.{n}.log_precision"]) * spread for n in columns}
    used = {name: (values > 0.01 * values.max()).tolist() for name, values in used.items()}
    bounds = {name: len(x) * model.history_[-1]["train_bound"] for name, model in (("one", one), ("two", two))}
    return {"bounds": bounds, "used": used, "seconds": sum(r["seconds"] for m in (one, two) for r in m.history_)}


POINTS = {
    "step": step,
    "diabetes": diabetes,
    **{f"digits-{depth}": partial(digits, depth) for depth in DEPTHS},
    "groups": groups,
}
NOTES = """\
`step`: log density in nats of a new observation, over five seeds ± its standard deviation over them; exact: scikit-learn's
process. `diabetes`: ten splits, ± the standard deviation over them. Hidden layers of one variable (step) and of five
(diabetes), the collapsed bound, ten rounds of 50 iterations of L-BFGS (diabetes: six), 25 and 40 inducing points. `digits`:
bound of all 150 images in nats, and how many of them have a nearest neighbour of another class by the codes of each layer,
of five variables, from the data upwards; one seed."""


def page() -> str:
    """The part of docs/results.md."""
    found, rows = lines(RESULT, "point"), []
    for name in POINTS:
        if name not in found:
            rows.append([name, "pending", "", ""])
            continue
        r = found[name]
        minutes = f"{r['seconds'] / 60:.1f}"
        if "found" in r:
            for model, measures in r["found"].items():
                said = [f"{kind} {np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}" for kind, v in measures.items()]
                rows.append([f"{name}, {model}", "; ".join(said).replace("_", " "), minutes if model == "exact" else "", ""])
        elif "errors" in r:
            rows.append([name, f"bound {r['bound']:.0f}", minutes, f"errors by layer {', '.join(map(str, r['errors']))}"])
        else:
            said = "; ".join(f"{n} group{'s' * (n != 'one')}: bound {b:.0f}" for n, b in r["bounds"].items())
            both = np.array(list(r["used"].values()))
            shared = f"of 6 variables {both.all(axis=0).sum()} serve both halves, {(both.sum(axis=0) == 1).sum()} one"
            rows.append([name, said, minutes, shared])
    return section("Deep Gaussian processes", "deep_gp.py", ("point", "figures", "minutes", ""), rows, NOTES, found.values())


if __name__ == "__main__":
    run_points(POINTS, RESULT, __doc__)
