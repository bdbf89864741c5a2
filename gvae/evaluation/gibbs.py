"""Gibbs sampling of p(x, z) as a model has it: z ~ q(z|x), x ~ p(x|z), in turn, with known variables of x held fixed.

Where q is the exact posterior, the stationary distribution is that of the hidden variables given the known ones, p(x) if
none is known; otherwise it is an approximation. Source: Rezende, Mohamed and Wierstra (2014), on the imputation of missing
data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.registry import measure
from gvae.evaluation.subject import Subject, dense, view_of_x, whole
from gvae.ops.sparse import is_csr
from gvae.training import infer
from gvae.typing import Key

__all__ = ["Gibbs", "gibbs"]


@dataclass(frozen=True)
class Gibbs:
    """Rows after Gibbs sampling of hidden variables, and the error of their imputation, in the units that the model sees.

    Parameters
    ----------
    x : array (N, D)
        The rows after `steps` steps.
    mean : array (N, D)
        The mean of the p(x|z) that they were drawn from.
    first_squared_error, squared_error : array (N,)
        The squared error of that mean, averaged over the row's hidden variables, at the first step and at the last.
    steps : int

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [2.0]]), np.zeros(2), np.array([0.1, 0.1]))
    >>> x = fa.sample(gvae.random.key(0), 50)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x))
    >>> result = gvae.evaluation.gibbs(subject, keep=np.array([True, False]))
    >>> np.array_equal(result.x[:, 0], x[:, 0]), np.corrcoef(result.x[:, 1], x[:, 1])[0, 1].round(2)
    (True, np.float64(0.96))
    """

    x: np.ndarray
    mean: np.ndarray
    first_squared_error: np.ndarray
    squared_error: np.ndarray
    steps: int

    def summary(self) -> dict[str, Any]:
        """Mean squared error of the hidden variables at the first and at the last step, with standard errors over rows.

        Returns
        -------
        dict
            "rows", "steps", "first_squared_error" and "squared_error", each error with its "_standard_error".

        Examples
        --------
        >>> x, errors = np.zeros((2, 3)), np.array([0.2, 0.4])
        >>> summary = gvae.evaluation.Gibbs(x, x, 2 * errors, errors, steps=20).summary()
        >>> round(summary["squared_error"], 3), round(summary["squared_error_standard_error"], 3)
        (0.3, 0.1)
        """
        result: dict[str, Any] = {"rows": len(self.x), "steps": self.steps}
        for name in ("first_squared_error", "squared_error"):
            values = getattr(self, name)
            result |= {name: float(values.mean()), f"{name}_standard_error": standard_error(values)}
        return result


def _gibbs_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"hidden variables, filled in by Gibbs sampling, {s['rows']} rows"
    yield f"  {'squared error after 1 step':<34}{s['first_squared_error']:>12.5f}"
    yield f"  {'squared error after ' + str(s['steps']):<34}{s['squared_error']:>12.5f}"


@measure(
    "gibbs",
    "squared error of the second half of x, filled in from the first by drawing codes and x in turn",
    "20 draws a row",
    lines=_gibbs_lines,
    of="x",
)
def gibbs(subject: Subject, *, steps: int = 20, keep: Any = None, rows: int | None = None) -> Gibbs:
    """Gibbs sampling of hidden variables: draw z ~ q(z|x) and x ~ p(x|z) in turn, for a model that explains only x.

    Parameters
    ----------
    subject : Subject
    steps : int, default 20
    keep : bool array (D,) or (N, D), optional
        Which variables are known, and restored after each step; (N, D) for each row of the table separately. None: the first
        half, D // 2 of them. At least one variable of each row is hidden.
    rows : int, optional
        How many of the first rows; None: all.

    Returns
    -------
    Gibbs

    Raises
    ------
    ConfigError
        steps or rows is not a positive integer, keep has another dtype or shape or hides nothing in some row, or the model
        does not explain only x.

    Notes
    -----
    Hidden variables start at their means over the rows; bits, counts and categories start at values drawn from those of the
    rows, each variable separately. Per-datum parameters, where the model has such, are inferred again at each step. Where q
    is the exact posterior, the stationary distribution is that of the hidden variables given the known ones, p(x) if none is
    known; otherwise it is an approximation. Source: Rezende, Mohamed and Wierstra (2014).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [2.0]]), np.zeros(2), np.array([0.1, 0.1]))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 50)))
    >>> result = gvae.evaluation.gibbs(subject, steps=20, keep=np.array([True, False]))
    >>> result.first_squared_error.mean().round(2), result.squared_error.mean().round(2)
    (np.float64(1.18), np.float64(0.23))
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

    def start(key: Key, size: int) -> np.ndarray:
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
            drawn = p.sample(p.noise(random.fold_in(key, step, 1)))
            x, mean = (np.asarray(values)[0] for values in (drawn, p.means_along(drawn)))
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
    """The same rows with another x, sparse where theirs is."""
    columns = {name: column for name, column in vars(batch).items() if name not in ("index", "weight")}
    return Batch(columns | {"x": type(batch.x)(x) if is_csr(batch.x) else x}, batch.index, batch.weight)
