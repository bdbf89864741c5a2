"""Counts: deep exponential families on faces, NIPS papers and 20 newsgroups, compared with LDA, and HVM with the mean field.

    python examples/reproduce/counts.py --runs FOLDER                   all points, trained or continued
    python examples/reproduce/counts.py olivetti nips --runs FOLDER

A line per point goes to docs/results/counts.jsonl. Olivetti and NIPS follow the experiments of Naesseth, Ruiz, Linderman and
Blei (2017): sparse gamma units of 100-40-15, all rows in each step, the bound of all rows with that of the weights. On 20
newsgroups, models see a tenth of the words of 1,000 test documents, and the perplexity is of the others; three seeds each
(`gamma-2.0`, `gamma-2.1`, ..). Settings were chosen by the first 1,000 test documents; results are for the next 1,000.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from tables import RESULTS, lines, run_points, section

import gvae
from gvae import data, evaluation, random
from gvae.ops import sparse as kinds

RESULT = RESULTS / "counts.jsonl"
MARKS = (100, 500, 1000, 1500)  # iterations whose bound is kept
FULL = {"latent": (100, 40, 15), "batch_size": None, "learning_rate": 0.1, "row_rate": 1.0, "row_steps": 0}
FULL |= {"schedule": "cosine", "epochs": 1500, "random_state": 0}
DRAWS = {"gamma": 1, "sigmoid": 10, "poisson": 10}  # draws of the units in a step
TOPICS = {"batch_size": 500, "learning_rate": 0.1, "schedule": "cosine", "epochs": 40, "row_steps": 3}
LAYERS = {1: (100,), 2: (100, 30), 3: (100, 30, 15)}
BEYOND = {"latent": 50, "observation": "poisson", "hidden": (200,), "samples": 5, "gradient": "local", "random_state": 0}
BEYOND |= {"posterior": "bernoulli", "batch_size": 100, "epochs": 100, "learning_rate": 1e-3, "schedule": "cosine"}
BEYOND |= {"clip": 100.0}
SEEDS = (0, 1, 2)
SEEN, CHOOSE, REPORT, DOCUMENTS = 0.1, slice(0, 1000), slice(1000, 2000), 1000
PRIORS = (0.02, 0.1, 0.5)  # of LDA's documents and topics
EDGE = ((20, 0.1, 1.0), (50, 0.1, 1.0), (50, 0.5, 1.0), (100, 0.1, 1.0))  # as far as scikit-learn's goes
LDA = {"n_components": 50, "doc_topic_prior": 0.1, "topic_word_prior": 1.0}  # the best of lda-search


def counts(name: str) -> tuple[Any, Any]:
    """Training and test rows in CSR, float64."""
    loaded = data.load(name)
    parts = (loaded.train, loaded.test)
    return tuple(sparse.csr_array(x if kinds.is_csr(x) else np.reshape(x, (len(x), -1)), dtype=np.float64) for x in parts)


def perplexity(z: np.ndarray, w: np.ndarray, held: Any) -> float:
    return float(np.exp(-evaluation.log_shares(held, z, w).sum() / held.sum()))


def split(part: slice) -> tuple[Any, Any]:
    """(seen, held-out) words of some test documents."""
    return data.split_counts(counts("20news")[1][part], SEEN, key=random.key(0))


def full_batch(name: str, estimator: type, run: Path) -> dict[str, Any]:
    """For Olivetti and NIPS, the bound along the iterations; for NIPS also the perplexity of the held-out words."""
    x, other = counts(name)
    model = estimator(**FULL).fit(x, run=run, resume=(run / "config.json").exists())
    bounds = x.shape[0] * np.array([row["train_bound"] for row in model.history_])
    seconds = np.cumsum([row["seconds"] for row in model.history_])
    row = {"bound": float(bounds[-20:].mean()), "seconds": float(seconds[-1])}
    row["along"] = [[n, float(bounds[max(n - 20, 0) : n].mean()), float(seconds[n - 1])] for n in MARKS]
    if name == "nips_counts":  # held-out words of the same documents
        row["perplexity"] = perplexity(model.transform(x), np.asarray(model.model_.output.mean(model.parameters_)), other)
    return row


def topics(kind: str, depth: int, seed: int, run: Path, part: slice = REPORT, share: float = SEEN) -> dict[str, Any]:
    """For 20 newsgroups, the perplexity of held-out words, inferred as if the share of the words had been seen."""
    settings = TOPICS | {"kind": kind, "samples": DRAWS[kind], "random_state": seed}
    model = gvae.DEF(latent=LAYERS[depth], **settings)
    model.fit(counts("20news")[0], run=run, resume=(run / "config.json").exists())
    seen, held = split(part)
    table = data.Table(seen, dtype=seen.dtype)
    found = evaluation.complete(model.model_, model.parameters_, table, held, seen=share, batch_size=500)
    bound = np.mean([row["train_bound"] for row in model.history_[-3:]])
    seconds = sum(row["seconds"] for row in model.history_)
    return {"bound": float(bound), "perplexity": found.summary()["perplexity"], "seconds": seconds}


def lda(seed: int, run: Path, part: slice = REPORT, settings: dict[str, Any] = LDA) -> dict[str, Any]:
    """scikit-learn's LDA through the same formula."""
    from sklearn.decomposition import LatentDirichletAllocation

    began = time.perf_counter()
    steps = {"learning_method": "online", "batch_size": 500, "max_iter": 20, "random_state": seed}
    model = LatentDirichletAllocation(**settings, **steps)
    model.fit(counts("20news")[0])
    seconds, (seen, held) = time.perf_counter() - began, split(part)
    words = (model.components_ / model.components_.sum(axis=1, keepdims=True)).T
    return {"perplexity": perplexity(model.transform(seen), words, held), "seconds": seconds}


def lda_search(run: Path) -> dict[str, Any]:
    """The settings of LDA by the documents that settings were chosen by: number of topics, and both priors."""
    grid = [dict(zip(LDA, values, strict=True)) for values in (*product((20, 50, 100), PRIORS, PRIORS), *EDGE)]
    tried = [(lda(0, run, CHOOSE, settings), settings) for settings in grid]
    best, settings = min(tried, key=lambda each: each[0]["perplexity"])
    return {
        "chosen": settings,
        "perplexity": best["perplexity"],
        "tried": [[*each.values(), found["perplexity"]] for found, each in tried],
        "seconds": sum(found["seconds"] for found, _ in tried),
    }


def beyond(estimator: type, run: Path, **own: Any) -> dict[str, Any]:
    """Discrete codes, and a network as decoder, on dense rows of 20 newsgroups: the bound of test documents."""
    x, test = (part.toarray().astype(np.float32) for part in counts("20news"))
    model = estimator(**BEYOND | own).fit(x, run=run, resume=(run / "config.json").exists())
    found = model.evaluate(test[:DOCUMENTS], samples=100).summary()
    seconds = sum(row["seconds"] for row in model.history_)
    return {"bound": found["elbo"], "standard_error": found["elbo_standard_error"], "seconds": seconds}


POINTS = {
    "olivetti": partial(full_batch, "olivetti", gvae.DEF),
    "nips": partial(full_batch, "nips_counts", gvae.DEF),
    "nips-double": partial(full_batch, "nips_counts", gvae.DoubleDEF),
    **{f"{kind}-{n}.{seed}": partial(topics, kind, n, seed) for kind in DRAWS for n in LAYERS for seed in SEEDS},
    "lda-search": lda_search,
    **{f"lda.{seed}": partial(lda, seed) for seed in SEEDS},
    "mean-field": partial(beyond, gvae.VAE),
    "hvm": partial(beyond, gvae.HVM),
}
CHOICES = {  # by which settings were chosen; the notes have their figures
    "gamma-1-share": partial(topics, "gamma", 1, 0, part=CHOOSE),
    "gamma-1-no-share": partial(topics, "gamma", 1, 0, part=CHOOSE, share=1.0),
    "mean-field-30": partial(beyond, gvae.VAE, epochs=30),
    "hvm-30": partial(beyond, gvae.HVM, epochs=30),
    "hvm-poisson": partial(beyond, gvae.HVM, posterior="poisson"),
}
PUBLISHED = {"olivetti": "-6.69e6 (RSVI), -6.644e6 (G-REP)", "nips": "-2.08e6 (RSVI)"}
NOTES = """\
`olivetti`, `nips`: gamma units of 100-40-15, shape 0.1, weights Gamma(0.1, rate 0.3), Adam at 0.1 down to 0 along
half a cosine, one draw, all rows in each of 1,500 iterations; the bound is of all rows and weights together, with the
log-factorials of the counts, in the mean of the last 20 iterations. Recorded by others: RSVI after 100,000 iterations
on the faces and 68,900 on NIPS, G-REP after 72,000 (9.3 hours). `double`: codes of the columns in place of W_0.
`gamma-2`, ..: layers of 100, 100-30 and 100-30-15 units, batches of 500, 40 epochs, three steps of the rows before
each; their bound is per training row. Figures are means over seeds, with the smallest and the largest. Perplexities are
of words that the model has not seen, given a tenth of the words of 1,000 test documents (of NIPS: its own held-out
words), see [Completion](guide/evaluation.md#completion). Settings were chosen by perplexities of the first 1,000 test
documents: the inference under a share of the rates (without it, `gamma-1` has 821 there in place of 811; points
`gamma-1-no-share` and `gamma-1-share` of the script), ten draws of bits and counts in a step, and those of LDA,
scikit-learn's, in `lda-search`; the perplexities reported, but for that of `lda-search`, are of the next 1,000, which had
not been looked at. `mean-field` and `hvm`: codes of 50 bits, a network of 200 units each way, 100 epochs, one seed; bound
per test document (after 30 epochs, `mean-field-30` and `hvm-30`: -268.36 ± 9.87 and -302.83 ± 22.24). `hvm` has bits as
codes because with Poisson codes (`hvm-poisson`) a few documents decide its bound of test documents, -2.7e5 ± 1.4e5. Times
were taken on a shared machine under load."""


def page() -> str:
    """The part of docs/results.md."""
    found, rows = lines(RESULT, "point"), []
    for name in dict.fromkeys(point.partition(".")[0] for point in POINTS):
        seeds = [r for point, r in found.items() if point.partition(".")[0] == name]
        if not seeds:
            rows.append([name, "pending", PUBLISHED.get(name, ""), *[""] * 4])
            continue
        r, whole = seeds[0], name.startswith(("olivetti", "nips"))
        along = "; ".join(f"{n}: {value:.4g} ({seconds:.0f} s)" for n, value, seconds in r.get("along", ()))
        if "chosen" in r:
            along = f"the best of {len(r['tried'])}: {', '.join(f'{k} {v}' for k, v in r['chosen'].items())}"
        bound = _spread([r["bound"] for r in seeds if "bound" in r], ".4g" if whole else ".2f")
        bound += f" ± {r['standard_error']:.2f}" if "standard_error" in r else ""
        perplexity = _spread([r["perplexity"] for r in seeds if "perplexity" in r], ".0f")
        minutes = f"{sum(r['seconds'] for r in seeds) / len(seeds) / 60:.0f}"
        rows.append([name, bound, PUBLISHED.get(name, ""), perplexity, str(len(seeds)), minutes, along])
    columns = ("point", "bound", "recorded by others", "perplexity", "seeds", "minutes", "bound after so many iterations")
    return section("Counts", "counts.py", columns, rows, NOTES, found.values())


def _spread(values: list[float], kind: str) -> str:
    """The mean, and if there are several values the smallest and the largest."""
    if not values:
        return ""
    mean = format(sum(values) / len(values), kind)
    return mean if len(values) == 1 else f"{mean} ({min(values):{kind}} to {max(values):{kind}})"


if __name__ == "__main__":
    run_points(POINTS | CHOICES, RESULT, __doc__)
