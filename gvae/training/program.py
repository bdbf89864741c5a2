"""How steps are executed: by Python, or by a program made of what Python did.

A program stands for work on arrays of one set of shapes. It is made while Python does the work for the first time, is
compared once with Python's bits, at other numbers, and is used from then on. What cannot be captured stays Python, and says
why; a launch that raises is taken by Python; a ragged last batch has a program of its own, replaced arrays have a new one.

On a CPU the work is the value and gradient of a batch, and its program a list of launches (gvae.runtime.launches). On a
device it is a whole step, `Trainer.step`, after the choice of its rows, and its program a CUDA graph: what differs from step
to step (see `StepInputs`) is uploaded when a pass over the data begins, and every launch takes the next record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random
from gvae.data import Table
from gvae.runtime import device, launches
from gvae.runtime.context import entered
from gvae.structures import leaves_of, mapped
from gvae.training.inputs import records, uploaded

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["CudaGraph", "Launches", "Pass", "Programs", "Python"]

MOST = 8  # programs of one trainer: each is a list of launches and the arrays that they know

# work(params, out, inputs) -> result: structures of arrays. `params` are read and `out` is written where they are, every
# time; `inputs` are other arrays each time, of the same shapes
Work = Callable[[Any, Any, Any], Any]

logger = logging.getLogger(__name__)


class Python:
    """The work as it is.   why_not : why there is no program for it"""

    verified = False

    def __init__(self, why_not: str):
        self.why_not = why_not
        logger.info("steps are taken by Python: %s", why_not)


class Launches:
    """The work as a list of launches, made while Python does it, over arrays of its own for the inputs.

    verified : whether it has given Python's bits
    """

    why_not = ""

    def __init__(self, work: Work, params: Any, out: Any, inputs: Any, workspace: launches.Workspace):
        self.places = leaves_of((params, out))
        self.inputs = mapped(np.copy, inputs)
        self.verified = False

        def run(traced: Callable[[np.ndarray], Any]) -> Any:
            return work(*(mapped(traced, part) for part in (params, out, self.inputs)))

        self.graph = launches.Graph(run, workspace)
        self.arguments = [self.graph.argument(array) for array in leaves_of(self.inputs)]

    @property
    def result(self) -> Any:
        """Of the last call, in arrays that no later call writes to."""
        return mapped(np.copy, self.graph.result)

    def fits(self, params: Any, out: Any) -> bool:
        """Whether these are the arrays that it reads and writes."""
        places = leaves_of((params, out))
        return len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))

    def __call__(self, inputs: Any) -> Any:
        for argument, given in zip(self.arguments, leaves_of(inputs), strict=True):
            argument.put(given)
        self.graph.launch()
        return self.result


class Programs:
    """Programs of one piece of work on a CPU, by the shapes of its inputs.

    It keeps nothing of the work's owner, so that both are freed when neither is used; a copy begins anew.
    """

    def __init__(self) -> None:
        self.known: dict[Any, Launches | Python] = {}
        self.workspace = launches.Workspace()

    def __reduce__(self) -> tuple:
        return Programs, ()

    def __call__(self, work: Work, params: Any, out: Any, inputs: Any) -> Any:
        """work(params, out, inputs). Raises what that raises, and MemoryError."""
        key = _shapes(inputs)
        program = self.known.get(key)
        if isinstance(program, Launches) and not program.fits(params, out):
            program = None
        if program is None and key is not None and (key in self.known or len(self.known) < MOST):
            return self._first(key, work, params, out, inputs)
        if not isinstance(program, Launches):
            return work(params, out, inputs)
        if not program.verified:
            return self._second(key, program, work, params, out, inputs)
        try:
            return program(inputs)
        except MemoryError:
            raise
        except Exception:  # Python shows it if it has other causes than the launches
            del self.known[key]
            return work(params, out, inputs)

    def _first(self, key: Any, work: Work, params: Any, out: Any, inputs: Any) -> Any:
        """By Python, which is captured."""
        try:
            program = self.known[key] = Launches(work, params, out, inputs, self.workspace)
            return program.result
        except MemoryError:
            self.known.pop(key, None)
            raise
        except Exception as error:  # Python shows it if it has other causes than the capture
            self.known[key] = Python(f"{type(error).__name__}: {error}")
            return work(params, out, inputs)

    def _second(self, key: Any, program: Launches, work: Work, params: Any, out: Any, inputs: Any) -> Any:
        """By Python and by launches, whose bits are compared."""
        with entered(pool=self.workspace):
            expected = mapped(np.copy, (work(params, out, inputs), out))
        try:
            program.verified = _same(expected, (program(inputs), out))
            why_not = "" if program.verified else "its launches give other numbers"
        except MemoryError:
            raise
        except Exception as error:
            why_not = f"{type(error).__name__}: {error}"
        if why_not:
            self.known[key] = Python(why_not)
            for array, wanted in zip(leaves_of(out), leaves_of(expected[1]), strict=True):
                array[...] = wanted
        return expected[0]


class Pass:
    """The steps of one pass over a table in `order`; each batch's binarization has a key of its own.

    `step(i)` is the step on batch i, and counts its rows in the epoch.
    """

    def __init__(self, trainer: Trainer, table: Table, key: np.ndarray, batch_size: int, order: np.ndarray):
        self.trainer, self.table, self.key, self.batch_size, self.order = trainer, table, key, batch_size, order
        self.graph: CudaGraph | None = None  # the trainer's, while it takes the steps of this pass

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    @cached_property
    def there(self) -> Any:
        """The order, where the table is."""
        return device.beside(self.order, self.table.columns["x"])

    def step(self, i: int) -> None:
        """Raises as Trainer.step."""
        trainer, rows = self.trainer, slice(i * self.batch_size, (i + 1) * self.batch_size)
        n = len(self.order[rows])
        try:
            if not (trainer.device != "cpu" and n == self.batch_size and self._launched(i)):
                self.graph = None  # it begins anew after this
                trainer.step(self.table.batch(self.there[rows], random.fold_in(self.key, i)))
        except MemoryError:
            trainer.graph = self.graph = None  # with the memory that it keeps
            raise
        except BaseException:
            self.graph = None  # it begins anew with the next step
            raise
        trainer.epoch.rows += n

    def _launched(self, i: int) -> bool:
        """Whether the trainer's graph has taken step i."""
        trainer, graph = self.trainer, self.trainer.graph
        if graph is None or not graph.is_for(self.table, self.batch_size):
            if trainer.why_not or not trainer.reported:  # the first step is Python's
                return False
            self.graph, trainer.graph = None, CudaGraph(trainer, self.table, self.batch_size)
            graph = trainer.graph
        if graph.refused:
            return False
        if self.graph is None:
            graph.begin(trainer, self.order, self.key, i)
            self.graph = graph
        return graph.step(trainer)


class CudaGraph:
    """Steps of a trainer on full batches of a table, from records on the device.

    graph   : the step as a CUDA graph, once it has been captured        why_not : why there is none
    refused : whether the step needs something on the host, as to draw there; Python takes it then, from the host's numbers
    The first step runs as Python, in the graph's memory; the second is captured, and taken both ways, whose bits are
    compared; from then on the graph is launched. Where it cannot be captured, Python takes the steps from the records.
    It belongs to the trainer it was made for, and holds no reference to it, so that both are freed when neither is used.
    """

    def __init__(self, trainer: Trainer, table: Table, batch_size: int):
        self.table, self.columns, self.batch_size = table, dict(table.columns), batch_size
        self.workspace = device.graphs().Workspace()
        self.graph: Any = None
        self.why_not = ""
        self.warm, self.verified, self.refused = False, False, False  # warm: a step has run on this stream, in this memory
        xp = device.module(trainer.device)
        self.now, self.row = uploaded(trainer, batch_size)  # the record of the step under way, and the words it lies in
        self.rows = xp.empty((len(table) // batch_size, self.row.shape[1]), np.uint32)  # of a pass
        self.position = xp.zeros(1, np.int64)  # of the next one
        self.sums = {name: xp.zeros((), np.float64) for name in trainer.reported}

    def is_for(self, table: Table, batch_size: int) -> bool:
        same = self.table is table and all(table.columns[name] is column for name, column in self.columns.items())
        return same and self.batch_size == batch_size

    def begin(self, trainer: Trainer, order: np.ndarray, key: np.ndarray, first: int) -> None:
        """The next step is that of batch `first` of a pass."""
        self.host = records(trainer, len(self.rows), first, order, key, self.batch_size)  # kept while it is uploaded
        self.rows.set(self.host.view(np.uint32).reshape(self.rows.shape))
        self.position.fill(first)
        for name, total in self.sums.items():
            total[...] = trainer.epoch.sums.get(name, 0.0)
            trainer.epoch.sums[name] = total

    def step(self, trainer: Trainer) -> bool:
        """The next one. Returns whether it was taken."""
        number = trainer.steps
        try:
            if self.graph is None and self.warm and not self.why_not:
                self._capture(trainer)
            if self.graph is None:
                self._python(trainer)
            elif self.verified:
                self.graph.launch()
            else:
                self._verify(trainer)
        finally:
            trainer.steps = number  # Python has counted, in a capture as well
        trainer.steps += not self.refused
        return not self.refused

    def _python(self, trainer: Trainer) -> None:
        try:
            with self.workspace.used():
                self._run(trainer)
        except MemoryError:
            raise
        except Exception as error:
            if self.warm:
                raise
            self.refused = True
            self._give_up(f"{type(error).__name__}: {error}")
        self.warm = True

    def _run(self, trainer: Trainer) -> None:
        """The launches of a step, whichever it is."""
        self.rows.take(self.position, axis=0, out=self.row)
        self.position += 1
        trainer.step(self.table.batch(self.now.index, self.now.data), self.now)

    def _capture(self, trainer: Trainer) -> None:
        try:
            self.graph = device.graphs().Graph(lambda: self._run(trainer), self.workspace)
        except Exception as error:  # Python shows it if it has other causes than the capture
            self._give_up(f"{type(error).__name__}: {error}")

    def _verify(self, trainer: Trainer) -> None:
        """A step by Python and by the graph, whose bits are compared."""
        arrays = [array for array in trainer.snapshot()[0].values() if device.is_cuda(array)]
        arrays += [self.position, *self.sums.values()]
        before, after = ([array.copy() for array in arrays] for _ in range(2))
        with self.workspace.used():
            self._run(trainer)
        for array, was, then in zip(arrays, before, after, strict=True):
            then[...] = array
            array[...] = was
        self.graph.launch()
        self.verified = all(
            device.to_host(a).tobytes() == device.to_host(b).tobytes() for a, b in zip(arrays, after, strict=True)
        )
        if not self.verified:
            for array, then in zip(arrays, after, strict=True):
                array[...] = then
            self.graph = None
            self._give_up("its graph gives other numbers")

    def _give_up(self, why_not: str) -> None:
        self.why_not = why_not
        logger.info("steps are taken by Python: %s", why_not)


def _shapes(inputs: Any) -> tuple | None:
    """What tells inputs apart that differ in more than values; None if something is not a dense array on the CPU."""
    kinds: list[Any] = []
    for name, part in inputs.items():
        if isinstance(part, dict):
            inner = _shapes(part)
            if inner is None:
                return None
            kinds.append((name, inner))
        elif part is None:
            kinds.append(name)
        elif type(part) is np.ndarray:
            kinds.append((name, part.shape, part.dtype))
        else:
            return None
    return tuple(kinds)


def _same(expected: Any, got: Any) -> bool:
    """Whether two structures of arrays have the same bits."""
    pairs = zip(leaves_of(expected), leaves_of(got), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
