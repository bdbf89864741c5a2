"""The objective on rows that are not trained on."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random
from gvae.data import Table
from gvae.objectives.terms import ascended
from gvae.protocol import check_terms
from gvae.training.inputs import VALIDATE
from gvae.training.rows import infer

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["validate"]

INFERENCE: dict[str, Any] = {"steps": 50, "draws": 2, "learning_rate": 0.4}  # cheap; the result is still a bound


def validate(trainer: Trainer, table: Table, batch_size: int) -> dict[str, float]:
    """The objective's metrics over a table, without a training step: row-weighted means, with the same noise in every call.

    The model scores the rows (its `step` is None, or by its `watch`): without dropout, corruption or a cost of the weights,
    and with the trainer's state. The objective's warm-up counts as over, so that values of different epochs compare. The
    rows need not be training rows: per-datum parameters are inferred. A model whose objective depends on all rows of a batch
    together has one batch; a term of that kind in an objective is averaged over batches that have the rows which the
    objective requires.
    """
    batch_size = batch_size if getattr(trainer.model, "has_bound", True) else len(table)
    least = getattr(trainer.objective, "least_rows", 1)
    while batch_size < len(table) and 0 < len(table) % batch_size < least:
        batch_size += 1
    key, ranks = random.fold_in(trainer.key, VALIDATE), trainer.communicator
    step = max(trainer.steps, getattr(trainer.objective, "warmup", 0))
    found: dict[int, tuple[np.float64, dict[str, Any]]] = {}  # weight and metrics of the batches of this rank
    with ranks.together(), ranks.leaders_first("validation"):
        own = table.batches(random.fold_in(key, 0), batch_size, first=ranks.rank, step=ranks.size)
        for i, batch in zip(itertools.count(ranks.rank, ranks.size), own, strict=False):
            noise = trainer.noise(random.fold_in(key, 1, i), batch, masks=False)
            rows = infer(trainer.model, trainer.weights, trainer.state, batch, random.fold_in(key, 2), **INFERENCE)
            given = dict(trainer.weights) | rows, trainer.state, batch, noise
            terms = trainer.model.watch(*given) if hasattr(trainer.model, "watch") else trainer.model.terms(*given, None)
            check_terms(trainer.model, terms, batch, noise)
            _, metrics = ascended(trainer.objective, terms, step, batch.weight)
            found[i] = np.float64(len(batch) if batch.weight is None else float(batch.weight.sum())), metrics
    totals: dict[str, Any] = {}
    weights: Any = 0.0
    for _, (weight, metrics) in sorted(pair for part in ranks.gather(found) for pair in part.items()):
        weights += weight
        for name, x in metrics.items():
            totals[name] = totals.get(name, 0.0) + weight * x
    return {name: float(x / weights) for name, x in totals.items()}
