"""A column of a table whose rows are converted, and checked, when they are taken; and a thread that reads ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gvae.data.rows.order import Order
from gvae.data.rows.protocol import (
    ArrayRows,
    Part,
    bounds_of,
    chunk_of,
    numbers_of,
    places,
    sparse_pointers,
    stored_bytes,
    take_into,
    taken_of,
)
from gvae.errors import ConfigError
from gvae.ops.sparse import is_csr
from gvae.runtime import limits, pool

__all__ = ["BUDGET", "Column", "Reader", "default_window"]

BUDGET = 1 << 27  # bytes of a window where its size is not given
LEAST = 4  # chunks of such a window


@dataclass(frozen=True, eq=False)
class Column:
    """Rows as a model reads them: they are kept as they are stored, and converted when they are taken.

    Parameters
    ----------
    rows : Rows
    convert : callable
        convert(some rows as stored) -> the same rows as a model reads them, of `shape` and `dtype`. Row by row: the result
        for a row does not depend on the others.
    shape : tuple of int
    dtype : dtype
    check : callable, optional
        check(some rows as stored, their indices) raises DataError where a row is not admissible.
    read_ahead : bool, default True
        Whether the rows are in a file, or are to be treated as if they were: they are then presented window by window.

    Examples
    --------
    >>> stored = gvae.data.ArrayRows(np.array([[0], [51], [255]], np.uint8))
    >>> column = gvae.data.rows.Column(stored, lambda x: x / np.float32(255), (3, 1), np.dtype(np.float32))
    >>> column[np.array([2, 1])]
    array([[1. ],
           [0.2]], dtype=float32)
    """

    rows: Any
    convert: Callable[[Any], Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    check: Callable[[Any, np.ndarray], None] | None = None
    read_ahead: bool = True

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def taken(self, index: np.ndarray, out: np.ndarray | None = None) -> Any:
        """Some rows as they are stored, checked; in `out` if it is given."""
        if out is None:
            x = taken_of(self.rows, index)
        else:
            take_into(self.rows, index, out)
            x = out
        if self.check is not None:
            self.check(x, numbers_of(self.rows, index))
        return x

    def __getitem__(self, which: Any) -> Any:
        """Some rows as a model reads them: by a slice, an array of their indices, or a boolean mask."""
        index = places(which, len(self))
        if self.read_ahead:
            check_memory(self, len(index))
        return self.convert(self.taken(index))

    def part(self, which: Any) -> Column:
        """Some of the rows as a column: by a slice, an array of their indices, or a boolean mask.

        Examples
        --------
        >>> rows = gvae.data.ArrayRows(np.arange(4.0)[:, None])
        >>> column = gvae.data.rows.Column(rows, lambda x: x, rows.shape, rows.dtype)
        >>> column.part(np.array([False, True, False, True])).shape
        (2, 1)
        """
        index = places(which, len(self))
        return replace(self, rows=Part(self.rows, index), shape=(len(index), *self.shape[1:]))

    def then(self, convert: Callable[[Any], Any], dtype: Any) -> Column:
        """The same rows, converted further, row by row."""
        first = self.convert
        return replace(self, convert=lambda x: convert(first(x)), dtype=np.dtype(dtype))

    def loaded(self) -> Column:
        """The same rows in memory, as they are stored."""
        return replace(self, rows=ArrayRows(self.taken(np.arange(len(self)))), check=None, read_ahead=False)

    def blocks(self, rows: int) -> Iterator[Any]:
        """All rows in order, as a model reads them, in blocks of `rows`."""
        if not self.read_ahead:
            yield from (self[begin : begin + rows] for begin in range(0, len(self), rows))
            return
        with Reader({"x": self}, sequence(self)) as reader:
            for begin in range(0, len(self), rows):
                _, found = reader.take(begin, min(begin + rows, len(self)))
                yield self.convert(found["x"])


def check_memory(column: Column, n: int) -> None:
    """Raise ConfigError where n rows of a column do not fit into memory."""
    n_bytes, room = n * row_bytes(column), limits.memory()
    if room is not None and n_bytes > room // 2:
        raise ConfigError(
            f"{n} rows of {n_bytes / 2**30:.3g} GiB are needed at once, too many for the memory of {room / 2**30:.3g} GiB: "
            "the model or measure does not work on batches of rows"
        )


def row_bytes(column: Column) -> int:
    """The bytes of a row as a model reads it: of sparse rows, the mean."""
    if sparse_pointers(column.rows) is not None:
        return stored_bytes(column.rows)
    return int(np.prod(column.shape[1:], dtype=np.int64)) * np.dtype(column.dtype).itemsize


def default_window(rows: Any, chunk: int) -> int:
    """The rows of a window of 128 MiB, at least 4 chunks, whole chunks.

    Parameters
    ----------
    rows : Rows
    chunk : int

    Returns
    -------
    int

    Examples
    --------
    >>> gvae.data.rows.default_window(gvae.data.ArrayRows(np.zeros((2, 784), np.float32)), 256)
    42752
    """
    return chunk * max(LEAST, BUDGET // stored_bytes(rows) // chunk)


def sequence(column: Column) -> Order:
    """The rows as they are stored, in windows of an eighth of the default size, which only serve for reading ahead."""
    chunk = chunk_of(column.rows)
    return Order(bounds_of(column.rows, chunk), max(1, BUDGET // 8 // stored_bytes(column.rows) // chunk))


class _Window:
    """Rows of one window, as they are stored and in the order of their chunks.   index : their indices, in that order"""

    def __init__(self, number: int, order: Order, columns: dict[str, Column], used: dict[str, list[np.ndarray]]):
        ranges = order.ranges(number)
        self.number, self.within = number, order.within(number)
        self.begin, self.end = int(order.begins[number]), int(order.begins[number + 1])
        self.index = np.concatenate([np.arange(*chunk) for chunk in ranges])
        self.rows = {name: self._read(column, ranges, used.get(name, [])) for name, column in columns.items()}

    def _read(self, column: Column, ranges: list[tuple[int, int]], used: list[np.ndarray]) -> Any:
        out: Any = None
        done, sparse = 0, []
        for begin, end in ranges:
            x = column.taken(np.arange(begin, end), None if out is None else out[done : done + end - begin])
            if out is not None:
                done += len(x)
                continue
            if is_csr(x):
                sparse.append(x)
                continue
            shape = (len(self.index), *x.shape[1:])
            fits = bool(used) and used[0].shape == shape and used[0].dtype == x.dtype
            out = used.pop() if fits else np.empty(shape, x.dtype)  # new memory costs as much as reading
            out[done : done + len(x)] = x
            done += len(x)
        if sparse:
            from scipy.sparse import vstack

            return vstack(sparse, format="csr")
        return out

    def take(self, begin: int, end: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Indices and columns of the rows at positions begin .. end - 1 of the window."""
        which: Any = slice(begin, end) if self.within is None else self.within[begin:end]
        return self.index[which], {name: x[which] for name, x in self.rows.items()}


class Reader:
    """Reads columns window by window in an order; a thread reads the next window while one is used.

    Two windows are in memory at a time.

    Parameters
    ----------
    columns : dict of str to Column
    order : Order

    Examples
    --------
    >>> rows = gvae.data.ArrayRows(np.arange(5.0)[:, None])
    >>> column = gvae.data.rows.Column(rows, lambda x: x, rows.shape, rows.dtype)
    >>> with gvae.data.rows.Reader({"x": column}, gvae.data.rows.Order(np.array([0, 2, 4, 5]), 1)) as reader:
    ...     index, found = reader.take(1, 4)
    >>> index, found["x"][:, 0]
    (array([1, 2, 3]), array([1., 2., 3.]))
    """

    def __init__(self, columns: dict[str, Column], order: Order):
        self.columns, self.order = columns, order
        self.now: _Window | None = None
        self.next: tuple[int, Future] | None = None
        self.thread = ThreadPoolExecutor(1, "gvae-reader")
        self.used: dict[str, list[np.ndarray]] = {name: [] for name in columns}  # arrays of earlier windows, to be reused

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the thread, and release the windows."""
        self.thread.shutdown(wait=True, cancel_futures=True)
        self.now = self.next = None

    def take(self, begin: int, end: int) -> tuple[np.ndarray, dict[str, Any]]:
        """The rows at positions begin .. end - 1 of the order: their indices, and the columns as they are stored.

        Raises
        ------
        DataError
            Rows cannot be read, or are refused by a column's check.
        """
        parts = []
        while begin < end:
            window = self._at(begin)
            last = min(end, window.end)
            parts.append(window.take(begin - window.begin, last - window.begin))
            begin = last
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([index for index, _ in parts]), {
            name: _joined([x[name] for _, x in parts]) for name in self.columns
        }

    def _at(self, position: int) -> _Window:
        if self.now is not None and self.now.begin <= position < self.now.end:
            return self.now
        number = self.order.window_at(position)
        if self.next is None or self.next[0] != number:
            self._ask(number)
        assert self.next is not None
        future, old, self.next, self.now = self.next[1], self.now, None, None
        self.now = future.result()
        if old is not None and old.within is not None:  # rows that were taken from it are copies
            self.used = {name: [x] if isinstance(x, np.ndarray) else [] for name, x in old.rows.items()}
        del old  # before the next one is read
        if number + 1 < self.order.n_windows:
            self._ask(number + 1)
        return self.now

    def _ask(self, number: int) -> None:
        self.next = number, self.thread.submit(self._read, number)

    def _read(self, number: int) -> _Window:
        with pool.elsewhere():
            return _Window(number, self.order, self.columns, self.used)


def _joined(parts: list[Any]) -> Any:
    if is_csr(parts[0]):
        from scipy.sparse import vstack

        return vstack(parts, format="csr")
    return np.concatenate(parts)
