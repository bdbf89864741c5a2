"""Snapshots: all state that training changes, saved and restored."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae.errors import RunError
from gvae.runtime import device

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["Epoch", "Snapshot", "Stopping", "restore", "snapshot"]

WEIGHT = "weight of the rows"  # its sum, among those of the metrics
Snapshot = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays by name, and plain values that JSON can hold


@dataclass
class Epoch:
    """The epoch in progress: batches processed, rows and their sums of metrics (of finite steps), seconds."""

    batches: int = 0
    rows: int = 0
    sums: dict[str, Any] = field(default_factory=dict)  # floats, or scalars on the device
    seconds: float = 0.0

    def plus(self, metrics: dict[str, Any], n: int, weight: Any = None) -> dict[str, Any]:
        """The sums after a step on n rows with these mean metrics.     weight : of the rows, (n,) or their sum, or None"""
        share = np.float64(n) if weight is None else weight.sum(dtype=np.float64)
        sums = {name: self.sums.get(name, 0.0) + share * x for name, x in metrics.items()}
        return sums if weight is None else sums | {WEIGHT: self.sums.get(WEIGHT, 0.0) + share}

    def means(self) -> dict[str, float]:
        """The means of the metrics over the rows so far, which synchronises with a device."""
        total = float(self.sums.get(WEIGHT, self.rows))
        return {name: float(x) / total for name, x in self.sums.items() if name != WEIGHT}


@dataclass
class Stopping:
    """The best validation bound, its epoch, and the evaluations since, one per epoch or as `Until` says."""

    best: float | None = None
    epoch: int = 0
    waited: int = 0


def snapshot(trainer: Trainer) -> Snapshot:
    """(arrays by name, counters): all state that training changes. The arrays are the trainer's own, not copies."""
    arrays = {f"parameters/{name}": value for name, value in trainer.parameters.items()}
    arrays |= {f"optimizer/{name}": getattr(trainer.optimizer, name) for name in trainer.optimizer.moments}
    arrays |= _arrays("state", trainer.state)
    for name, rows in trainer.rows.items():
        arrays |= {f"rows/{name}/values": rows.values, f"rows/{name}/m": rows.m, f"rows/{name}/v": rows.v}
        arrays[f"rows/{name}/steps"] = rows.steps
    if trainer.average is not None:
        arrays |= {f"average/{name}": value for name, value in trainer.average.values.items()}
    if trainer.best is not None:
        arrays |= {f"best/{name}": value for name, value in trainer.best.items()} | _arrays("best_state", trainer.best_state)
    taken = 0 if hasattr(trainer.model, "update") else trainer.taken
    counters: dict[str, Any] = {"steps": trainer.steps, "epochs": trainer.epochs, "optimizer_step": taken}
    if trainer.optimizer.name != "adam":  # "adam" is not recorded, as in checkpoints older than the choice
        counters["optimizer"] = trainer.optimizer.name
    sums = {name: float(x) for name, x in trainer.epoch.sums.items()}  # synchronises with a device
    counters |= {
        "epoch": asdict(replace(trainer.epoch, sums=sums)),
        "stopping": asdict(trainer.stopping),
        "schedule": trainer.schedule.state,
    }
    terms = 0 if trainer.average is None else trainer.average.terms(trainer.taken)
    counters |= {"average": terms, "scale": trainer.scale, "rollbacks": trainer.rollbacks}
    return arrays, counters


def restore(trainer: Trainer, saved: Snapshot) -> None:
    """Set all state of a trainer to that of a snapshot, which a trainer with the same settings has made. RunError if it does
    not fit; then nothing is changed."""
    arrays, counters = saved
    mine, own = trainer.snapshot()
    if not _alike(own, counters):
        raise RunError("the counters do not fit the settings of training")
    best = {f"best/{name}": value for name, value in trainer.parameters.items()} | _arrays("best_state", trainer.state)
    mine = {name: array for name, array in mine.items() if name not in best}
    if counters["stopping"]["best"] is not None:
        mine |= best
    if _kinds(arrays) != _kinds(mine):
        raise RunError("the arrays do not fit the model and the settings of training")
    # all memory is allocated first, so that nothing is changed if there is not enough
    there = {name: device.to_device(array, trainer.device) for name, array in arrays.items()}
    state, best_state = (
        {name: there[f"{part}/{name}"].copy() for name in trainer.state if f"{part}/{name}" in there}
        for part in ("state", "best_state")
    )
    trainer.best = None if counters["stopping"]["best"] is None else trainer.parameters.zeros()
    for name, array in trainer.snapshot()[0].items():
        if not name.startswith(("state/", "best_state/")):
            array[...] = there[name]
    trainer.state, trainer.best_state = state, best_state
    trainer.graph = None  # it refers to the old arrays of the state
    trainer.steps, trainer.epochs = counters["steps"], counters["epochs"]
    trainer.skipped = 0 if hasattr(trainer.model, "update") else counters["steps"] - counters["optimizer_step"]
    trainer.epoch, trainer.stopping = Epoch(**copy.deepcopy(counters["epoch"])), Stopping(**counters["stopping"])
    trainer.schedule.state = dict(counters["schedule"])
    trainer.scale, trainer.rollbacks = counters["scale"], counters["rollbacks"]
    if trainer.average is not None:
        trainer.average.epochs = counters["average"]


def _arrays(part: str, state: dict[str, Any]) -> dict[str, Any]:
    """A model's state as arrays, by their names in a snapshot."""
    return {f"{part}/{name}": x if device.is_cuda(x) else np.asarray(x) for name, x in state.items()}


def _alike(mine: Any, theirs: Any, name: str = "") -> bool:
    """Whether counters, which may come from a file, have the structure and the number types of the trainer's own."""
    if name == "sums":  # empty at the start of an epoch
        return isinstance(theirs, dict) and all(type(x) is float for x in theirs.values())
    if isinstance(mine, dict):
        same = isinstance(theirs, dict) and mine.keys() == theirs.keys()
        return same and all(_alike(x, theirs[key], key) for key, x in mine.items())
    if isinstance(mine, str):
        return theirs == mine
    if type(mine) is int:
        return type(theirs) is int and 0 <= theirs < 2**62
    return type(theirs) is float or (theirs is None and name == "best")


def _kinds(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}
