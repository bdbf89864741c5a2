"""The steps of one pass over a table; on a device as launches that are the same in every step.

What makes a step differ from the one before is a row of numbers: which rows of the table, the keys of its draws, its own
number, Adam's rates. `Feed` computes the rows of a pass beforehand, uploads them together, and a step takes the next one:
from then on the launches of a step are always the same, with the same arguments, so that a CUDA graph of them can stand for
the step. It is one list all the way: run for the first time, captured, launched as a graph, or, where a graph is not
possible, run again and again; with the same bits, over memory that is used again.
"""

from __future__ import annotations

import contextlib
import logging
from functools import cached_property
from typing import Any

import numpy as np

from gvae import dispatch, random
from gvae.data import Table
from gvae.training.trainer import NOISE, Trainer

STEP = Trainer.step  # one that somebody has put in its place is called, and not seen through

logger = logging.getLogger(__name__)


class Pass:
    """The batches of a table in `order`; each one's binarization has a key of its own. `step(i)` is the step on batch i, and
    adds to the epoch's sums."""

    def __init__(self, trainer: Trainer, table: Table, key: np.ndarray, batch_size: int, order: np.ndarray):
        self.trainer, self.table, self.key, self.batch_size, self.order = trainer, table, key, batch_size, order
        self.fed = False  # this pass, by the trainer's feed

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    @cached_property
    def there(self) -> Any:
        """The order, where the table is."""
        return dispatch.beside(self.order, self.table.columns["x"])

    def step(self, i: int) -> None:
        """Raises as Trainer.step."""
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        try:
            self.fed = self._fed(i)  # False after an error, too: the feed begins anew then
            if not self.fed:
                self._step(i)
        except MemoryError:
            self.trainer.feed, self.fed = None, False  # with the memory that it keeps
            raise
        self.trainer.epoch.rows += len(rows)

    def _step(self, i: int) -> None:
        trainer, rows = self.trainer, slice(i * self.batch_size, (i + 1) * self.batch_size)
        own = type(trainer).step is not STEP  # which keeps the pace by itself
        with contextlib.nullcontext() if own else trainer.pace:
            batch, sums = self.table.batch(self.there[rows], random.fold_in(self.key, i)), trainer.epoch.sums
            metrics, update = (trainer.step(batch), None) if own else trainer.prepare(batch)
            added = {name: sums.get(name, 0.0) + np.float64(len(batch)) * x for name, x in metrics.items()}
            if update is not None:
                update()
            sums.update(added)

    def _fed(self, i: int) -> bool:
        """Step i by the trainer's feed, if that is possible: it is for full batches, from the second replayed step on."""
        trainer, feed, fed = self.trainer, self.trainer.feed, self.fed
        self.fed = False
        if trainer.device == "cpu" or (i + 1) * self.batch_size > len(self.order):
            return False
        if feed is None or not feed.is_for(self.table, self.batch_size):
            if trainer.replays is None or not trainer.replays.replayed or type(trainer).step is not STEP:
                return False
            trainer.feed = feed = Feed(trainer, self.table, self.batch_size)
        if feed.refused:
            return False
        if not fed:
            feed.begin(trainer, self.order, self.key, i)
        feed.step(trainer)
        return not feed.refused


class Feed:
    """A trainer's steps on full batches of a table, from rows of numbers on the device.

    graph   : the step as a CUDA graph, once it has been captured        why_not : why there is none
    refused : whether the model does what a step from such rows cannot do, as draw on the host; it is not taken then
    It belongs to the trainer it was made for, and holds no reference to it, so that both go when nobody needs them.
    """

    def __init__(self, trainer: Trainer, table: Table, batch_size: int):
        self.table, self.columns, self.batch_size = table, dict(table.columns), batch_size
        self.workspace = dispatch.graphs().Workspace()
        self.graph: Any = None
        self.why_not = "" if trainer.graphs else "graphs=False"
        self.warm, self.refused = False, False  # warm: a step has been run, on this stream and in this workspace
        dtype = trainer.parameters.flat.dtype
        fields: list[Any] = [("index", np.int64, (batch_size,)), ("data", np.uint32, (4,)), ("noise", np.uint32, (4,))]
        fields += [("step", dtype), ("weight", dtype), ("adam", dtype, (len(trainer.optimizer.numbers(1.0, 1)),))]
        self.layout = np.dtype(fields, align=True)
        xp, words = dispatch.module(trainer.device), self.layout.itemsize // 4
        self.rows = xp.empty((len(table) // batch_size, words), np.uint32)  # of a pass
        self.row, self.position = xp.empty((1, words), np.uint32), xp.zeros(1, np.int64)  # the one that is taken, the next
        self.now: dict[str, Any] = {}  # the entries of `row`
        entries: Any = self.layout.fields
        for name, (kind, offset) in entries.items():
            self.now[name] = xp.ndarray(kind.shape, kind.base, self.row.data + offset)
        self.sums = {name: xp.zeros((), np.float64) for name in trainer.reported}

    def is_for(self, table: Table, batch_size: int) -> bool:
        same = self.table is table and all(table.columns[name] is column for name, column in self.columns.items())
        return same and self.batch_size == batch_size

    def begin(self, trainer: Trainer, order: np.ndarray, key: np.ndarray, first: int) -> None:
        """The next step is that of batch `first` of a pass."""
        B, n = self.batch_size, len(self.rows)
        table = self.host = np.zeros(n, self.layout)  # kept while it is uploaded
        table["index"] = order[: n * B].reshape(n, B)
        table["data"] = random.fold_in_each(key, 0, n)
        coming = table[first:]
        coming["noise"] = random.fold_in_each(random.fold_in(trainer.key, NOISE), trainer.steps, len(coming))
        coming["step"] = trainer.steps + np.arange(len(coming))
        coming["adam"] = [
            trainer.optimizer.numbers(trainer.rate(trainer.steps + j), trainer.optimizer.step + j + 1)
            for j in range(len(coming))
        ]
        if trainer.average is not None:
            coming["weight"] = [trainer.average.weight(trainer.average.count + j) or 0.0 for j in range(len(coming))]
        self.rows.set(table.view(np.uint32).reshape(self.rows.shape))
        self.position.fill(first)
        for name, total in self.sums.items():
            total[...] = trainer.epoch.sums.get(name, 0.0)
            trainer.epoch.sums[name] = total

    def step(self, trainer: Trainer) -> None:
        """The next one."""
        if self.graph is None and self.warm and not self.why_not:
            self._capture(trainer)
        if self.graph is not None:
            self.graph.launch()
        else:
            try:
                with self.workspace.used():
                    self._run(trainer)
            except MemoryError:
                raise
            except Exception as error:
                if self.warm:
                    raise
                self._give_up(error)
                self.refused = True
                return
            self.warm = True
        trainer.optimizer.learning_rate = trainer.rate(trainer.steps)
        trainer.steps += 1
        trainer.optimizer.step += 1
        if trainer.average is not None and trainer.average.weight(trainer.average.count) is not None:
            trainer.average.count += 1

    def _run(self, trainer: Trainer) -> None:
        """The launches of a step, whichever it is."""
        now = self.now
        self.rows.take(self.position, axis=0, out=self.row)
        self.position += 1
        batch = self.table.batch(now["index"], now["data"])
        metrics, update = trainer.prepare(batch, now)
        added = {name: np.float64(self.batch_size) * x for name, x in metrics.items()}
        update()
        for name, x in added.items():
            self.sums[name] += x

    def _capture(self, trainer: Trainer) -> None:
        try:
            self.graph = dispatch.graphs().Graph(lambda: self._run(trainer), self.workspace)
        except Exception as error:  # if it has other causes than the capture, it shows without
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.why_not = f"{type(error).__name__}: {error}"
        logger.info("steps are launched one kernel after the other, for they cannot be captured: %s", self.why_not)
