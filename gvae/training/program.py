"""The execution of steps: in Python, or by a program recorded while Python executes a step.

A program replaces work on arrays of one set of shapes. It is recorded while Python does the work for the first time, its
result is compared bit for bit with Python's on the second call, with other values, and it is used from then on. Work that
cannot be captured stays in Python, with a reason in `why_not`; if a launch raises, Python does the work. A last batch of
another size has a program of its own; replaced arrays get a new one.

On a CPU the work is the value and gradient of a batch, and its program a list of launches (gvae.runtime.launches). On a
device it is a whole step, `Trainer.step`, after the choice of its rows, and its program a CUDA graph: the quantities that
differ from step to step (see `StepInputs`) are uploaded at the beginning of a pass over the data, and every launch reads the
next record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random
from gvae.data import Batch, Table
from gvae.data.rows import Order
from gvae.objectives import Objective
from gvae.protocol import Model
from gvae.runtime import device, launches
from gvae.runtime.context import entered
from gvae.runtime.device import to_device
from gvae.structures import leaves_of, mapped
from gvae.training.inputs import records, uploaded
from gvae.typing import Key, Params

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["CudaGraph", "Launches", "Pass", "Programs", "Python", "batches_in", "least_rows"]

MOST = 8  # programs of one trainer: each is a list of launches and the arrays that they refer to

# work(params, out, inputs) -> result: structures of arrays. `params` are read and `out` is written in the same arrays in
# every call; `inputs` are other arrays in each call, of the same shapes
Work = Callable[[Any, Any, Any], Any]

logger = logging.getLogger(__name__)


class Python:
    """Work without a program.   why_not : the reason"""

    verified = False

    def __init__(self, why_not: str):
        self.why_not = why_not
        logger.info("steps are taken by Python: %s", why_not)


class Launches:
    """Work as a list of launches, recorded while Python does it, with its own arrays for the inputs.

    verified : whether its result was equal to Python's, bit for bit
    """

    why_not = ""

    def __init__(self, work: Work, params: Params, out: Any, inputs: Any, workspace: launches.Workspace):
        self.places = leaves_of((params, out))
        self.inputs = mapped(np.copy, inputs)
        self.verified = False

        def run(traced: Callable[[np.ndarray], Any]) -> Any:
            return work(*(mapped(traced, part) for part in (params, out, self.inputs)))

        self.graph = launches.Graph(run, workspace)
        self.arguments = [self.graph.argument(array) for array in leaves_of(self.inputs)]

    @property
    def result(self) -> Any:
        """The result of the last call, in arrays that no later call writes to."""
        return mapped(np.copy, self.graph.result)

    def fits(self, params: Params, out: Any) -> bool:
        """Whether these are the arrays that the launches read and write."""
        places = leaves_of((params, out))
        return len(places) == len(self.places) and all(a is b for a, b in zip(places, self.places, strict=True))

    def __call__(self, inputs: Any) -> Any:
        for argument, given in zip(self.arguments, leaves_of(inputs), strict=True):
            argument.put(given)
        self.graph.launch()
        return self.result


class Programs:
    """Programs of one piece of work on a CPU, by the shapes of its inputs.

    It holds no reference to the owner of the work, so that both are freed when neither is used. A copy is empty.
    """

    def __init__(self) -> None:
        self.known: dict[Any, Launches | Python] = {}
        self.workspace = launches.Workspace()

    def __reduce__(self) -> tuple:
        return Programs, ()

    def __call__(self, work: Work, params: Params, out: Any, inputs: Any) -> Any:
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
        except Exception:  # Python raises it again if its cause is not in the launches
            del self.known[key]
            return work(params, out, inputs)

    def _first(self, key: tuple[Any, ...] | None, work: Work, params: Params, out: Any, inputs: Any) -> Any:
        """Call the work in Python and capture it."""
        try:
            program = self.known[key] = Launches(work, params, out, inputs, self.workspace)
            return program.result
        except MemoryError:
            self.known.pop(key, None)
            raise
        except Exception as error:  # Python raises it again if its cause is not in the capture
            self.known[key] = Python(f"{type(error).__name__}: {error}")
            return work(params, out, inputs)

    def _second(
        self, key: tuple[Any, ...] | None, program: Launches, work: Work, params: Params, out: Any, inputs: Any
    ) -> Any:
        """Do the work in Python and by launches, and compare the results bit for bit."""
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


def least_rows(model: Model | None, objective: Objective | None) -> int:
    """The fewest rows that a batch may have, for the model and for the objective."""
    return max(getattr(model, "least_rows", 1), getattr(objective, "least_rows", 1))


def batches_in(n_rows: int, batch_size: int, least_rows: int = 1) -> int:
    """The number of batches of a pass over the rows, without a last batch of fewer than `least_rows` rows."""
    full, rest = divmod(n_rows, batch_size)
    return full + (rest >= least_rows and rest > 0)


class Pass:
    """The steps of one pass over a table in `order`; each batch's binarization has its own key.

    `step(i)` takes the step on batch i, and adds its rows to the epoch. Columns that are not in memory are read window by
    window, in advance, if the order is one of windows; the pass is then to be closed.
    """

    def __init__(self, trainer: Trainer, table: Table, key: Key, batch_size: int, order: np.ndarray | Order):
        self.trainer, self.table, self.key, self.batch_size, self.order = trainer, table, key, batch_size, order
        self.reader = table.reader(order) if isinstance(order, Order) else None
        self.graph: CudaGraph | None = None  # the trainer's, while it executes the steps of this pass

    def __enter__(self) -> Pass:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.reader is not None:
            self.reader.close()

    def __len__(self) -> int:
        return batches_in(len(self.order), self.batch_size, least_rows(self.trainer.model, self.trainer.objective))

    @cached_property
    def there(self) -> Any:
        """The order, on the device of the table."""
        assert isinstance(self.order, np.ndarray)
        return to_device(self.order, self.trainer.device)

    def step(self, i: int) -> None:
        """Raises as Trainer.step."""
        trainer, begin, end = self.trainer, i * self.batch_size, min((i + 1) * self.batch_size, len(self.order))
        n = end - begin
        try:
            if trainer.shards is not None:
                trainer.step(trainer.shards.cut(n, partial(self._part, i)))
            elif self.reader is not None:
                trainer.step(self.table.presented(*self.reader.take(begin, end), random.fold_in(self.key, i)))
            elif not (trainer.device != "cpu" and n == self.batch_size and self._launched(i)):
                self.graph = None  # it is restarted after this step
                trainer.step(self.table.batch(self.there[begin:end], random.fold_in(self.key, i)))
        except MemoryError:
            trainer.graph = self.graph = None  # frees its memory
            raise
        except BaseException:
            self.graph = None  # it is restarted with the next step
            raise
        trainer.epoch.rows += n

    def _part(self, i: int, s: int, begin: int, end: int) -> Batch:
        """The rows of shard s of batch i."""
        first, key = i * self.batch_size, random.fold_in(random.fold_in(self.key, i), s)
        if self.reader is not None:
            return self.table.presented(*self.reader.take(first + begin, first + end), key)
        return self.table.batch(self.there[first + begin : first + end], key)

    def _launched(self, i: int) -> bool:
        """Take step i by the trainer's graph. Returns whether that was possible."""
        trainer, graph = self.trainer, self.trainer.graph
        if graph is None or not graph.is_for(self.table, self.batch_size):
            if trainer.why_not or not trainer.reported:  # the first step runs in Python
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

    graph   : the step as a CUDA graph, once it has been captured        why_not : the reason for which there is none
    refused : whether the step needs the host, for instance to draw there; Python then takes it, with inputs on the host
    The first step runs in Python, in the graph's memory; the second is captured, and executed both in Python and by the
    graph, whose results are compared bit for bit; from then on the graph is launched. If the step cannot be captured, Python
    executes it, with inputs from the records. The graph belongs to one trainer, and holds no reference to it, so that both
    are freed when neither is used.
    """

    def __init__(self, trainer: Trainer, table: Table, batch_size: int):
        self.table, self.columns, self.batch_size = table, dict(table.columns), batch_size
        self.workspace = device.graphs().Workspace()
        self.graph: Any = None
        self.why_not = ""
        self.warm, self.verified, self.refused = False, False, False  # warm: a step has run on this stream, in this pool
        xp = device.module(trainer.device)
        self.now, self.row = uploaded(trainer, batch_size)  # the current step's record, and its memory
        self.rows = xp.empty((len(table) // batch_size, self.row.shape[1]), np.uint32)  # the records of a pass
        self.position = xp.zeros(1, np.int64)  # the position of the next record
        names = dict.fromkeys(
            (*trainer.reported, *trainer.epoch.sums)
        )  # with the sum of the rows' weights, if they have any
        self.sums = {name: xp.zeros((), np.float64) for name in names}

    def is_for(self, table: Table, batch_size: int) -> bool:
        same = self.table is table and all(table.columns[name] is column for name, column in self.columns.items())
        return same and self.batch_size == batch_size

    def begin(self, trainer: Trainer, order: np.ndarray, key: Key, first: int) -> None:
        """Upload the records of a pass; the next step is that of batch `first`."""
        self.host = records(trainer, len(self.rows), first, order, key, self.batch_size)  # referenced during the upload
        self.rows.set(self.host.view(np.uint32).reshape(self.rows.shape))
        self.position.fill(first)
        for name, total in self.sums.items():
            total[...] = trainer.epoch.sums.get(name, 0.0)
            trainer.epoch.sums[name] = total

    def step(self, trainer: Trainer) -> bool:
        """Take the next step. Returns whether it was taken."""
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
            trainer.steps = number  # Python has incremented it, in a capture as well
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
        """The launches of a step; they read its number from the device."""
        self.rows.take(self.position, axis=0, out=self.row)
        self.position += 1
        trainer.step(self.table.batch(self.now.index, self.now.data), self.now)

    def _capture(self, trainer: Trainer) -> None:
        try:
            self.graph = device.graphs().Graph(lambda: self._run(trainer), self.workspace)
        except Exception as error:  # Python raises it again if its cause is not in the capture
            self._give_up(f"{type(error).__name__}: {error}")

    def _verify(self, trainer: Trainer) -> None:
        """Take a step in Python and by the graph, and compare the results bit for bit."""
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
    """A key of the names, shapes and dtypes of inputs; None if something is not a dense array on the CPU."""
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
    """Whether two structures of arrays are equal bit for bit."""
    pairs = zip(leaves_of(expected), leaves_of(got), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)
