"""The quantities that differ from step to step: one record per step, on the host or on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random
from gvae.runtime import device
from gvae.typing import Key

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["StepInputs", "records", "uploaded"]

# the number that a key is folded with, one per purpose, in every release: their streams are independent
INIT, ORDER, BINARIZE, NOISE, VALIDATE, ROWS, PREPARE, MASKS, DREAMS, ALONE = range(10)


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a step other than its batch: arrays on the host, or views of one record on the device.

    Parameters
    ----------
    index : array (B,)
        The row indices of the batch in the table.
    data : array (4,)
        The key of the batch's binarization.
    noise : array (4,)
        The key of the step's noise.
    step : array ()
        The number of the step.
    rate : float
        The learning rate (0 on a device).
    numbers : array
        The optimiser's numbers at that rate (see gvae.optim.Optimizer.numbers).
    weight : array ()
        The weight of the parameters in the running average.
    """

    index: Any
    data: Any
    noise: Key
    step: Any
    rate: float
    numbers: Any
    weight: Any

    @classmethod
    def of(cls, record: np.void) -> StepInputs:
        """The inputs in one record of `records`."""
        step, weight = np.asarray(record["step"]), np.asarray(record["weight"])
        rate = float(record["rate"])
        return cls(record["index"], record["data"], record["noise"], step, rate, record["numbers"], weight)


def _layout(trainer: Trainer, batch_size: int) -> np.dtype:
    return _record(trainer.parameters.flat.dtype, len(trainer.optimizer.numbers(1.0, 1)), batch_size)


@cache
def _record(dtype: np.dtype, n_numbers: int, batch_size: int) -> np.dtype:
    fields: list[Any] = [("index", np.int64, (batch_size,)), ("data", np.uint32, (4,)), ("noise", np.uint32, (4,))]
    fields += [("step", dtype), ("rate", np.float64), ("taken", np.int64)]
    fields += [("numbers", dtype, (n_numbers,)), ("weight", dtype)]
    return np.dtype(fields, align=True)


def records(
    trainer: Trainer,
    n: int,
    first: int = 0,
    order: np.ndarray | None = None,
    key: np.ndarray | None = None,
    batch_size: int = 0,
) -> np.ndarray:
    """n records; those from `first` on belong to the next steps. With the order of a pass and its key, they have the rows of
    its batches as well."""
    table = np.zeros(n, _layout(trainer, batch_size))
    if order is not None and key is not None:
        table["index"] = order[: n * batch_size].reshape(n, batch_size)
        table["data"] = random.fold_in_each(key, 0, n)
    coming = table[first:]
    steps = trainer.steps + np.arange(len(coming))
    rates = [trainer.rate(int(step)) for step in steps]
    coming["noise"] = random.fold_in_each(random.fold_in(trainer.key, NOISE), trainer.steps, len(coming))
    coming["step"], coming["rate"], coming["taken"] = steps, rates, trainer.taken + np.arange(len(coming))
    coming["numbers"] = [trainer.optimizer.numbers(rate, trainer.taken + 1 + j) for j, rate in enumerate(rates)]
    if trainer.average is not None:
        coming["weight"] = [trainer.average.weight(trainer.taken + j) for j in range(len(coming))]
    return table


def uploaded(trainer: Trainer, batch_size: int) -> tuple[StepInputs, Any]:
    """(inputs, words): a record on the trainer's device, and its memory as words (1, W), to which `records` are copied."""
    layout, xp = _layout(trainer, batch_size), device.module(trainer.device)
    words = xp.empty((1, layout.itemsize // 4), np.uint32)
    entries: Any = layout.fields
    parts = {name: xp.ndarray(kind.shape, kind.base, words.data + offset) for name, (kind, offset) in entries.items()}
    parts = {name: part for name, part in parts.items() if name not in ("rate", "taken")}
    return StepInputs(rate=0.0, **parts), words
