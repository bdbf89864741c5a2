"""Rows for a model: named columns, each presented in its way, in minibatches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from gvae import random
from gvae.data.checks import check_weight
from gvae.data.presentation import Presentation
from gvae.data.rows.column import Column, Reader, sequence
from gvae.data.rows.order import Order
from gvae.data.rows.protocol import bounds_of, chunk_of, numbers_of
from gvae.data.standardization import Standardization, mean_of_rows
from gvae.errors import ConfigError, DataError
from gvae.ops.sparse import is_csr
from gvae.runtime import device
from gvae.runtime.device import to_device

__all__ = ["Batch", "Table"]


class Batch:
    """Some rows of a table, with the columns as attributes.

    Parameters
    ----------
    columns : mapping of str to array (B, ...)
        They become attributes: x, ...
    index : int array (B,)
        The rows' indices.
    weight : array (B,), optional
        The rows' weights.

    Raises
    ------
    DataError
        An attribute that is not a column is read.

    Examples
    --------
    >>> batch = gvae.data.Batch({"x": np.array([[1.0], [2.0]])}, np.array([7, 3]))
    >>> len(batch), batch.x[0], batch[1:].index
    (2, array([1.]), array([3]))
    """

    def __init__(self, columns: Mapping[str, Any], index: np.ndarray, weight: np.ndarray | None = None):
        self.__dict__.update(columns)
        self.index, self.weight = index, weight

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: Any) -> Batch:
        """Some of the rows: a slice, or positions."""
        columns: dict[str, Any] = {n: None if column is None else column[part] for n, column in vars(self).items()}
        return Batch(columns, columns.pop("index"), columns.pop("weight"))

    def __getattr__(self, name: str) -> Any:
        raise DataError(f"the model asks for column {name!r}; the data has {', '.join(sorted(self.__dict__))}")


class Table:
    """Columns of equal length, dense or CSR, and how they are presented to a model.

    Parameters
    ----------
    x : array (N, ...), CSR (N, D) or Column
        A `gvae.data.rows.Column` is read, and converted, when a batch needs it.
    binarize : {"none", "dynamic", "fixed", "threshold"}, default "none"
        How x is presented, see `Presentation`; so are the next three.
    dequantize : int, optional
    standardization : Standardization, optional
    dtype : dtype, optional
    key : array (4,), optional
        For what is drawn once, with binarize="fixed". Default: `gvae.random.key(0)`.
    views : mapping of str to Presentation, optional
        How further columns are presented, by name; a column that is not named is presented unchanged.
    numbers : int array (N,), optional
        The numbers by which messages name the rows: where they were among others. Default: 0 to N - 1.
    **columns : array (N, ...), CSR (N, E) or Column
        Further columns by name. One named "weight", (N,), holds the weights of the rows, finite and at least 0. A training
        step follows sum w v / B over its B rows, so that weights of mean 1 leave the size of steps as it is.

    Raises
    ------
    ConfigError
        A presentation does not suit its column, is given twice, or belongs to no column; all rows are needed at once, for a
        fixed binarization, of a column that is not in memory.
    DataError
        Columns have different lengths, or a weight is not finite or below 0; the message has the row.

    Notes
    -----
    Draws of x use the key given here, and the one given to `batch`. Those of a further view use keys derived from
    them by the view's place among the columns.

    Examples
    --------
    >>> x, y, w = np.full((4, 3), 0.5), np.full((4, 1), 0.5), np.array([1.0, 1.0, 2.0, 0.0])
    >>> views = {"y": gvae.data.Presentation(binarize="dynamic")}
    >>> table = gvae.data.Table(x, binarize="dynamic", y=y, views=views, weight=w)
    >>> batch = table.batch(np.array([0, 2]), gvae.random.key(1))
    >>> batch.x.shape, batch.y.shape, batch.weight
    ((2, 3), (2, 1), array([1., 2.]))
    """

    def __init__(
        self,
        x: Any,
        *,
        binarize: str = "none",
        dequantize: int | None = None,
        standardization: Standardization | None = None,
        dtype: Any = None,
        key: np.ndarray | None = None,
        views: Mapping[str, Presentation] | None = None,
        numbers: np.ndarray | None = None,
        **columns: Any,
    ):
        of_x, further = Presentation(binarize, dequantize, standardization, dtype), dict(views or {})
        columns = {"x": x, **columns}
        known = columns.keys() - {"weight"}
        if odd := sorted(further.keys() - known):
            raise ConfigError(
                f"Table: views has {odd[0]!r}; expected columns of the table but weight: {', '.join(sorted(known))}"
            )
        if "x" in further and (binarize != "none" or any(part is not None for part in (dequantize, standardization, dtype))):
            raise ConfigError("Table: the presentation of 'x' is given twice, in views and by keywords of its own")
        shown = {"x": of_x} | further
        lengths = {name: column.shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns have different lengths: {lengths}")
        if "weight" in columns:
            check_weight(columns["weight"], lengths["x"])
        self.views = {name: shown[name].of(column, name) for name, column in columns.items() if name in shown}
        self.columns = dict(columns)
        key = random.key(0) if key is None else key
        for name, view in self.views.items():
            self.columns[name] = _stored(columns[name], name, view, self._key(key, name))
        self.device, self._numbers = "cpu", numbers

    def numbers(self, index: np.ndarray) -> np.ndarray:
        """The numbers by which messages name some rows.

        Parameters
        ----------
        index : int array (n,)

        Returns
        -------
        int array (n,)

        Examples
        --------
        >>> gvae.data.Table(np.eye(3), numbers=np.array([4, 6, 9])).numbers(np.array([1]))
        array([6])
        """
        x = self.columns["x"]
        if isinstance(x, Column):
            return numbers_of(x.rows, index)
        return index if self._numbers is None else self._numbers[index]

    @property
    def binarize(self) -> str:
        """The binarization of x, one of `BINARIZATIONS`.

        Examples
        --------
        >>> gvae.data.Table(np.full((4, 3), 0.5), binarize="dynamic").binarize
        'dynamic'
        """
        return self.views["x"].binarize

    def __len__(self) -> int:
        return self.columns["x"].shape[0]

    @property
    def reads_ahead(self) -> bool:
        """Whether some columns are read window by window.

        Examples
        --------
        >>> gvae.data.Table(np.zeros((4, 3))).reads_ahead
        False
        """
        return any(isinstance(column, Column) and column.read_ahead for column in self.columns.values())

    def bounds(self, chunk: int | None = None) -> np.ndarray:
        """Where chunks of rows begin, and the number of rows: what `gvae.data.rows.Order` takes.

        Parameters
        ----------
        chunk : int, optional
            Rows of a chunk; None: as the rows are stored.

        Returns
        -------
        int array (C + 1,)

        Examples
        --------
        >>> gvae.data.Table(np.zeros((5, 3))).bounds(2)
        array([0, 2, 4, 5])
        """
        return bounds_of(self.rows, chunk or self.chunk)

    @property
    def chunk(self) -> int:
        """The number of rows that are stored together.

        Examples
        --------
        >>> gvae.data.Table(np.zeros((5, 784), np.uint8)).chunk
        2048
        """
        return chunk_of(self.rows)

    @property
    def rows(self) -> Any:
        """The rows as they are stored that decide where chunks end: of the first column that is read ahead, else of x.

        Examples
        --------
        >>> gvae.data.Table(np.zeros((5, 3))).rows.shape
        (5, 3)
        """
        ahead = [column for column in self.columns.values() if isinstance(column, Column) and column.read_ahead]
        x = ahead[0] if ahead else self.columns["x"]
        return x.rows if isinstance(x, Column) else x

    def reader(self, order: Order | None = None) -> Reader:
        """A reader of the columns that are not in memory.

        Parameters
        ----------
        order : Order, optional
            By default, the rows as they are stored.

        Returns
        -------
        Reader
            To be closed.

        Examples
        --------
        >>> with gvae.data.Table(np.zeros((5, 3))).reader(gvae.data.rows.Order(np.array([0, 5]), 1)) as reader:
        ...     reader.take(1, 3)
        (array([1, 2]), {})
        """
        ahead = {n: c for n, c in self.columns.items() if isinstance(c, Column) and c.read_ahead}
        return Reader(ahead, order or sequence(next(iter(ahead.values()))))

    def mean(self, name: str) -> np.ndarray:
        """The mean of each column of a view, weighted if the rows have weights.

        Parameters
        ----------
        name : str
            The name of the view.

        Returns
        -------
        float64 array (D,)
            Grey levels are used in place of the bits that are drawn by them.

        Examples
        --------
        >>> gvae.data.Table(np.array([[1.0], [4.0]]), weight=np.array([2.0, 1.0])).mean("x")
        array([2.])
        """
        x, weight = (_on_host(self.columns.get(column)) for column in (name, "weight"))
        if not is_csr(x):
            return mean_of_rows(x, weight)
        w = np.ones(len(self)) if weight is None else np.asarray(weight, np.float64)
        return (w @ x) / w.sum()

    def to(self, device: str) -> Table:
        """The same rows on a device.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Returns
        -------
        Table
            This table itself if its columns are there.

        Raises
        ------
        DeviceError, ConfigError

        Examples
        --------
        >>> table = gvae.data.Table(np.zeros((4, 3)))
        >>> table.to("cpu") is table
        True
        """
        moved = {name: _moved(column, device) for name, column in self.columns.items()}
        if self.device == device and all(moved[name] is column for name, column in self.columns.items()):
            return self
        table = copy.copy(self)  # fixed draws, thresholds and checks have been applied
        table.columns, table.device = moved, device
        return table

    def batch(self, index: np.ndarray, key: np.ndarray) -> Batch:
        """The rows with the given indices as the model sees them.

        Parameters
        ----------
        index : int array (B,)
        key : array (4,)
            Draws their binarization, if it is dynamic, or their dequantization.

        Returns
        -------
        Batch

        Examples
        --------
        >>> batch = gvae.data.Table(np.array([[0.0], [1.0], [2.0]])).batch(np.array([2, 0]), gvae.random.key(0))
        >>> batch.x
        array([[2.],
               [0.]])
        """
        return self.presented(index, {}, key)

    def presented(self, index: np.ndarray, stored: Mapping[str, Any], key: np.ndarray) -> Batch:
        """The rows with the given indices, with some of their columns given as they are stored.

        Parameters
        ----------
        index : int array (B,)
        stored : mapping of str to array (B, ...)
            As `Reader.take` returns them.
        key : array (4,)

        Returns
        -------
        Batch

        Examples
        --------
        >>> gvae.data.Table(np.array([[0.0], [1.0]])).presented(np.array([1]), {}, gvae.random.key(0)).x
        array([[1.]])
        """
        columns: dict[str, Any] = {}
        for name, column in self.columns.items():
            if name in stored:
                columns[name] = to_device(column.convert(stored[name]), self.device)
            elif isinstance(column, Column):
                columns[name] = to_device(column[device.to_host(index)], self.device)
            else:
                columns[name] = column[device.beside(index, column)]
        for name, view in self.views.items():
            columns[name] = view.drawn(columns[name], self._key(key, name) if view.draws else key)
        return Batch(columns, to_device(index, self.device), columns.get("weight"))

    def _key(self, key: np.ndarray, name: str) -> np.ndarray:
        """The key of a view's draws: x uses the key of the table or batch itself, from which no other is derived."""
        place = [column for column in self.columns if column != "weight"].index(name)
        return random.fold_in(key, place) if place else key

    def batches(
        self,
        key: np.ndarray,
        batch_size: int,
        order: np.ndarray | None = None,
        first: int = 0,
        rows: int | None = None,
        step: int = 1,
    ) -> Iterator[Batch]:
        """All rows once, in batches; the last batch may be smaller.

        Parameters
        ----------
        key : array (4,)
            Each batch has a key of its own, derived from it.
        batch_size : int
        order : int array, optional
            Row indices in the order of the pass; None: as they are stored.
        first : int, default 0
            The batch at which to begin.
        rows : int, optional
            How many of the first rows, where no order is given; None: all.
        step : int, default 1
            The stride over batches, above 1 where other processes take those in between.

        Yields
        ------
        Batch

        Notes
        -----
        The pass is a function of (key, batch_size, order), because the draws of each batch have a key of their own. So it
        can begin at any batch.

        Examples
        --------
        >>> table = gvae.data.Table(np.arange(5.0)[:, None])
        >>> [batch.index.tolist() for batch in table.batches(gvae.random.key(0), 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.index.tolist() for batch in table.batches(gvae.random.key(0), 2, first=2)]
        [[4]]
        """
        if order is None and self.reads_ahead:
            n = len(self) if rows is None else min(rows, len(self))
            with self.reader() as reader:
                for i in range(first, -(-n // batch_size), step):
                    found = reader.take(i * batch_size, min((i + 1) * batch_size, n))
                    yield self.presented(*found, random.fold_in(key, i))
            return
        order = np.arange(len(self))[:rows] if order is None else order
        if not isinstance(self.columns["x"], Column):
            order = device.beside(order, self.columns["x"])
        for i in range(first, -(-len(order) // batch_size), step):
            yield self.batch(order[i * batch_size : (i + 1) * batch_size], random.fold_in(key, i))


def _stored(column: Any, name: str, view: Presentation, key: np.ndarray) -> Any:
    """What a table keeps of a column, see `Presentation.stored`; for a `Column`, what is to be done when rows are taken."""
    if not isinstance(column, Column):
        return view.stored(column, key)
    if view.binarize == "fixed":
        if column.read_ahead:
            raise ConfigError(
                f"binarize='fixed' draws the bits of all rows of {name} at once, but they are not in memory: take "
                "'dynamic', or store the bits"
            )
        return view.stored(column[:], key)
    if view.standardization is None and view.binarize != "threshold":
        return column
    return column.then(partial(view.stored, key=key), column.dtype if view.standardization is None else view.dtype)


def _moved(column: Any, to: str) -> Any:
    """A column on a device; one that is read window by window stays where it is, and its batches are moved."""
    if isinstance(column, Column):
        return column if to == "cpu" or column.read_ahead else to_device(column[:], to)
    return to_device(column, to)


def _on_host(column: Any) -> Any:
    return column if isinstance(column, Column) else device.to_host(column)
