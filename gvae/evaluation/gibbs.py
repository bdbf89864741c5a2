"""Gibbs sampling of p(x, z) as a model has it: z ~ q(z|x), x ~ p(x|z), in turn, with known variables of x held fixed.

Where q is the exact posterior, the stationary law is that of the hidden variables given the known ones, p(x) if none is
known; else it is an approximation of it. Source: Rezende, Mohamed and Wierstra (2014), on the imputation of missing data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.subject import Subject, dense, view_of_x, whole
from gvae.training import infer

__all__ = ["Gibbs", "gibbs"]


@dataclass(frozen=True)
class Gibbs:
    """Per row: x after `steps` steps, and the mean of the p(x|z) that it was drawn from, (N, D); the squared error of that
    mean, averaged over the row's hidden variables, at the first step and at the last, (N,). In the units the model sees."""

    x: np.ndarray
    mean: np.ndarray
    first_squared_error: np.ndarray
    squared_error: np.ndarray
    steps: int

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {"rows": len(self.x), "steps": self.steps}
        for name in ("first_squared_error", "squared_error"):
            values = getattr(self, name)
            result |= {name: float(values.mean()), f"{name}_standard_error": standard_error(values)}
        return result


def gibbs(subject: Subject, *, steps: int = 20, keep: Any = None, rows: int | None = None) -> Gibbs:
    """Draw z ~ q(z|x) and x ~ p(x|z) in turn on the first `rows` rows (None: all), of a model that explains x alone.

    keep : which variables are known, and put back after each step: booleans (D,), or (N, D) for each row of the table its
           own; None: the first half, D // 2 of them. Each row hides at least one
    Hidden variables start at their means over the rows; bits, counts and categories, each drawn from its values on the rows.
    Rows with a posterior of their own infer it anew at each step. Raises ConfigError.
    """
    steps, inference = whole("steps", steps), random.fold_in(subject.key, streams.INFERENCE)
    discrete = False

    def look(i: int, batch: Batch) -> dict[str, np.ndarray]:
        nonlocal discrete
        if i == 0:
            noise = subject.model.noise(random.fold_in(subject.key, streams.GIBBS, i, 0, 0), batch, 1)
            discrete = view_of_x(subject, "gibbs", subject.terms(batch, noise)).discrete
        return {"x": dense(batch.x)}

    data = subject.each("gibbs: data", look, settings={}, rows=rows, kept=False)["x"]
    n, D = data.shape
    kept = _mask(keep, len(subject.table), D, n)
    mean = data.mean(axis=0, dtype=np.float64)

    def start(key: np.ndarray, size: int) -> np.ndarray:
        if not discrete:
            return mean
        row = (random.uniform(random.fold_in(key, 0, 1), (size, D), np.float64) * n).astype(np.int64)
        return data[row, np.arange(D)]

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        key, known, truth = random.fold_in(subject.key, streams.GIBBS, i), kept[batch.index], data[batch.index]
        x, errors = start(key, len(batch)), {}
        for step in range(1, steps + 1):
            seen = _with(batch, np.where(known, truth, x).astype(truth.dtype))
            noise = subject.model.noise(random.fold_in(key, step, 0), seen, 1)
            own = infer(subject.model, subject.parameters, subject.state, seen, inference)
            p = view_of_x(subject, "gibbs", subject.terms(seen, noise, own))
            x, mean = (np.asarray(values)[0] for values in (p.sample(p.noise(random.fold_in(key, step, 1))), p.mean))
            if step in (1, steps):
                wrong = np.square(mean.astype(np.float64) - truth) * ~known
                errors[step] = wrong.sum(axis=1) / (~known).sum(axis=1)
        last = np.where(known, truth, x).astype(truth.dtype)
        return {"x": last, "mean": mean, "first_squared_error": errors[1], "squared_error": errors[steps]}

    settings = {"steps": steps, "keep": kept}
    columns: dict[str, Any] = subject.each("gibbs", compute, settings=settings, rows=rows)
    return Gibbs(**columns, steps=steps)


def _mask(keep: Any, N: int, D: int, n: int) -> np.ndarray:
    """Which variables are known, of the first n rows of N, (n, D)."""
    kept = np.arange(D) < D // 2 if keep is None else np.asarray(keep)
    if kept.dtype != bool or kept.shape not in ((D,), (N, D)):
        raise ConfigError(f"gibbs: keep is {kept.dtype} of shape {kept.shape}, expected bool of shape {(D,)} or {(N, D)}")
    kept = np.broadcast_to(kept, (N, D))[:n]
    if (full := kept.all(axis=1)).any():
        raise ConfigError(f"gibbs: keep holds all variables of row {full.argmax()}, expected one to be hidden")
    return kept


def _with(batch: Batch, x: np.ndarray) -> Batch:
    """The same rows with another x."""
    columns = {name: column for name, column in vars(batch).items() if name not in ("index", "weight")}
    return Batch(columns | {"x": x}, batch.index, batch.weight)
