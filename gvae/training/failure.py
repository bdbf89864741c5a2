"""Diagnosis of a bound or a gradient that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae.autodiff import vjp
from gvae.data import Batch
from gvae.errors import NonFiniteError
from gvae.objectives import SHARED, noise_of_rows
from gvae.training.shards import Cut

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["ADVICE", "as_given", "failure"]

NAMED, SAID = 20, 5  # rows at most that a failure is traced to, and that its message gives
ADVICE = "a smaller learning rate, a bound on the gradient or data on a smaller scale often helps"


def as_given(index: np.ndarray) -> np.ndarray:
    """The numbers by which messages name rows, where a table has no others: their indices."""
    return index


def failure(trainer: Trainer, params: dict, batch: Batch, noise: Any, bound: float, gradient: dict) -> NonFiniteError:
    """The error that names the tensor that is not finite, and the rows that cause this on their own."""
    parts: Iterable[tuple[int, Batch, Any]] = [(0, batch, noise)]
    if isinstance(batch, Cut) and trainer.shards is not None:
        parts = trainer.shards.drawn(trainer, batch, noise["key"])
    broken = [name for name, value in params.items() if not np.isfinite(value).all()]
    if broken:
        tensor = f"parameter {broken[0]}"
    else:  # the parameters are finite: the failure is in this step
        gradients = [f"the gradient of {name}" for name, value in gradient.items() if not np.isfinite(value).all()]
        tensor = "the bound" if not math.isfinite(bound) else next(iter(gradients), "the gradient's norm, squared,")
    index: list[int] = []  # the indices of the rows that fail
    rows: list[int] = []
    try:
        for _, part, drawn in parts:
            numbers = trainer.numbers(part.index)
            index += numbers.tolist()
            if not broken:
                with np.errstate(all="ignore"):
                    alone = _rows_that_fail(trainer, params, part, drawn, np.arange(len(part)))
                rows += [int(numbers[i]) for i in alone]
    except Exception:  # a model that accepts whole batches only: the search must not hide the error it explains
        rows = []
    found = trainer.communicator.gather((index, rows[:NAMED]))
    index, rows = [i for part, _ in found for i in part], [i for _, part in found for i in part][:NAMED]
    known = rows or index
    which = f"{'because of' if rows else 'batch of'} row{'s' if len(known) > 1 else ''}"
    first = ", ".join([*map(str, known[:SAID]), *(["..."] if len(known) > SAID else [])])
    return NonFiniteError(
        f"training: {tensor} is not finite at step {trainer.steps} ({which} {first}); {ADVICE}",
        tensor,
        trainer.steps,
        rows,
    )


def _rows_that_fail(trainer: Trainer, params: dict, batch: Batch, noise: dict, among: np.ndarray) -> list[int]:
    """Positions in the batch of rows that by themselves give a non-finite bound or gradient, by bisection; not many more
    than NAMED. None are found where the rows are not the second axis of the model's noise."""
    n = len(batch)
    if not all(getattr(draws, "shape", ())[1:2] == (n,) for name, draws in noise.items() if not name.startswith(SHARED)):
        return []
    part = noise_of_rows(noise, among)
    own = params | {name: params[name][among] for name in trainer.rows}
    inputs = trainer.arguments(batch[among], part, trainer.steps)
    value, pull, (metrics, _) = vjp(lambda p: trainer.evaluate(p, inputs), own, has_aux=True)
    minus = {g: v.dtype.type(-1) for g, v in value.items()} if isinstance(value, dict) else value.dtype.type(-1)
    if math.isfinite(metrics["bound"]) and all(np.isfinite(bar).all() for bar in pull(minus).values()):
        return []
    if len(among) == 1:
        return [int(among[0])]
    found = _rows_that_fail(trainer, params, batch, noise, among[: len(among) // 2])
    if len(found) < NAMED:
        found += _rows_that_fail(trainer, params, batch, noise, among[len(among) // 2 :])
    return found
