"""How good a model is on given rows: the ELBO and importance-sampled log p(x), in nats per row.

It knows the model protocol only. Samples are drawn in chunks and combined by a running log-sum-exp, so that any number of
samples fits a fixed amount of memory.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import memory as memory_pool
from gvae import random
from gvae.data import Table
from gvae.errors import ConfigError
from gvae.objectives import Terms

__all__ = ["Evaluation", "evaluate"]

ROWS_AT_ONCE = 10_000  # samples x rows in flight; a 784-pixel decoder then holds about 60 MB in float32


@dataclass(frozen=True)
class Evaluation:
    """Per row, in nats: the ELBO, the importance-sampled log p(x) with its effective sample size, and the KL.

    elbo                  : mean over the samples of log p(x|z), minus the KL, in closed form where there is one
    log_likelihood        : log 1/K sum_k p(x, z_k) / q(z_k | x); its expectation is a lower bound on log p(x)
    effective_sample_size : (sum w)² / sum w², between 1 and K: near 1, one sample decides, and the estimate is poor
    """

    elbo: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    effective_sample_size: np.ndarray
    samples: int

    def summary(self) -> dict[str, float]:
        """Means over rows with the standard error that the choice of rows causes."""
        n = len(self.elbo)
        result: dict[str, float] = {"rows": n, "samples": self.samples}
        for name in ("elbo", "log_likelihood", "kl", "effective_sample_size"):
            values = getattr(self, name)
            result[name] = float(values.mean())
            if name in ("elbo", "log_likelihood"):
                result[f"{name}_standard_error"] = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        return result


def evaluate(
    model: Any,
    parameters: Mapping[str, np.ndarray],
    table: Table,
    *,
    samples: int = 100,
    key: np.ndarray | None = None,
    state: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 100,
    memory: float | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate every row of a table with K = samples draws each.

    memory : MB that the arrays of one chunk of samples may take, beside the data and the parameters (None: as they come,
             60 for a decoder of 784 pixels); chunks are cut by what one sample is measured to take
    The table's binarization (if dynamic: one fixed draw) and all noise follow from `key`; the result does not depend on
    how samples were cut into chunks beyond rounding, but does on batch_size (which decides who gets which noise).
    Raises ConfigError for samples < 1, and for a memory that one sample of one batch does not fit into.
    """
    if not isinstance(samples, (int, np.integer)) or isinstance(samples, bool) or samples < 1:
        raise ConfigError(f"evaluate: samples is {samples!r}, expected a whole number of at least 1")
    key = random.key(0) if key is None else key
    parameters, state = dict(parameters), dict(state or {})
    columns: dict[str, list[np.ndarray]] = {"elbo": [], "log_likelihood": [], "kl": [], "effective_sample_size": []}
    at_once: int | None = None
    last = 0
    bar = None
    if progress:
        from tqdm import tqdm

        bar = tqdm(total=len(table), unit="row", dynamic_ncols=True, desc="evaluating", disable=None)
    for i, batch in enumerate(table.batches(random.fold_in(key, 0), batch_size)):
        rows = _Running(len(batch))
        chunk = max(1, ROWS_AT_ONCE // len(batch))
        for c, start in enumerate(range(0, samples, chunk)):
            k = min(chunk, samples - start)
            noise = model.noise(random.fold_in(key, 1, i, c), batch, k)
            if at_once is None:
                at_once = chunk if memory is None else _fitting(model, parameters, state, batch, noise, memory)
            parts = -(-k // at_once)
            if k != last:  # blocks that fit parts of another size would lie idle beside those of this one
                memory_pool.clear()
                last = k
            cuts = [i * (k // parts) + min(i, k % parts) for i in range(parts + 1)]  # large ones first: memory serves again
            for a, b in itertools.pairwise(cuts):  # whatever the cuts, the noise is the same
                rows.add(model.terms(parameters, state, batch, {name: draws[a:b] for name, draws in noise.items()}))
        for name, values in rows.finish().items():
            columns[name].append(values)
        if bar is not None:
            bar.update(len(batch))
    if bar is not None:
        bar.close()
    joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in columns.items()}
    return Evaluation(samples=samples, **joined)


def _fitting(model: Any, parameters: Any, state: Any, batch: Any, noise: Mapping[str, np.ndarray], memory: float) -> int:
    """How many samples of this batch, the largest, fit into so many MB: tried with one, then with half of what may fit."""

    def bytes_each(samples: int) -> float:
        memory_pool.clear()  # so that what would be used again is counted
        part = {name: draws[:samples] for name, draws in noise.items()}
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        _Running(len(batch)).add(model.terms(parameters, state, batch, part))
        return (tracemalloc.get_traced_memory()[1] - before) / samples

    most = min(len(draws) for draws in noise.values())
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        bytes_each(1)  # compiles, which takes memory of its own
        one = bytes_each(1)
        several = max(1, min(most, int(memory * 1e6 / one / 2)))
        fitting = int(memory * 1e6 / bytes_each(several))
    finally:
        memory_pool.clear()
        if not tracing:
            tracemalloc.stop()
    if fitting < 1:
        raise ConfigError(
            f"evaluate: memory is {memory:g} MB, expected at least {math.ceil(one / 1e6)}, "
            f"which one sample of {len(batch)} rows takes"
        )
    return fitting


class _Running:
    """Sums over samples, row by row, in float64; weights relative to a running maximum."""

    def __init__(self, n: int):
        self.n = 0
        self.log_likelihood, self.kl = np.zeros(n), np.zeros(n)
        self.top = np.full(n, -np.inf)
        self.weights, self.squares = np.zeros(n), np.zeros(n)

    def add(self, terms: Terms) -> None:
        likelihood = np.asarray(terms.total_log_likelihood, np.float64)
        penalty = np.zeros_like(likelihood)
        for layer in terms.layers:
            ratio = np.asarray(layer.log_q, np.float64) - np.asarray(layer.log_p, np.float64)
            penalty += ratio
            self.kl += np.broadcast_to(ratio if layer.kl is None else layer.kl, likelihood.shape).sum(axis=0)
        self.n += len(likelihood)
        self.log_likelihood += likelihood.sum(axis=0)
        log_weights = likelihood - penalty
        top = np.maximum(self.top, log_weights.max(axis=0))
        safe = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(under="ignore"):
            old = np.exp(self.top - safe)
            new = np.exp(log_weights - safe)
        self.weights = self.weights * old + new.sum(axis=0)
        self.squares = self.squares * old**2 + (new**2).sum(axis=0)
        self.top = top

    def finish(self) -> dict[str, np.ndarray]:
        kl = self.kl / self.n
        safe = np.where(np.isfinite(self.top), self.top, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_likelihood = safe + np.log(self.weights) - math.log(self.n)
            effective = self.weights**2 / self.squares
        return {
            "elbo": self.log_likelihood / self.n - kl,
            "log_likelihood": log_likelihood,
            "kl": kl,
            "effective_sample_size": effective,
        }
