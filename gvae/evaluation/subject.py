"""What is evaluated: a model with its parameters, and rows. Every measure is a pass over the rows in batches."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gvae import blas, random
from gvae.data import Batch, Table
from gvae.data.rows.column import Column
from gvae.data.rows.protocol import of_a_copy
from gvae.distributions import Distribution
from gvae.errors import ConfigError, DataError
from gvae.evaluation.partial import Partial, fingerprint
from gvae.objectives import Terms
from gvae.protocol import Model, check_fits, check_initial, check_terms
from gvae.runtime import pool
from gvae.runtime.parallel import ALONE, Communicator
from gvae.training import has_rows, infer
from gvae.typing import Noise

__all__ = ["Subject", "dense", "purpose", "view_of_x", "whole"]

# What the key is folded with, one number per purpose, the same in every release: so all streams are different.
BINARIZE, IMPORTANCE, ANNEALED, SIMULATED, CURVE, CODES, SURGERY, GAPS, RECONSTRUCTION, INFERENCE = range(10)
CLASSIFICATION, INFORMATION, GIBBS, BITS, COMPLETION, MMD = range(10, 16)


def purpose(name: str) -> int:
    """What the key is folded with for a purpose that has no number above: a function of its name.

    Parameters
    ----------
    name : str

    Returns
    -------
    int
        Between 2^31 and 2^32.

    Examples
    --------
    >>> from gvae.evaluation.subject import purpose
    >>> purpose("calibration")
    4240618515
    """
    return zlib.crc32(name.encode()) | 1 << 31


class Subject:
    """A model, its parameters and the rows of a table on which measures are computed.

    Parameters
    ----------
    model : Model
        See `gvae.models.Model`.
    parameters : mapping of str to array
    table : Table
    key : array (4,), optional
        The table's binarization (if dynamic: one fixed draw) and all noise follow from it. Default: `gvae.random.key(0)`.
    state : mapping of str to array, optional
        The model's state (running statistics), if it has one: the one of training, `Trainer.chosen_state`.
    batch_size : int, default 100
        Rows per batch. It decides which row gets which noise.
    progress : bool, default False
        Show a progress bar for each measure.
    partial : Partial, optional
        Keeps results while they are computed, see `gvae.evaluation.Partial`. With several ranks, rank 0 has it.
    ranks : Communicator, optional
        Ranks that share the batches of each pass, see gvae.runtime.parallel; by default only this process.

    Attributes
    ----------
    rows : dict of str to array (N, ...)
        Per-datum parameters by name, where the model has such: inferred for these rows, see `gvae.training.infer`.

    Raises
    ------
    DataError
        The table has no rows.
    ConfigError
        The parameters or the state are not this model's, or batch_size is not a positive integer.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> model, parameters = fa.as_vae()
    >>> table = gvae.data.Table(fa.sample(gvae.random.key(0), 50))
    >>> subject = gvae.evaluation.Subject(model, parameters, table, batch_size=25)
    >>> gvae.evaluation.active_units(subject).summary()["active"]
    1
    """

    def __init__(
        self,
        model: Model,
        parameters: Mapping[str, np.ndarray],
        table: Table,
        *,
        key: np.ndarray | None = None,
        state: Mapping[str, np.ndarray] | None = None,
        batch_size: int = 100,
        progress: bool = False,
        partial: Partial | None = None,
        ranks: Communicator = ALONE,
    ):
        self.model, self.parameters, self.table = model, dict(parameters), table
        self.key = random.key(0) if key is None else key
        self.state, self.batch_size = dict(state or {}), whole("batch_size", batch_size)
        self.progress, self.partial, self.ranks = progress, partial, ranks
        self.checked = False  # whether the model's terms have the right shapes
        if len(table) == 0:
            raise DataError("evaluate: the table has no rows")
        initial = check_initial(model, model.init(random.key(0)))
        check_fits("evaluate: the parameters are", self.parameters, initial, others=True)
        state = model.init_state(random.key(0)) if hasattr(model, "init_state") else {}
        check_fits("evaluate: the state is", self.state, state, others=True)
        self.rows: dict[str, np.ndarray] = {}
        if has_rows(model):
            self.rows = self.each("inference", self._infer, settings={})

    def _infer(self, i: int, batch: Batch) -> dict[str, np.ndarray]:
        return infer(self.model, self.parameters, self.state, batch, random.fold_in(self.key, INFERENCE))

    def own(self, batch: Batch) -> dict[str, np.ndarray]:
        """Per-datum parameters of the rows of a batch, as inferred.

        Parameters
        ----------
        batch : Batch
            Rows of the subject's table.

        Returns
        -------
        dict of str to array (B, ...)
            Empty for a model without per-datum parameters.

        Examples
        --------
        >>> model = gvae.models.NonlinearFactorAnalysis(3, 1, hidden=(4,), dtype="float64")
        >>> x = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]])
        >>> subject = gvae.evaluation.Subject(model, model.init(gvae.random.key(0)), gvae.data.Table(x))
        >>> batch = subject.table.batch(np.array([1]), subject.key)
        >>> {name: values.shape for name, values in subject.own(batch).items()}
        {'encoder.raw': (1, 2)}
        """
        return {name: values[batch.index] for name, values in self.rows.items()}

    def terms(self, batch: Batch, noise: Noise, instead: Mapping[str, Any] | None = None) -> Any:
        """Terms of the model for a batch that is scored: log-likelihoods and stochastic layers.

        Parameters
        ----------
        batch : Batch
        noise : mapping of str to array
            As `model.noise` draws it.
        instead : mapping of str to array, optional
            Replaces the parameters of the same names.

        Returns
        -------
        Terms
            See `gvae.objectives.Terms`.

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> x = fa.sample(gvae.random.key(0), 2)
        >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x))
        >>> batch = subject.table.batch(np.arange(2), subject.key)
        >>> terms = subject.terms(batch, subject.model.noise(subject.key, batch, samples=1))
        >>> np.allclose(terms.log_weights, fa.log_prob(x))  # of the exact posterior: log p(x), whatever the draw
        True
        """
        pool.check_stop()
        parameters = self.parameters | self.own(batch) | dict(instead or {})
        terms = self.model.terms(parameters, self.state, batch, noise, None)
        if not self.checked:
            check_terms(self.model, terms, batch, noise)
            self.checked = True
        return terms

    def optional(self, method: str, measure: str) -> Callable:
        """An optional method of the model, such as "generate".

        Parameters
        ----------
        method : str
        measure : str
            Name of the measure that needs it, for the error's message.

        Returns
        -------
        callable

        Raises
        ------
        ConfigError
            The model has no such method.

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 2)))
        >>> subject.optional("generate", "my measure").__name__
        'generate'
        """
        if not hasattr(self.model, method):
            raise ConfigError(f"{measure}: {type(self.model).__name__} has no method `{method}`, see gvae.models")
        return getattr(self.model, method)

    def on(self, table: Table) -> Subject:
        """The same model and settings with the rows of another table.

        Parameters
        ----------
        table : Table

        Returns
        -------
        Subject

        Raises
        ------
        DataError
            The table has no rows.

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> x = fa.sample(gvae.random.key(0), 50)
        >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x[:40]))
        >>> len(subject.on(gvae.data.Table(x[40:])).table)
        10
        """
        settings = {name: getattr(self, name) for name in ("key", "state", "batch_size", "progress", "partial", "ranks")}
        return Subject(self.model, self.parameters, table, **settings)

    @contextlib.contextmanager
    def lacking(self, measure: str) -> Iterator[None]:
        """A NotImplementedError inside becomes a ConfigError: the model lacks what a measure needs.

        Parameters
        ----------
        measure : str
            Its name, for the error's message.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 2)))
        >>> with subject.lacking("my measure"):
        ...     raise NotImplementedError
        Traceback (most recent call last):
        ...
        gvae.errors.ConfigError: my measure: LinearVAE lacks what it needs, ...
        """
        try:
            yield
        except NotImplementedError as error:
            raise ConfigError(f"{measure}: {type(self.model).__name__} lacks what it needs, {_where(error)}") from error

    def each(
        self,
        measure: str,
        compute: Callable[[int, Batch], Mapping[str, np.ndarray]],
        *,
        settings: Mapping[str, Any],
        rows: int | None = None,
        kept: bool = True,
        at_once: int = 1,
        into: Callable[[Mapping[str, np.ndarray]], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute columns over rows, batch by batch, and join them.

        Parameters
        ----------
        measure : str
            Name for progress bars, errors and `partial`.
        compute : callable
            compute(i, batch) returns the columns of batch i, a mapping of str to array (B, ...).
        settings : mapping
            What decides the results, in addition to the subject; an interrupted pass is resumed only with the same settings.
        rows : int, optional
            How many of the first rows; None: all.
        kept : bool, default True
            Whether the columns are kept in `partial`, and ranks share the batches. A pass that has other results than its
            columns is not kept: every rank makes it in full.
        at_once : int, default 1
            How many batches threads compute at the same time, if there are that many threads.
        into : callable, optional
            into(columns) is given the columns of each batch in order; none of them is kept, and {} returned.

        Returns
        -------
        dict of str to array (rows, ...)

        Raises
        ------
        ConfigError
            rows is not a positive integer, or compute raises NotImplementedError: the model lacks what the measure needs.

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> x = fa.sample(gvae.random.key(0), 4)
        >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x), batch_size=2)
        >>> columns = subject.each("log p(x)", lambda i, batch: {"exact": fa.log_prob(batch.x)}, settings={})
        >>> np.allclose(columns["exact"], fa.log_prob(x))
        True
        """

        def one(task: tuple[int, Batch]) -> Mapping[str, np.ndarray]:
            with self.lacking(measure), blas.inherited():
                return compute(*task)

        n = len(self.table) if rows is None else min(whole("rows", rows), len(self.table))
        ranks = self.ranks if kept else ALONE
        partial = self.partial if kept and into is None else None
        columns: dict[str, list[np.ndarray]] = {}
        begun: Mapping[str, np.ndarray] = {}
        if ranks.size > 1:
            ranks.check_same("rows, parameters or settings", self._fingerprint({}, measure, settings, n, of_a_copy))
        if partial is not None:
            begun = partial.begun(measure, self._fingerprint(partial.about, measure, settings, n))
        begun = ranks.first(begun)
        columns = {name: [values] for name, values in begun.items()}
        done = min((len(values) for values in begun.values()), default=0)
        bar = None
        if self.progress:
            from tqdm import tqdm

            bar = tqdm(total=n, initial=done, unit="row", dynamic_ncols=True, desc=measure, disable=None)
        first, end = done // self.batch_size, -(-n // self.batch_size) if done < n else 0
        at_once = min(ranks.gather(at_once))
        own = range(first + ranks.rank, end, ranks.size)
        key = random.fold_in(self.key, BINARIZE)
        batches = self.table.batches(key, self.batch_size, first=own.start, rows=n, step=ranks.size) if own else iter(())
        tasks = zip(own, batches, strict=False)
        try:
            for _ in range(first, end, at_once * ranks.size):
                found: list[Mapping[str, np.ndarray]] = []
                with ranks.together(), ranks.leaders_first(measure):
                    group = list(itertools.islice(tasks, at_once))
                    found = list(pool.each(one, group))
                for part in _in_order(ranks.gather(found)):
                    if into is not None:
                        into(part)
                    for name, values in part.items() if into is None else ():
                        columns.setdefault(name, []).append(values)
                    if bar is not None:
                        bar.update(min(self.batch_size, n - bar.n))
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

    def _fingerprint(
        self,
        about: Mapping[str, Any],
        measure: str,
        settings: Mapping[str, Any],
        rows: int,
        of_rows: Callable[[Any], Any] = lambda rows: rows.fingerprint,
    ) -> str:
        """A hash of everything that decides the results; of_rows(rows): what stands for rows in a file."""
        from gvae import __version__

        columns = {n: of_rows(c.rows) if isinstance(c, Column) else c for n, c in self.table.columns.items()}
        table = {"columns": columns, "binarize": self.table.binarize}
        what = {"model": type(self.model).__qualname__, "parameters": self.parameters, "state": self.state}
        how = {"key": self.key, "rows": rows, "batch_size": self.batch_size, "gvae": __version__}
        return fingerprint(measure=measure, about=about, settings=settings, **what, **how, **table)


def _where(error: BaseException) -> str:
    """The function that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_qualname


def _in_order(parts: list[list[Any]]) -> list[Any]:
    """What ranks have computed, each of them every R-th batch, in order."""
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


def _joined(columns: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    for parts in columns.values():
        parts[:] = [np.concatenate(parts)]
    return {name: parts[0] for name, parts in columns.items()}


def whole(name: str, x: Any) -> int:
    """x as an integer; ConfigError unless it is a positive integer."""
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
