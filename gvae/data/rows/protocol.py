"""What a table of rows must offer so that a model can be trained on it without all of it being in memory."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gvae.errors import DataError

__all__ = ["ArrayRows", "Part", "Rows", "bounds_of", "chunk_of", "default_chunk", "numbers_of", "stored_in"]

CHUNK_BYTES = 1 << 21  # bytes that are read together where a source has no chunks of its own


@runtime_checkable
class Rows(Protocol):
    """Rows of numbers in a file or in memory, read some at a time.

    A class with these four names can be given to `fit`, `transform`, `evaluate` and the like. Optional attributes: `chunk`,
    the number of rows that are stored, and best read, together; `path`, for messages; `names`, the names of the columns.

    Attributes
    ----------
    shape : tuple of int
        (N, ...), as of an array.
    dtype : dtype
    fingerprint : dict
        What identifies the content, in types that JSON can hold. It is compared when a run is resumed, except "file".

    Examples
    --------
    >>> isinstance(gvae.data.ArrayRows(np.zeros((4, 2))), gvae.data.Rows)
    True
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the content.

        Examples
        --------
        >>> gvae.data.ArrayRows(np.zeros((2, 2))).fingerprint["shape"]
        [2, 2]
        """
        ...

    def take(self, index: np.ndarray) -> Any:
        """The rows with the given indices, (n, ...), or CSR (n, D).

        Parameters
        ----------
        index : int array (n,)

        Returns
        -------
        array (n, ...) or CSR (n, D)
            A new array.

        Raises
        ------
        DataError
            The rows cannot be read; the message names file, chunk and rows.

        Examples
        --------
        >>> gvae.data.ArrayRows(np.arange(6.0).reshape(3, 2)).take(np.array([2, 0]))
        array([[4., 5.],
               [0., 1.]])
        """
        ...


class Taken(Rows):
    """Rows with a length, an indexing operator (an index, a slice, an array of indices or a boolean mask) and `ndim`."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes.

        Examples
        --------
        >>> gvae.data.ArrayRows(np.zeros((2, 2))).ndim
        2
        """
        return len(self.shape)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, (int, np.integer)):
            return self.take(np.array([range(len(self))[which]]))[0]
        return self.take(places(which, len(self)))


def places(which: Any, n: int) -> np.ndarray:
    """A slice, an array of indices or a boolean mask as an array of row indices, for n rows."""
    if isinstance(which, slice):
        return np.arange(*which.indices(n))
    index = np.asarray(which)
    if index.dtype == bool and index.shape == (n,):
        return np.flatnonzero(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise DataError(f"rows by {index.dtype} {index.shape}, expected a slice, integers (n,) or a boolean mask ({n},)")
    return index.astype(np.int64, copy=False)


class ArrayRows(Taken):
    """Rows of an array, or a CSR matrix, in memory.

    Parameters
    ----------
    array : array (N, ...) or CSR (N, D)

    Examples
    --------
    >>> rows = gvae.data.ArrayRows(np.arange(6).reshape(3, 2))
    >>> rows.shape, rows.take(np.array([1]))
    ((3, 2), array([[2, 3]]))
    """

    def __init__(self, array: Any):
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def take(self, index: np.ndarray) -> Any:
        """The rows with the given indices: see `Rows.take`."""
        return self.array[index]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The SHA-256 of the content, with shape and dtype.

        Examples
        --------
        >>> sorted(gvae.data.ArrayRows(np.zeros((2, 2))).fingerprint)
        ['dtype', 'sha256', 'shape']
        """
        x, digest = self.array, hashlib.sha256()
        for part in (x.data, x.indices, x.indptr) if hasattr(x, "indptr") else (x,):
            digest.update(np.ascontiguousarray(part))
        return {"shape": list(self.shape), "dtype": np.dtype(self.dtype).str, "sha256": digest.hexdigest()}


class Part(Taken):
    """Some of the rows of a table, in a given order.

    Parameters
    ----------
    rows : Rows
    index : int array (n,), or bool array (N,)
        Their indices, or which of all they are.

    Examples
    --------
    >>> part = gvae.data.Part(gvae.data.ArrayRows(np.arange(4.0)[:, None]), np.array([1, 3]))
    >>> part.take(np.array([1])), part.shape
    (array([[3.]]), (2, 1))
    """

    def __init__(self, rows: Rows, index: np.ndarray):
        self.rows, self.index = rows, places(index, rows.shape[0])
        self.shape, self.dtype = (len(self.index), *rows.shape[1:]), rows.dtype

    def take(self, index: np.ndarray) -> Any:
        """The rows with the given indices, counted within the part: see `Rows.take`."""
        return self.rows.take(self.index[index])

    def _take_into(self, index: np.ndarray, out: np.ndarray) -> None:
        take_into(self.rows, self.index[index], out)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of all rows, and the SHA-256 of the indices.

        Examples
        --------
        >>> rows = gvae.data.ArrayRows(np.zeros((2, 2)))
        >>> sorted(set(gvae.data.Part(rows, np.array([1])).fingerprint) - set(rows.fingerprint))
        ['part']
        """
        return self.rows.fingerprint | {"part": hashlib.sha256(self.index).hexdigest()}


def of_a_copy(rows: Any) -> dict[str, Any]:
    """The fingerprint of rows without what copies of a file may differ in: nodes may have copies of their own."""
    return {name: value for name, value in rows.fingerprint.items() if name not in ("file", "modified")}


def take_into(rows: Any, index: np.ndarray, out: np.ndarray) -> None:
    """out[...] = rows.take(index), without a temporary array where the source supports it."""
    if hasattr(rows, "_take_into"):
        rows._take_into(index, out)
    else:
        out[...] = taken_of(rows, index)


def taken_of(rows: Any, index: np.ndarray) -> Any:
    """rows.take(index), which a class of the caller's may compute. DataError for anything but these rows."""
    x, expected = rows.take(index), (len(index), *rows.shape[1:])
    if getattr(x, "shape", None) != expected or not hasattr(x, "dtype"):
        given = f"shape {x.shape}" if hasattr(x, "shape") else type(x).__name__
        where = getattr(rows, "where", type(rows).__name__)
        raise DataError(f"{where}: take returned {given} for {len(index)} rows, expected an array of shape {expected}")
    return x


def is_run(index: np.ndarray) -> bool:
    """Whether the indices are consecutive."""
    n = len(index)
    return n > 0 and int(index[-1]) - int(index[0]) == n - 1 and (n < 3 or bool((np.diff(index) == 1).all()))


def default_chunk(n_bytes: int) -> int:
    """The number of rows read together where a source has no chunks: a power of two, 16 to 8,192, up to 2 MiB."""
    return 1 << (max(16, min(8192, CHUNK_BYTES // max(1, n_bytes))).bit_length() - 1)


def numbers_of(rows: Any, index: np.ndarray) -> np.ndarray:
    """The indices of some rows of a part in the table that it was taken from, which messages name.

    Parameters
    ----------
    rows : Rows
    index : int array (n,)

    Returns
    -------
    int array (n,)

    Examples
    --------
    >>> part = gvae.data.Part(gvae.data.ArrayRows(np.zeros((4, 1))), np.array([1, 3]))
    >>> gvae.data.rows.numbers_of(part, np.array([1]))
    array([3])
    """
    while isinstance(rows, Part):
        rows, index = rows.rows, rows.index[index]
    return index


def stored_in(rows: Any) -> Any:
    """The rows that a `Part`, or a part of a part, was taken from; otherwise the rows themselves.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    Rows

    Examples
    --------
    >>> rows = gvae.data.ArrayRows(np.zeros((4, 1)))
    >>> gvae.data.rows.stored_in(gvae.data.Part(rows, np.array([1, 3]))) is rows
    True
    """
    while isinstance(rows, Part):
        rows = rows.rows
    return rows


def stored_bytes(rows: Any) -> int:
    """The bytes of a row as it is stored: of sparse rows, the mean."""
    base = stored_in(rows)
    of_value = np.dtype(base.dtype).itemsize
    if (indptr := sparse_pointers(base)) is not None:  # a value and its column; the pointer
        return 8 + int(indptr[-1]) * (of_value + 4) // max(1, len(indptr) - 1)
    return max(1, int(np.prod(base.shape[1:], dtype=np.int64)) * of_value)


def sparse_pointers(rows: Any) -> Any:
    """The row pointers of sparse rows, None for others."""
    base = stored_in(rows)
    return getattr(base, "indptr", getattr(getattr(base, "array", None), "indptr", None))


def chunk_of(rows: Any) -> int:
    """The number of rows that are best read together.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    int
        The size of a stored chunk; where there are no chunks, a power of two between 16 and 8,192, of up to 2 MiB.

    Examples
    --------
    >>> gvae.data.rows.chunk_of(gvae.data.ArrayRows(np.zeros((4, 784), np.uint8)))
    2048
    """
    base = stored_in(rows)
    n_bytes = int(np.prod(base.shape[1:], dtype=np.int64)) * np.dtype(base.dtype).itemsize
    return max(1, int(getattr(base, "chunk", 0) or default_chunk(n_bytes)))


def bounds_of(rows: Any, chunk: int) -> np.ndarray:
    """Where chunks of rows begin, and the end of the last one, int64. Chunks of a part in ascending order end where chunks
    of the whole do, so that no chunk of the whole is read for two chunks of the part."""
    index: Any = None
    base = rows
    while isinstance(base, Part):
        index = base.index if index is None else base.index[index]
        base = base.rows
    n = int(rows.shape[0])
    if index is None or (len(index) > 1 and not (np.diff(index) > 0).all()):
        return np.append(np.arange(0, n, chunk), n).astype(np.int64)
    cuts = np.searchsorted(index, np.arange(0, base.shape[0] + chunk, chunk))
    return np.unique(cuts).astype(np.int64)


def check_numbers(index: np.ndarray, n: int, where: str) -> None:
    """Raise DataError unless all indices are from 0 to n - 1."""
    if len(index) and not (index.min() >= 0 and index.max() < n):
        bad = index[(index < 0) | (index >= n)][0]
        raise DataError(f"{where}: there is no row {bad} (counted from 0) among {n}")
