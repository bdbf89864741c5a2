"""The training loop: epochs of steps, validation, early stopping, and the handling of non-finite values."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gvae import modes, random
from gvae.checks import check_whole
from gvae.data import Table
from gvae.errors import ConfigError, DataError, NonFiniteError, RunError, StoppedError
from gvae.protocol import Model
from gvae.runtime import device
from gvae.runtime.parallel import is_agreed
from gvae.training.failure import ADVICE, as_given
from gvae.training.inputs import BINARIZE
from gvae.training.program import Pass, batches_in, least_rows
from gvae.training.runs import RunFolder
from gvae.training.snapshot import Epoch
from gvae.training.step import Trainer
from gvae.training.until import Until

POLICIES = ("stop", "skip", "rollback")
BROKEN = "all ranks add the same numbers, so a machine is faulty or has other libraries; the last checkpoint predates this"
ROLLBACKS = 10  # at most, until an epoch succeeds

logger = logging.getLogger(__name__)


@dataclass
class History:
    """The log of a training run, as it is written to log.jsonl.

    Parameters
    ----------
    rows : list of dict, optional
        One row per epoch, under `Until` one per evaluation of the validation bound. Keys: epoch, step, train_NAME and
        validation_NAME for each metric, seconds, steps_per_second.
    events : list of dict, optional
        What happened between the rows, such as a bound that was not finite.

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
    >>> trainer, history = gvae.training.train(model, table, epochs=2, batch_size=2)
    >>> [(row["epoch"], row["step"]) for row in history.rows]
    [(1, 2), (2, 4)]
    >>> list(history.rows[0])
    ['epoch', 'step', 'train_bound', 'train_log_likelihood', 'train_kl', 'seconds', 'steps_per_second']
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def train(
    model: Model,
    table: Table,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    until: Until | None = None,
    batch_size: int = 100,
    validation: Table | None = None,
    patience: int | None = None,
    on_nonfinite: str = "stop",
    progress: bool = False,
    run: RunFolder | None = None,
    stop: Callable[[], bool] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    trainer: Trainer | None = None,
    **settings: Any,
) -> tuple[Trainer, History]:
    """Train a model for a number of epochs or steps, or until the validation bound stops increasing.

    Exactly one of `epochs`, `steps` and `until` is given.

    Parameters
    ----------
    model : Model
    table : Table
        The training rows.
    epochs : int, optional
    steps : int, optional
    until : Until, optional
        Needs validation rows. A row of the history then has the means over the steps since the last evaluation; a plateau
        schedule counts evaluations, and a roll-back returns to the last one.
    batch_size : int, default 100
    validation : Table, optional
        The rows on which the objective is evaluated after each epoch, or as `until` says.
    patience : int, optional
        Training ends when the validation bound has not increased for this number of epochs; `trainer.chosen` are then the
        parameters of the best epoch. Needs validation rows; not together with `until`.
    on_nonfinite : {"stop", "skip", "rollback"}, default "stop"
        The response to a bound or gradient that is not finite. "stop" raises NonFiniteError; "skip" continues with the next
        batch without an update, if the parameters are finite; "rollback" returns to the start of the epoch with half of the
        learning rate, at most 10 times until an epoch succeeds, with the first step that follows it, which is computed once
        more for that. Each is an event in the history and the log. On a device, values are checked at the end of an epoch,
        and "skip" is not available.
    progress : bool, default False
        Whether to show a progress bar with the bound.
    run : RunFolder, optional
        The folder to which the log is written, and a checkpoint after every epoch or evaluation, and in between when
        `run.is_due()`. If it was reopened, `epochs`, `steps` and `until` count from the beginning of the run. With several
        ranks, rank 0 has it.
    stop : callable, optional
        stop() is called in every step; if it is true, on any rank, training saves a checkpoint and raises StoppedError.
    callback : callable, optional
        callback(row) is called after every row of the log, on rank 0; a truthy return value ends the training normally.
    trainer : Trainer, optional
        The trainer to continue with. By default a new one.
    **settings : object
        Arguments of the new Trainer (objective, samples, learning_rate, seed, ...).

    Returns
    -------
    trainer : Trainer
    history : History

    Raises
    ------
    ConfigError
        Not exactly one length is given, or an argument is not valid.
    DataError
        The table has no rows.
    DeviceError
    NonFiniteError
        See `on_nonfinite`.
    RankError
        Ranks were given other rows or arguments, or one of them has ended.
    RunError
        The run folder cannot be written.
    StoppedError
        See `stop`.

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
    >>> trainer, history = gvae.training.train(model, table, epochs=100, batch_size=4, learning_rate=0.01)
    >>> trainer.steps, history.rows[-1]["train_bound"] > history.rows[0]["train_bound"]
    (100, True)
    """
    lengths = {name: x for name, x in (("epochs", epochs), ("steps", steps), ("until", until)) if x is not None}
    if len(lengths) != 1:
        got = ", ".join(f"{name}={x}" for name, x in lengths.items()) or "none of them"
        raise ConfigError(f"train: give epochs or steps or until, one of them; got {got}")
    if until is not None and not isinstance(until, Until):
        raise ConfigError(f"train: until is {until!r}, expected a training.Until")
    check_whole(batch_size=batch_size, **({} if until is not None else lengths))
    if patience is not None and until is not None:
        raise ConfigError(f"train: until has a patience, {until.patience} evaluations; got patience={patience} as well")
    if patience is not None:
        check_whole(patience=patience)
    if validation is None and (patience is not None or until is not None):
        raise ConfigError(f"train: {'patience' if until is None else 'until'} needs validation rows to look at")
    if on_nonfinite not in POLICIES:
        raise ConfigError(f"on_nonfinite is {on_nonfinite!r}; known are {', '.join(POLICIES)}")
    if len(table) == 0:
        raise DataError("train: the table has no rows")
    trainer = trainer or Trainer(model, n_rows=len(table), **settings)
    least = _check_batches(trainer, len(table), batch_size, validation)
    total = until.most if until is not None else int(steps or 0)
    if epochs is not None:
        total = epochs * batches_in(len(table), batch_size, least)
    if trainer.device != "cpu" and on_nonfinite == "skip":
        raise ConfigError("train: on_nonfinite 'skip' reads the bound of every step, which would synchronise the device")
    trainer.prepare(table)
    if trainer.optimizer.iterations and on_nonfinite != "stop":
        raise ConfigError(f"train: on_nonfinite is {on_nonfinite!r}, expected 'stop' with {trainer.optimizer}")
    table = table.to(trainer.device)
    trainer.settle(table)
    validation = None if validation is None else validation.to(trainer.device)
    loop = _Loop(trainer, table, batch_size, validation, until or patience, on_nonfinite, run, stop, callback, total)
    if until is not None and validation is not None:
        logger.info("training until the bound on %d validation rows has stopped growing: %s", len(validation), until)
    if progress:
        from tqdm import tqdm

        done = trainer.steps - loop.begin
        loop.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, desc="training", disable=None)
    trainer.numbers = table.numbers
    try:
        with device.stream(trainer.device):
            loop.run_epochs()
    finally:
        trainer.numbers = as_given
        if loop.bar is not None:
            loop.bar.close()
    return trainer, loop.history


def _check_batches(trainer: Trainer, n_rows: int, batch_size: int, validation: Table | None) -> int:
    """The fewest rows that model and objective take in a batch. ConfigError unless all but the last batch have them, and the
    validation rows; a last one of fewer rows is left out, which is an event."""
    least = least_rows(trainer.model, trainer.objective)
    size = min(batch_size, n_rows)
    if size < least:
        by_model = getattr(trainer.model, "least_rows", 1) == least
        whose = type(trainer.model if by_model else trainer.objective).__name__
        raise ConfigError(
            f"train: batches have {size} {'row' if size == 1 else 'rows'} (batch_size is {batch_size}, of {n_rows} rows), "
            f"but in a step of {whose} the rows of a batch depend on each other, and it takes {least} or more: give "
            "larger batches"
        )
    if trainer.optimizer.iterations and size < n_rows:
        raise ConfigError(
            f"train: a step of {trainer.optimizer} is on all rows, but batches have {size} of {n_rows} (batch_size is "
            f"{batch_size}): give batch_size={n_rows}, or None in an estimator"
        )
    scored = least_rows(None if getattr(trainer.model, "has_bound", True) else trainer.model, trainer.objective)
    if validation is not None and len(validation) < scored:
        raise ConfigError(f"train: there are {len(validation)} validation rows, expected {scored} or more, as in a batch")
    if 0 < (rest := n_rows % batch_size) < least:
        event = {"event": "last batch left out", "rows": rest, "least": least}
        if event not in trainer.events:
            trainer.events.append(event)
        logger.info("training: the last %d of %d rows of each epoch, in an order of its own, are left out", rest, n_rows)
    return least


@dataclass
class _Loop:
    trainer: Trainer
    table: Table
    batch_size: int
    validation: Table | None
    until: Until | int | None  # int: the patience, in epochs
    on_nonfinite: str
    run: RunFolder | None
    stop: Callable[[], bool] | None
    callback: Callable[[dict[str, Any]], Any] | None
    total: int  # steps
    bar: Any = None

    def __post_init__(self) -> None:
        self.ranks = self.trainer.communicator
        begin = 0 if self.run is not None and self.run.reopened else self.trainer.steps
        logged = ([], []) if self.run is None else (list(self.run.rows), list(self.run.events))
        self.begin, (rows, events) = self.ranks.first((begin, logged))
        self.end = self.begin + self.total  # the step before which training ends
        self.history = History(rows, events)
        self.reported = rows[-1]["step"] if rows else self.trainer.steps - self.trainer.epoch.batches  # the last row's step
        self.listen(True)

    def listen(self, listens: bool) -> None:
        """Whether steps in shards ask `stop`."""
        if self.trainer.shards is not None:
            self.trainer.shards.ask = self.stop if listens and self.stop is not None else lambda: False

    def run_epochs(self) -> None:
        trainer = self.trainer
        if self.on_nonfinite == "rollback" and trainer.mark is None:
            trainer.set_mark()
        while (trainer.steps < self.end or trainer.epoch.batches) and not self.has_stopped_growing():  # or: an epoch to end
            try:
                if self.finish_epoch():
                    self.settle()
                    return
            except NonFiniteError as error:
                self.note(error)
                if self.on_nonfinite != "rollback" or trainer.rollbacks == ROLLBACKS:
                    raise
                trainer.roll_back()
                logger.warning("%s; back to step %d with %g of the learning rate", error, trainer.steps, trainer.scale)
            except (RunError, StoppedError):
                raise
            except Exception as error:  # of rows that are read only now, or of any rank: the state is that before the step
                read_now = isinstance(error, DataError) and self.table.reads_ahead
                if self.run is None or not trainer.steps or not (read_now or (self.ranks.size > 1 and is_agreed(error))):
                    raise
                self.run.save(trainer)
                error.args = (f"{error}; the run is kept at step {trainer.steps}",)
                raise
        self.remark()
        self.settle()
        if isinstance(self.until, Until):
            best, grew = trainer.stopping, not self.has_stopped_growing()
            why = "no more are allowed" if grew else f"no better bound in {best.waited} evaluations"
            logger.info("trained for %d steps: %s; kept is epoch %d, of bound %s", trainer.steps, why, best.epoch, best.best)

    def settle(self) -> None:
        """At the end of training, what a model settles is determined by all rows."""
        trainer = self.trainer
        trainer.settle(self.table, exact=True)
        if self.run is not None and modes.with_statistics(trainer.chosen):
            self.run.save(trainer)

    def remark(self) -> None:
        """Record the events that the objective reported in steps, and its remark on the last row, each once."""
        look = getattr(self.trainer.objective, "remark", None)
        event = look(self.history.rows[-1]) if look is not None and self.history.rows else None
        if event is not None and event not in self.history.events:
            logger.warning("training: %s", event)
        for each in (*self.trainer.events, *([] if event is None else [event])):
            if each not in self.history.events:
                self.history.events.append(each)
                if self.run is not None:
                    self.run.log(each)

    def has_stopped_growing(self) -> bool:
        """Whether the evaluations of the validation bound, the last of them just now, have exhausted the patience."""
        trainer, until = self.trainer, self.until
        if until is None or trainer.epoch.batches or trainer.epoch.rows:  # steps have been taken since the last evaluation
            return False
        if not isinstance(until, Until):
            return trainer.stopping.waited >= until
        return trainer.stopping.waited >= until.patience and trainer.steps >= self.begin + until.least

    def is_reported(self) -> bool:
        """Whether the epoch that ends here is reported. This depends only on its steps, so that a run can be resumed at any
        step."""
        trainer, until = self.trainer, self.until
        if not isinstance(until, Until) or trainer.steps == self.end:
            return True
        first, last = trainer.steps - trainer.epoch.batches - self.begin, trainer.steps - self.begin
        return first // until.every < last // until.every

    def finish_epoch(self) -> bool:
        """Run the epoch in progress to its end. Returns whether the callback asks for the end of training."""
        trainer = self.trainer
        if trainer.epoch.batches == trainer.epoch.rows == 0:
            trainer.epoch = Epoch()  # discards sums of steps that were taken outside of an epoch
        clock = time.perf_counter()
        with self.epoch() as steps:
            for i in range(trainer.epoch.batches, len(steps)):
                if trainer.steps == self.end:
                    break
                self.step(steps, i)
                trainer.epoch.batches += 1
                if self.bar is not None:
                    self.show()  # synchronises with a device, hence counted in the time of the steps
                trainer.epoch.seconds += time.perf_counter() - clock
                self.save_if_due()
                clock = time.perf_counter()
        return self.end_epoch()

    def epoch(self) -> Pass:
        """The steps of the epoch in progress."""
        trainer, binarize = self.trainer, random.fold_in(self.trainer.key, BINARIZE, self.trainer.epochs)
        return Pass(trainer, self.table, binarize, self.batch_size, trainer.order_of(self.table))

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
        shards = self.trainer.shards
        stopping = (self.stop is not None and self.stop()) if shards is None else shards.stopped
        if stopping:
            with self.ranks.together():
                self.save()
        elif self.run is not None and self.run.is_due():
            try:
                self.save()
            except RunError as error:
                if shards is None:
                    raise
                shards.error = error  # the next step raises it on all ranks
        if stopping:
            raise StoppedError(f"training stopped at step {self.trainer.steps}, in epoch {self.trainer.epochs + 1}")

    def save(self) -> None:
        if self.run is not None:
            self.trainer.settle(self.table)
            self.run.save(self.trainer)

    def end_epoch(self) -> bool:
        """Finish the epoch. Returns whether the callback asks for the end of training."""
        trainer = self.trainer
        if trainer.average is not None:
            trainer.average.after_epoch(trainer.parameters, trainer.epochs + 1)
        if self.is_reported():
            row, ends = self.look(), False
            with self.ranks.together():
                if self.callback is not None and self.ranks.leads:
                    ends = bool(self.callback(row))
            return self.ranks.first(ends)
        trainer.epoch.batches, trainer.epochs = 0, trainer.epochs + 1  # its sums are reported with later epochs
        return False

    def look(self) -> dict[str, Any]:
        """Evaluate, log and save: returns the row of the epochs since the last row."""
        trainer, validation = self.trainer, self.validation
        done, number = trainer.epoch, trainer.epochs + 1
        row: dict[str, Any] = {"epoch": number, "step": trainer.steps}
        clock = time.perf_counter()
        row |= {f"train_{name}": x for name, x in done.means().items()}
        done.seconds += time.perf_counter() - clock  # on a device, most of the epoch's time
        trainer.settle(self.table)
        if validation is not None:
            row |= {f"validation_{name}": x for name, x in trainer.validate(validation).items()}
        _check_epoch(trainer, row)  # before any state of this epoch is kept
        trainer.epoch, trainer.epochs = Epoch(), number
        ascended = row["train_bound" if validation is None else "validation_bound"]
        bound = row.get("train_objective" if validation is None else "validation_objective", ascended)
        trainer.schedule.observe(bound)
        if self.until is not None:
            trainer.look(bound)
        if self.on_nonfinite == "rollback":
            self.set_mark()
        row |= {"seconds": done.seconds, "steps_per_second": (trainer.steps - self.reported) / done.seconds}
        self.reported = trainer.steps
        logger.info("epoch %d: %s", number, row)
        self.history.rows.append(row)
        self.ranks.check_same("parameters", trainer.parameters.flat, advice=f" after step {trainer.steps}: {BROKEN}")
        with self.ranks.together():
            if self.run is not None:
                self.run.log(row)
                self.run.save(trainer)
        return row

    def set_mark(self) -> None:
        """Roll back to here from now on. NonFiniteError, and the mark stays, if the first step from here fails: no step has
        evaluated the last update, and a roll-back to it would only repeat that failure."""
        trainer = self.trainer
        before, rollbacks, trainer.rollbacks = trainer.mark, trainer.rollbacks, 0
        trainer.set_mark()
        if trainer.steps == self.end or self.has_stopped_growing():  # there is no next step
            return
        self.listen(False)
        try:
            with self.epoch() as steps:
                steps.step(0)
            means = {f"train_{name}": x for name, x in trainer.epoch.means().items()}
            _check_epoch(trainer, {"epoch": trainer.epochs + 1} | means)
        except NonFiniteError:
            trainer.mark, trainer.rollbacks = before, rollbacks
            raise
        except Exception:  # of rows that cannot be read: the step itself raises it
            pass
        finally:
            self.listen(True)
        assert trainer.mark is not None
        trainer.restore(trainer.mark)

    def note(self, error: NonFiniteError) -> None:
        trainer = self.trainer
        event = {"event": "not finite", "policy": self.on_nonfinite, "epoch": trainer.epochs + 1, "step": trainer.steps}
        event |= {"tensor": error.tensor, "rows": error.rows}
        self.history.events.append(event)
        if self.run is not None:
            self.run.log(event)

    def show(self) -> None:
        trainer = self.trainer
        self.bar.update(trainer.steps - self.begin - self.bar.n)
        if (self.bar.n % 50 == 0 or trainer.steps == self.end) and trainer.epoch.rows:
            bound = trainer.epoch.means()["bound"]
            said = f"bound {bound:.2f} nats" if getattr(trainer.model, "has_bound", True) else f"objective {bound:.3f}"
            self.bar.set_postfix_str(f"epoch {trainer.epochs + 1}, {said}")


def _check_epoch(trainer: Trainer, row: dict[str, float]) -> None:
    """Raise NonFiniteError for parameters or metrics that are not finite: no later step checks the last update."""
    bad = [f"parameter {name}" for name, value in trainer.parameters.items() if not np.isfinite(value).all()]
    bad += [name for name, x in row.items() if not math.isfinite(x)]
    if not bad and "train_bound" not in row:
        bad = ["the bound of every step"]
    if bad:
        what = f"{bad[0]} is not finite after step {trainer.steps} (epoch {row['epoch']})"
        of_validation = bad[0].startswith("validation") and math.isfinite(row.get("train_bound", math.nan))
        outside = (
            "; so does leaving out a validation row that lies far outside of the training rows" if of_validation else ""
        )
        raise NonFiniteError(f"training: {what}; {ADVICE}{outside}", bad[0], trainer.steps)
