"""The training loop: epochs of steps, validation, early stopping, and what happens when numbers stop being finite."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gvae import random
from gvae.checks import check_whole
from gvae.data import Table
from gvae.errors import ConfigError, DataError, NonFiniteError, StoppedError
from gvae.runtime import device
from gvae.training.failure import ADVICE
from gvae.training.inputs import BINARIZE
from gvae.training.program import Pass
from gvae.training.runs import RunFolder
from gvae.training.snapshot import Epoch
from gvae.training.step import Trainer

POLICIES = ("stop", "skip", "rollback")
ROLLBACKS = 10  # at most, until an epoch ends well

logger = logging.getLogger(__name__)


@dataclass
class History:
    """`rows`, one per epoch, and `events` between them, as written to log.jsonl."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: Any,
    table: Table,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 100,
    validation: Table | None = None,
    patience: int | None = None,
    on_nonfinite: str = "stop",
    progress: bool = False,
    run: RunFolder | None = None,
    stop: Callable[[], bool] | None = None,
    trainer: Trainer | None = None,
    **settings: Any,
) -> tuple[Trainer, History]:
    """Train for a number of epochs or of steps; `settings` go to Trainer (objective, samples, learning_rate, seed, ...).

    validation   : rows on which the objective is reported after each epoch
    patience     : end when the validation bound has not grown for so many epochs; `trainer.chosen` are those of its best
    on_nonfinite : what follows a bound or gradient that is not finite. "stop" raises; "skip" takes the next batch without an
                   update, if the parameters are finite; "rollback" returns to the start of the epoch with half of the
                   learning rate, 10 times at most until an epoch ends well. Each is an event in the history and the log.
                   Of a device, numbers are looked at when an epoch ends; there is no "skip"
    progress     : a progress bar with the bound
    run          : a folder that receives the log, and the checkpoint after every epoch and now and then within long ones. In
                   one that was reopened, `epochs` and `steps` count from the run's beginning
    stop         : asked after every step; at True training saves and raises StoppedError
    Returns the trainer and the history. Raises NonFiniteError, StoppedError; RunError if the run folder cannot be written.
    """
    if (epochs is None) == (steps is None):
        raise ConfigError(f"train: give epochs or steps, one of them; got epochs={epochs}, steps={steps}")
    check_whole(batch_size=batch_size, **({"epochs": epochs} if epochs is not None else {"steps": steps}))
    if patience is not None:
        check_whole(patience=patience)
        if validation is None:
            raise ConfigError("train: patience needs validation rows to look at")
    if on_nonfinite not in POLICIES:
        raise ConfigError(f"on_nonfinite is {on_nonfinite!r}; known are {', '.join(POLICIES)}")
    if len(table) == 0:
        raise DataError("train: the table has no rows")
    trainer = trainer or Trainer(model, n_rows=len(table), **settings)
    total = epochs * -(-len(table) // batch_size) if epochs is not None else int(steps or 0)
    if trainer.device != "cpu" and on_nonfinite == "skip":
        raise ConfigError("train: on_nonfinite 'skip' looks at every step, for which a device would have to be waited for")
    table = table.to(trainer.device)
    validation = None if validation is None else validation.to(trainer.device)
    loop = _Loop(trainer, table, batch_size, validation, patience, on_nonfinite, run, stop)
    loop.end = total if run is not None and run.reopened else trainer.steps + total
    if progress:
        from tqdm import tqdm

        done = trainer.steps - (loop.end - total)
        loop.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, desc="training", disable=None)
    try:
        with device.stream(trainer.device):
            loop.run_epochs()
    finally:
        if loop.bar is not None:
            loop.bar.close()
    return trainer, loop.history


@dataclass
class _Loop:
    trainer: Trainer
    table: Table
    batch_size: int
    validation: Table | None
    patience: int | None
    on_nonfinite: str
    run: RunFolder | None
    stop: Callable[[], bool] | None
    end: int = 0  # the step before which training ends
    bar: Any = None

    def __post_init__(self) -> None:
        self.history = History() if self.run is None else History(list(self.run.rows), list(self.run.events))

    def run_epochs(self) -> None:
        trainer = self.trainer
        if self.on_nonfinite == "rollback" and trainer.mark is None:
            trainer.set_mark()
        while trainer.steps < self.end or trainer.epoch.batches:  # the latter: an epoch whose end is still to come
            if self.patience is not None and trainer.stopping.waited >= self.patience:
                return
            try:
                self.finish_epoch()
            except NonFiniteError as error:
                self.note(error)
                if self.on_nonfinite != "rollback" or trainer.rollbacks == ROLLBACKS:
                    raise
                trainer.roll_back()
                logger.warning("%s; back to step %d with %g of the learning rate", error, trainer.steps, trainer.scale)

    def finish_epoch(self) -> None:
        """The epoch from where it is to its end."""
        trainer, table = self.trainer, self.table
        if trainer.epoch.batches == 0:
            trainer.epoch = Epoch()  # without what steps outside of it have summed
        order, binarize = trainer.order(len(table)), random.fold_in(trainer.key, BINARIZE, trainer.epochs)
        clock = time.perf_counter()
        steps = Pass(trainer, table, binarize, self.batch_size, order)
        for i in range(trainer.epoch.batches, len(steps)):
            if trainer.steps == self.end:
                break
            self.step(steps, i)
            trainer.epoch.batches += 1
            if self.bar is not None:
                self.show()  # where a device is waited for, and so part of the time that steps take
            trainer.epoch.seconds += time.perf_counter() - clock
            self.save_if_due()
            clock = time.perf_counter()
        self.end_epoch()

    def step(self, steps: Pass, i: int) -> None:
        trainer = self.trainer
        try:
            steps.step(i)
        except NonFiniteError as error:
            if self.on_nonfinite != "skip" or error.tensor.startswith("parameter"):
                raise
            self.note(error)
            logger.warning("%s; skipped", error)
            trainer.skip()

    def save_if_due(self) -> None:
        stopping = self.stop is not None and self.stop()
        if self.run is not None and (stopping or self.run.is_due()):
            self.run.save(self.trainer)
        if stopping:
            raise StoppedError(f"training stopped at step {self.trainer.steps}, in epoch {self.trainer.epochs + 1}")

    def end_epoch(self) -> None:
        trainer, validation = self.trainer, self.validation
        done, number = trainer.epoch, trainer.epochs + 1
        if trainer.average is not None:
            trainer.average.after_epoch(trainer.parameters, number)
        row: dict[str, Any] = {"epoch": number, "step": trainer.steps}
        clock = time.perf_counter()
        row |= {f"train_{name}": float(x) / done.rows for name, x in done.sums.items()}  # a device is waited for here, once
        done.seconds += time.perf_counter() - clock  # there, most of the epoch
        if validation is not None:
            row |= {f"validation_{name}": x for name, x in trainer.validate(validation).items()}
        _check_epoch(trainer, row)  # before anything of this epoch is kept
        trainer.epoch, trainer.epochs = Epoch(), number
        bound = row["train_bound" if validation is None else "validation_bound"]
        trainer.schedule.observe(bound)
        if self.patience is not None:
            trainer.look(bound)
        trainer.rollbacks = 0
        if self.on_nonfinite == "rollback":
            trainer.set_mark()
        row |= {"seconds": done.seconds, "steps_per_second": done.batches / done.seconds}
        logger.info("epoch %d: %s", number, row)
        self.history.rows.append(row)
        if self.run is not None:
            self.run.log(row)
            self.run.save(trainer)

    def note(self, error: NonFiniteError) -> None:
        trainer = self.trainer
        event = {"event": "not finite", "policy": self.on_nonfinite, "epoch": trainer.epochs + 1, "step": trainer.steps}
        event |= {"tensor": error.tensor, "rows": error.rows}
        self.history.events.append(event)
        if self.run is not None:
            self.run.log(event)

    def show(self) -> None:
        trainer = self.trainer
        self.bar.update(trainer.steps - (self.end - self.bar.total) - self.bar.n)
        if (self.bar.n % 50 == 0 or trainer.steps == self.end) and trainer.epoch.rows:
            bound = float(trainer.epoch.sums["bound"]) / trainer.epoch.rows
            self.bar.set_postfix_str(f"epoch {trainer.epochs + 1}, bound {bound:.2f} nats")


def _check_epoch(trainer: Trainer, row: dict[str, float]) -> None:
    """The last update of an epoch may have broken what no later step has looked at."""
    bad = [f"parameter {name}" for name, value in trainer.parameters.items() if not np.isfinite(value).all()]
    bad += [name for name, x in row.items() if not math.isfinite(x)]
    if not bad and "train_bound" not in row:
        bad = ["the bound of every step"]
    if bad:
        what = f"{bad[0]} is not finite after step {trainer.steps} (epoch {row['epoch']})"
        raise NonFiniteError(f"training: {what}; {ADVICE}", bad[0], trainer.steps)
