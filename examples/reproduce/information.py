"""InfoVAE and the ELBO: a price on I(x; z) and one on the mismatch of q(z) and p(z), after Zhao, Song and Ermon (2017).

    python examples/reproduce/information.py --runs FOLDER                     all points, trained or continued
    python examples/reproduce/information.py mmd-1-1000 --runs FOLDER

    elbo, mmd-.., js-..        objectives alike in all else: `mmd-0-10` has alpha = 0 and lambda = 10
    nade-..                    the same with a decoder that needs no code, `nade:200`
    overfit-..                 500 images only: training and test rows after 100, 400 and 1600 epochs
    diagonal-beta.0, ..        posteriors under `elbo:beta=2` and `info:alpha=1,lambda=1000`; three seeds

The fixed binarization of MNIST, whose test rows are sorted by digit: parts of them are taken at a stride. log p(x) is by
importance sampling from q(z|x), and on few rows by annealing from the prior, too: where q is not a posterior, as nothing
requires under alpha = 1, what starts from q is too low. A line per point goes to docs/results/information.jsonl.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, lines, run_points, section

import gvae
from gvae import data, evaluation

RESULT = RESULTS / "information.jsonl"
DATA = "binarized_mnist"
SETTINGS: dict[str, Any] = {
    "latent": 10,
    "posterior": "diagonal",
    "observation": "bernoulli",
    "hidden": (200, 200),
    "output_bias": "data",
    "batch_size": 200,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "epochs": 30,
    "random_state": 0,
}
CRITIC = {"critic": (100, 100), "rates": "critic=2"}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {"objective": "elbo"},
    "mmd-0-10": {"objective": "info:alpha=0,lambda=10"},
    "mmd-0-1000": {"objective": "info:alpha=0,lambda=1000"},
    "mmd-1-1000": {"objective": "info:alpha=1,lambda=1000"},
    "mmd-0-balance": {"objective": "info:alpha=0,lambda=balance"},
    "mmd-1-balance": {"objective": "info:alpha=1,lambda=balance"},
    "js-0-100": {"objective": "info:alpha=0,lambda=100,divergence=js"} | CRITIC,
    "js-1-100": {"objective": "info:alpha=1,lambda=100,divergence=js"} | CRITIC,
}
NADE = {"observation": "nade:200", "output_bias": "zero", "epochs": 15}
FEW, MARKS = 500, (100, 400, 1600)  # images of the overfitting points, and the epochs after which they are measured
FIT = {"schedule": "constant", "learning_rate": 1e-3, "batch_size": 100}
OVERFIT = {  # with alpha = 0 and lambda = 1 it is the ELBO, bit for bit, and D is in the log
    "overfit-elbo": "info:alpha=0,lambda=1",
    "overfit-mmd": "info:alpha=1,lambda=1000",
    "overfit-balance": "info:alpha=1,lambda=balance",
}
SEEDS = (0, 1, 2)
CELLS = {"beta": "elbo:beta=2", "info": "info:alpha=1,lambda=1000"}
SAMPLES = 5000


def fitted(settings: dict[str, Any], x: np.ndarray, run: Path) -> Any:
    return gvae.VAE(**settings).fit(x, run=run, resume=(run / "config.json").exists())


def of_codes(model: Any, x: np.ndarray) -> dict[str, Any]:
    """Rate, distortion, MMD² and the information of the code, of some rows."""
    found = model.evaluate(x, samples=10, measures=["mmd", "surgery"]).summary()
    row = {"elbo": found["elbo"], "elbo_standard_error": found["elbo_standard_error"]}
    row |= {"rate": found["kl"], "distortion": found["distortion"]}
    row |= {name: found["mmd"][name] for name in ("kernel", "bandwidth", "mmd_squared", "mmd_squared_standard_error")}
    parts = ("marginal_kl", "mutual_information", "mutual_information_by_entropy", "log_rows")
    return row | {name: found["surgery"][name] for name in parts}


def log_p(model: Any, x: np.ndarray, samples: int = SAMPLES) -> dict[str, Any]:
    found = model.evaluate(x, samples=samples).summary()
    names = ("log_likelihood", "log_likelihood_standard_error", "pareto_k_unreliable")
    return {"samples": samples} | {name: found[name] for name in names}


def objective(settings: dict[str, Any], run: Path, bounded: bool = False, samples: int = SAMPLES) -> dict[str, Any]:
    """A point of all training images."""
    images = data.load(DATA)
    model = fitted(SETTINGS | settings, images.train, run)
    row = {"objective": settings["objective"], "epochs": model.epochs, "seed": model.random_state}
    row |= of_codes(model, images.test[::2]) | log_p(model, images.test[::10], samples)
    return row | (from_prior(model, images.test[::100]) if bounded else {})


def from_prior(model: Any, x: np.ndarray) -> dict[str, Any]:
    """log p(x) of few rows by annealing from the prior, which does not depend on q, and by 1,000 importance samples."""
    subject = evaluation.Subject(model.model_, model.parameters_, data.Table(x))
    found = evaluation.annealed_importance_sampling(subject, rows=None, chains=4, temperatures=2000, start="prior")
    sampled = model.evaluate(x, samples=1000).summary()["log_likelihood"]
    each = [round(float(value), 3) for value in found.log_likelihood]
    return {"ais": found.summary()["log_likelihood"], "ais_each": each, "importance_sampled": sampled}


def overfitted(text: str, run: Path) -> dict[str, Any]:
    """A point of few images, after each of several numbers of epochs; a longer run begins with the steps of a shorter."""
    images, along = data.load(DATA), []
    few, test = images.train[:FEW], images.test[::10]
    for epochs in MARKS:
        model = fitted(SETTINGS | FIT | {"objective": text, "epochs": epochs}, few, run.with_name(f"{run.name}-{epochs}"))
        along.append({"epochs": epochs} | {name: of_codes(model, x) | log_p(model, x, 1000)
                                           for name, x in (("train", few), ("test", test))})  # fmt: skip
    return {"objective": text, "seed": 0, "along": along}


POINTS = {
    **{name: partial(objective, settings, bounded=True) for name, settings in OBJECTIVES.items()},
    **{f"nade-{name}": partial(objective, OBJECTIVES[name] | NADE, samples=100) for name in ("elbo", "mmd-1-1000")},
    **{name: partial(overfitted, text) for name, text in OVERFIT.items()},
    **{
        f"{posterior}-{name}.{seed}": partial(
            objective, {"objective": text, "posterior": posterior, "random_state": seed}, samples=1000
        )
        for posterior in ("diagonal", "ar1")
        for name, text in CELLS.items()
        for seed in SEEDS
    },
}
PLAIN = (*OBJECTIVES, "nade-elbo", "nade-mmd-1-1000")
NOTES = """\
Ten latents, diagonal posteriors, two layers of 200 ELU units each way, Adam at 2e-3 down to 0 along half a cosine, batches
of 200, 30 epochs of 50,000 images (`nade`: 15), seed 0. `mmd-0-10` is `info:alpha=0,lambda=10`, `js` has a critic of
100-100 units at twice the learning rate. MMD² is a U-statistic with the kernel exp(-r / 10), the terms with p in closed
form. Rate, distortion, MMD², KL(q(z) ‖ p) and I(n; z), which is at most log 5,000 = 8.5, are of 5,000 test images; log p(x)
of 1,000 by 5,000 importance samples (`nade`: 100), beside it the share of Pareto k above 0.7; both last columns of 100
images, by importance samples and by annealing from the prior (2,000 temperatures), which does not depend on q. Holding q(z)
near p with lambda = 1000 takes MMD² from 0.0053 to 0.0008 and costs 4.3 ± 0.9 nats of log p(x) by annealing, ± over images.
Free information (alpha = 1) triples the rate; the decoder then costs 2.9 ± 0.8, but q is so far from its posterior that
importance samples lose 32. An MMD² of 0.186 = 1.4^-5 is the term of p alone: all codes are so far from p that the kernel
has no slope there, and a `balance` that waits for D to fall does not bring them back; with alpha = 0, where information
costs, it keeps 5 nats of 19. A NADE uses its codes under the ELBO, too."""
NOTES_OVERFIT = """\
500 training images, Adam at 1e-3, batches of 100; in all else as above. log p(x) by 1,000 importance samples, of the 500
images and of 1,000 test images; MMD² and rate of the same rows. Under the ELBO the codes move away from the prior, with
MMD they stay. Test images lose from the first mark onwards either way, and more with MMD; how much of that is due to
importance samples from a q that is no posterior is not known. `balance` is away from the prior by the first mark."""
NOTES_CELLS = """\
As above: `beta` is `elbo:beta=2`, `info` is `info:alpha=1,lambda=1000`; mean and standard deviation over three seeds. With
`elbo:beta=2` AR(1) is 0.5 nats of ELBO behind the diagonal; where information is free it has 22 nats more of it in its rate,
and importance samples from it give a log p(x) that is lower by as much."""


def number(value: float, error: float | None = None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def page() -> str:
    """The part of docs/results.md."""
    found = lines(RESULT, "point")
    return "\n\n".join((_plain(found), _overfit(found), _cells(found)))


def _plain(found: dict[str, Any]) -> str:
    rows = []
    for name in PLAIN:
        if name not in found:
            rows.append([name, "pending", *[""] * 9])
            continue
        r = found[name]
        cells = [number(r["log_likelihood"], r["log_likelihood_standard_error"]), f"{r['pareto_k_unreliable']:.0%}"]
        cells += [number(r[key]) for key in ("elbo", "rate", "distortion")]
        cells += [number(r["mmd_squared"], r["mmd_squared_standard_error"], 4)]
        cells += [number(r[key]) for key in ("marginal_kl", "mutual_information")]
        cells += [number(r[key]) if key in r else "" for key in ("importance_sampled", "ais")]
        rows.append([name, *cells])
    columns: tuple[str, ...] = (
        "objective",
        f"log p(x), {SAMPLES} samples",
        "k > 0.7",
        "ELBO",
        "R",
        "D",
        "MMD²",
        "KL(q(z) ‖ p)",
        "I(n; z)",
    )
    columns += ("100 images, 1000 samples", "by annealing from p")
    told = [found[name] for name in PLAIN if name in found]
    title = "InfoVAE: objectives on the fixed binarization of MNIST"
    return section(title, "information.py", columns, rows, NOTES, told)


def _overfit(found: dict[str, Any]) -> str:
    rows = []
    for name in OVERFIT:
        if name not in found:
            rows.append([name, "pending", *[""] * 8])
            continue
        for r in found[name]["along"]:
            pairs = [[number(r[part][key]) for part in ("train", "test")] for key in ("log_likelihood", "elbo", "rate")]
            pairs.append([number(r[part]["mmd_squared"], digits=4) for part in ("train", "test")])
            rows.append([name, str(r["epochs"]), *(cell for pair in pairs for cell in pair)])
    columns = ["objective", "epochs"]
    columns += [f"{what}, {part}" for what in ("log p(x)", "ELBO", "R", "MMD²") for part in ("train", "test")]
    told = [found[name] for name in OVERFIT if name in found]
    title = "InfoVAE: overfitting 500 images"
    return section(title, "information.py overfit-elbo ..", tuple(columns), rows, NOTES_OVERFIT, told)


def _cells(found: dict[str, Any]) -> str:
    rows, told = [], []
    for posterior in ("diagonal", "ar1"):
        for name in CELLS:
            done = [found[key] for seed in SEEDS if (key := f"{posterior}-{name}.{seed}") in found]
            told += done
            if len(done) < len(SEEDS):
                rows.append([posterior, name, "pending", *[""] * 5])
                continue
            spread = [(np.mean(v), np.std(v, ddof=1)) for v in zip(*([r[key] for key in KEYS] for r in done), strict=True)]
            rows.append([posterior, name, *(number(m, s, 4 if key == "mmd_squared" else 2)
                                            for (m, s), key in zip(spread, KEYS, strict=True))])  # fmt: skip
    columns = ("posterior", "objective", "log p(x), 1000 samples", "ELBO", "R", "D", "MMD²", "I(n; z)")
    title = "InfoVAE: posteriors and objectives"
    return section(title, "information.py diagonal-beta.0 ..", columns, rows, NOTES_CELLS, told)


KEYS = ("log_likelihood", "elbo", "rate", "distortion", "mmd_squared", "mutual_information")


if __name__ == "__main__":
    run_points(POINTS, RESULT, __doc__)
