"""Parametrisations of edges compared: held-out bounds after 1, 5, 20 epochs, all else equal, five seeds.

    python examples/reproduce/parametrisations.py [DATA ...] [--data-dir FOLDER] [--seeds 0 1 2 3 4] [--out FILE]

With D = diag(s) and one unconstrained parameter w per edge, factors L of the precision on a graph (chain, extended grid) are

    ratio    L = (I + W) D^-1                w is a regression's coefficient, in units of two variables; what gvae has
    row      L = D^-1 (I + W)                w has no unit: only W says how variables correlate
    partial  L = D^-1 ((I + diag(|w_j|^2))^1/2 + W)    as above; for a chain, w = -r / (1 - r^2)^1/2 for neighbours that
                                             correlate by r, and s are the marginal standard deviations

and roots R of a full covariance are R = diag(s) (I + B), what gvae has; R = diag(s) + B (absolute); and R = diag(s) (I + B)
with rows of I + B normalized to norm 1, so that s are the marginal standard deviations (unit).

Next to each candidate except the first of its graph: the mean difference to the first, paired by seed, and its standard
error. Bounds are ELBOs in nats per row. The schedule is constant, so that an epoch's bound does not depend on when learning
ends.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tables import check_names

import gvae
from gvae import data, families, graphs
from gvae.distributions import BandedGaussian, DenseGaussian
from gvae.families import LOG_SCALE, Cholesky, Full
from gvae.ops import arrays, elementwise

EPOCHS = 1, 5, 20
LONGER = {"frey_faces": (*EPOCHS, 222)}  # few rows: 20 epochs are 360 steps


class Edges(Cholesky):
    """Cholesky, its edges scaled by rows; partial: the diagonal made to fit, as above."""

    def __init__(self, graph: graphs.Graph, partial: bool):
        super().__init__(graph)
        self.partial, self.name = partial, f"{graph.name.partition(':')[0]}_{'partial' if partial else 'row'}"

    def at(self, mean: Any, rest: Any) -> BandedGaussian:
        n, M = self.n, len(self.graph.offsets)
        precision = elementwise.exp(-elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        w = arrays.scatter_last(elementwise.bounded(rest[..., n:], limit=self.limit), index=self._edges, size=(M - 1) * n)
        rows, diagonal = [], 1.0
        for k, o in enumerate(self.graph.offsets[1:]):
            w_k = w[..., k * n : (k + 1) * n]  # entry j ties variables j and j + o
            later = arrays.concatenate([precision[..., o:], precision[..., :o]], axis=-1)  # wraps where w_k is zero
            rows.append((w_k * later)[..., None, :])
            diagonal = diagonal + elementwise.square(w_k)
        first = precision * elementwise.power(diagonal, 0.5) if self.partial else precision
        return BandedGaussian(
            mean, arrays.concatenate([first[..., None, :], *rows], axis=-2), self.graph.offsets, check=False
        )


class Unit(Full):
    """Full, its rows of norm 1 before they are scaled."""

    name = "full_unit"

    def at(self, mean: Any, rest: Any) -> DenseGaussian:
        n = self.n
        r = super().at(mean, arrays.concatenate([rest[..., :n] * 0.0, rest[..., n:]], axis=-1)).scale_tril
        scale = elementwise.exp(elementwise.bounded(rest[..., :n], limit=LOG_SCALE))
        length = elementwise.power(arrays.sum(elementwise.square(r), axis=-1), 0.5)
        return DenseGaussian(mean, r * (scale / length)[..., None])


def _edges(make: Any, partial: bool) -> Any:
    return lambda n, size: Edges(make(n, size), partial)


def _chain(n: int, size: str | None) -> graphs.Graph:
    return graphs.chain(n)


def _grid(n: int, size: str | None) -> graphs.Graph:
    return families.parse(f"extended_grid:{size}" if size else "extended_grid", n).graph


families.FAMILIES |= {
    "chain_row": _edges(_chain, False),
    "chain_partial": _edges(_chain, True),
    "extended_grid_row": _edges(_grid, False),
    "extended_grid_partial": _edges(_grid, True),
    "full_unit": lambda n, size: Unit(n),
}
CHAINS = ("chain", "chain_row", "chain_partial")
GRIDS = ("extended_grid", "extended_grid_row", "extended_grid_partial")
FULL = ("full", "full:absolute", "full_unit")


def series(rows: int) -> np.ndarray:
    """AR(1) 0.8 over 12 variables, seen with noise 0.5."""
    i = np.arange(12)
    covariance = 0.8 ** np.abs(i[:, None] - i) + 0.25 * np.eye(12)
    return np.random.default_rng(0).multivariate_normal(np.zeros(12), covariance, size=rows)


def factors(rows: int) -> np.ndarray:
    """Eight columns of three factors, of several scales, noise 0.4."""
    r = np.random.default_rng(1)
    W = r.normal(size=(8, 3)) * r.uniform(0.5, 2.0, size=(8, 1))
    return r.normal(size=(rows, 3)) @ W.T + 0.4 * r.normal(size=(rows, 8))


SMALL = {"model": "linear", "observation": "gaussian", "learning_rate": 5e-3}
SETTINGS: dict[str, dict[str, Any]] = {  # a data set, its models' settings, and the candidates, which role they take
    "series": SMALL | {"latent": 12},
    "factors": SMALL | {"latent": 3},
    "digits": {"latent": 16, "observation": "bernoulli", "hidden": (200,)},
    "mnist": {"latent": 16, "observation": "bernoulli", "hidden": (200, 200)},
    "frey_faces": {"latent": 16, "hidden": (200,), "dequantize": 256, "posterior": "diagonal"},
}
CANDIDATES = {
    "series": (CHAINS, FULL),
    "factors": (CHAINS, FULL),
    "digits": (CHAINS, GRIDS, FULL),
    "mnist": (CHAINS, GRIDS, FULL),
    "frey_faces": (
        tuple(f"logit:shared:{name}" for name in CHAINS),
        tuple(f"logit:shared:{name}:28x20" for name in GRIDS),
    ),
}


def rows(name: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out rows."""
    if name in ("series", "factors"):
        x = {"series": series, "factors": factors}[name](7000)
        return x[:5000], x[5000:]
    dataset = data.load(name, data_dir=data_dir)
    return dataset.train[:20_000], dataset.test[:2000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--out", type=Path, help="a file that receives one line of JSON per run")
    options = parser.parse_args()
    check_names(parser, options.data, SETTINGS)
    for name in options.data or SETTINGS:
        train, test = (x[: options.rows] for x in rows(name, options.data_dir))
        role = "observation" if "posterior" in SETTINGS[name] else "posterior"
        epochs = LONGER.get(name, EPOCHS)
        print(f"{name}, {len(train)} + {len(test)} rows: ELBO after {epochs} epochs, seeds {options.seeds}")
        for candidates in CANDIDATES[name]:
            first = None
            for candidate in candidates:
                bounds = []
                for seed in options.seeds:
                    settings = SETTINGS[name] | {role: candidate, "epochs": max(epochs), "random_state": seed}
                    model = gvae.estimators()[settings.pop("model", "vae")](**settings).fit(train, validation=test)
                    bounds.append([model.history_[epoch - 1]["validation_bound"] for epoch in epochs])
                    if options.out is not None:
                        line = {"data": name, role: candidate, "seed": seed} | dict(zip(epochs, bounds[-1], strict=True))
                        with open(options.out, "a", encoding="utf-8") as file:
                            file.write(json.dumps(line) + "\n")
                cells = "".join(f"{x:>12.3f}" for x in np.mean(bounds, axis=0))
                if first is not None and len(bounds) > 1:
                    gain = np.subtract(bounds, first)
                    error = gain.std(axis=0, ddof=1) / math.sqrt(len(gain))
                    cells += "".join(f"{g:>+12.3f} +-{e:.3f}" for g, e in zip(gain.mean(axis=0), error, strict=True))
                first = bounds if first is None else first
                print(f"{candidate:<36}{cells}", flush=True)


if __name__ == "__main__":
    main()
