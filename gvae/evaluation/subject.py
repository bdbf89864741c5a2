"""What is evaluated: a model with parameters, and rows. Every measure is a pass over the rows in batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gvae import blas, random
from gvae.data import Batch, Table
from gvae.distributions import Distribution
from gvae.errors import ConfigError, DataError
from gvae.evaluation.partial import Partial, fingerprint
from gvae.objectives import Terms
from gvae.runtime import pool
from gvae.training import infer

__all__ = ["Subject", "dense", "view_of_x", "whole"]

# what the key is folded with, once per use, for ever: streams of different purpose never meet
BINARIZE, IMPORTANCE, ANNEALED, SIMULATED, CURVE, CODES, SURGERY, GAPS, RECONSTRUCTION, INFERENCE = range(10)
CLASSIFICATION, INFORMATION, GIBBS = range(10, 13)


class Subject:
    """A model, its parameters and the rows of a table.

    key        : the table's binarization (if dynamic: one fixed draw) and all noise follow from it
    state      : the model's state (running statistics), if it has one: that of training, `Trainer.chosen_state`
    batch_size : rows at once; it decides which row gets which noise
    progress   : show a bar per measure
    partial    : keeps results on their way; see gvae.evaluation.partial
    rows       : per-datum parameters (N, ..) by name, where the model has such: inferred for these rows, see training.infer
    Raises DataError for a table without rows, ConfigError for parameters or a state that are not this model's.
    """

    def __init__(
        self,
        model: Any,
        parameters: Mapping[str, np.ndarray],
        table: Table,
        *,
        key: np.ndarray | None = None,
        state: Mapping[str, np.ndarray] | None = None,
        batch_size: int = 100,
        progress: bool = False,
        partial: Partial | None = None,
    ):
        self.model, self.parameters, self.table = model, dict(parameters), table
        self.key = random.key(0) if key is None else key
        self.state, self.batch_size = dict(state or {}), whole("batch_size", batch_size)
        self.progress, self.partial = progress, partial
        if len(table) == 0:
            raise DataError("evaluate: the table has no rows")
        _check("parameters are", self.parameters, model.init(random.key(0)))
        _check("state is", self.state, model.init_state(random.key(0)) if hasattr(model, "init_state") else {})
        self.rows: dict[str, np.ndarray] = {}
        if hasattr(model, "init_rows"):
            self.rows = self.each("inference", self._infer, settings={})

    def _infer(self, i: int, batch: Batch) -> dict[str, np.ndarray]:
        return infer(self.model, self.parameters, self.state, batch, random.fold_in(self.key, INFERENCE))

    def own(self, batch: Batch) -> dict[str, np.ndarray]:
        """The per-datum parameters of a batch's rows, which have been inferred."""
        return {name: values[batch.index] for name, values in self.rows.items()}

    def terms(self, batch: Batch, noise: Mapping[str, Any], instead: Mapping[str, Any] | None = None) -> Any:
        """What the model says about a batch, which it scores; `instead` goes before the parameters of the same names."""
        pool.check_stop()
        parameters = self.parameters | self.own(batch) | dict(instead or {})
        return self.model.terms(parameters, self.state, batch, noise, None)

    def optional(self, method: str, measure: str) -> Callable:
        """An optional method of the model; ConfigError if it has none."""
        if not hasattr(self.model, method):
            raise ConfigError(f"{measure}: {type(self.model).__name__} has no method `{method}`, see gvae.models")
        return getattr(self.model, method)

    def on(self, table: Table) -> Subject:
        """The same model with other rows."""
        settings = {name: getattr(self, name) for name in ("key", "state", "batch_size", "progress", "partial")}
        return Subject(self.model, self.parameters, table, **settings)

    def each(
        self,
        measure: str,
        compute: Callable[[int, Batch], Mapping[str, np.ndarray]],
        *,
        settings: Mapping[str, Any],
        rows: int | None = None,
        kept: bool = True,
        at_once: int = 1,
    ) -> dict[str, np.ndarray]:
        """Columns over the first `rows` rows (None: all): compute(i, batch) gives those of batch i.

        settings : what decides the numbers, beside the subject; a pass that was interrupted goes on only with the same
        kept     : whether the columns go into `partial`
        at_once  : how many batches threads compute at the same time, if there are so many threads
        """

        def one(task: tuple[int, Batch]) -> Mapping[str, np.ndarray]:
            try:
                with blas.inherited():
                    return compute(*task)
            except NotImplementedError as error:
                raise ConfigError(f"{measure}: {type(self.model).__name__} lacks what it needs, {_where(error)}") from error

        n = len(self.table) if rows is None else min(whole("rows", rows), len(self.table))
        partial = self.partial if kept else None
        columns: dict[str, list[np.ndarray]] = {}
        done = 0
        if partial is not None:
            begun = partial.begun(measure, self._fingerprint(partial, measure, settings, n))
            columns = {name: [values] for name, values in begun.items()}
            done = min((len(values) for values in begun.values()), default=0)
        bar = None
        if self.progress:
            from tqdm import tqdm

            bar = tqdm(total=n, initial=done, unit="row", dynamic_ncols=True, desc=measure, disable=None)
        batches = enumerate(self.table.batches(random.fold_in(self.key, BINARIZE), self.batch_size, np.arange(n)))
        tasks = ((i, batch) for i, batch in batches if int(batch.index[-1]) >= done)
        try:
            while group := list(itertools.islice(tasks, at_once)):
                for (_, batch), found in zip(group, pool.each(one, group), strict=True):
                    for name, values in found.items():
                        columns.setdefault(name, []).append(values)
                    if bar is not None:
                        bar.update(len(batch))
                if partial is not None:
                    partial.keep(measure, _joined(columns))
        except BaseException:
            if partial is not None and columns:
                whole_batches = min(map(len, columns.values()))
                partial.keep(measure, _joined({name: parts[:whole_batches] for name, parts in columns.items()}), now=True)
            raise
        finally:
            if bar is not None:
                bar.close()
        return _joined(columns)

    def _fingerprint(self, partial: Partial, measure: str, settings: Mapping[str, Any], rows: int) -> str:
        from gvae import __version__

        table = {"columns": self.table.columns, "binarize": self.table.binarize}
        what = {"model": type(self.model).__qualname__, "parameters": self.parameters, "state": self.state}
        how = {"key": self.key, "rows": rows, "batch_size": self.batch_size, "gvae": __version__}
        return fingerprint(measure=measure, about=partial.about, settings=settings, **what, **how, **table)


def _check(what: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ConfigError unless all that is expected is given, with its shape and dtype."""
    for name, array in expected.items():
        mine = given.get(name)
        if mine is None or (mine.shape, mine.dtype) != (array.shape, array.dtype):
            found = "missing" if mine is None else f"{mine.dtype} of shape {mine.shape}"
            raise ConfigError(
                f"evaluate: the {what} of another model: {name} is {found}, expected {array.dtype} of shape {array.shape}"
            )


def _where(error: BaseException) -> str:
    """The function that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_qualname


def _joined(columns: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    for parts in columns.values():
        parts[:] = [np.concatenate(parts)]
    return {name: parts[0] for name, parts in columns.items()}


def whole(name: str, x: Any) -> int:
    """x as an integer; ConfigError unless it is a whole number of at least 1."""
    if not isinstance(x, (int, np.integer)) or isinstance(x, bool) or x < 1:
        raise ConfigError(f"evaluate: {name} is {x!r}, expected a whole number of at least 1")
    return int(x)


def view_of_x(subject: Subject, measure: str, terms: Terms) -> Distribution:
    """p(x | z) of a model that explains x and nothing else; ConfigError for any other."""
    name = type(subject.model).__name__
    if not terms.views:
        raise ConfigError(f"{measure}: the Terms of {name} have no `views`, see gvae.models")
    if list(terms.views) != ["x"]:
        raise ConfigError(f"{measure}: {name} explains {' and '.join(terms.views)}; expected a model that explains x alone")
    return terms.views["x"]


def dense(x: Any) -> np.ndarray:
    """A batch's column, CSR or not, as an array."""
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x)
