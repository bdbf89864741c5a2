"""Raw arrays to a `Dataset`: checked, split into train and test, scaled and converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae.data.checks import check_finite, check_weight, real
from gvae.data.sparse import as_csr
from gvae.errors import DataError
from gvae.ops.sparse import is_csr
from gvae.runtime import pool

__all__ = ["COLUMNS", "EVERY", "Dataset", "assemble", "scaled", "split"]

WHOLE = 1 << 24  # float32 holds all whole numbers up to it
EVERY = 10  # every tenth row is held out; of fewer rows, none
COLUMNS = ("y", "weight")  # columns of a .npz in addition to x: as train_y and test_y, or as y where it has no test part


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays field by field has no truth value
class Dataset:
    """Rows to train on and rows to test on, of the same width and dtype, finite; dense ones are C-contiguous.

    Parameters
    ----------
    name : str
    train : array (N, D) or CSR (N, D)
        float32, or float64 where the source is a float64 array or has whole numbers beyond 2^24. Counts from a sparse source
        are a scipy.sparse.csr_array with sorted indices and without duplicates.
    test : array (M, D) or CSR (M, D)
        As train.
    train_labels : int64 array (N,), optional
    test_labels : int64 array (M,), optional
    image_shape : (int, int), optional
        (rows, columns) with rows * columns = D, if a row is an image.
    columns : mapping of str to pair of arrays, optional
        Further columns by name, each a pair (train, test). "y" are labels (N,), int64 or text, targets (N,) or a second view
        (N, E) as train is; if the source has no y of its own, the labels, where both parts have some. "weight" (N,) are
        the weights of the rows, at least 0 and not all 0.
    names : tuple of str, optional
        The names of the columns of train, from the header line of a .csv or .txt file.
    validation : array (K, D), or pair of arrays (K, D) and (K, E), optional
        Rows to choose settings by, as `fit` takes them: x, or (x, y) if there is a column "y". Among the named data sets
        noisy_mnist has some.
    validation_labels : int64 array (K,), optional
    real : bool, default False
        Whether the values are taken for real numbers although bytes were read: `gvae train` then reads observation "auto" as
        "gaussian".
    held_out : bool, default True
        Whether test are other rows than train. Of fewer than 10 rows without a test part none are held out: they are both.

    Examples
    --------
    >>> np.savez("rows.npz", x=np.zeros((20, 3)), labels=np.arange(20))
    >>> dataset = gvae.data.load("rows.npz")
    >>> dataset.train.shape, dataset.test.shape
    ((18, 3), (2, 3))
    >>> dataset.columns["y"][1]
    array([ 9, 19])
    """

    name: str
    train: Any
    test: Any
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None
    columns: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    validation: Any = None
    validation_labels: np.ndarray | None = None
    real: bool = False
    held_out: bool = True


def assemble(
    name: str,
    where: str,
    train: Any,
    test: Any = None,
    train_labels: Any = None,
    test_labels: Any = None,
    names: Any = None,
    **columns: Any,
) -> Dataset:
    """Check raw arrays, hold out rows if there is no test part, then scale and convert: no copy before the split.

    names : of the columns of train        columns : further ones under the keys of a .npz, such as train_y and test_y
    Raises DataError that begins with `where`.
    """
    train, image_shape = _as_rows(train, where, names)
    n = train.shape[0]
    train_labels = as_labels(train_labels, n, f"{where}, train")
    held_out = test is not None or n >= EVERY
    if test is not None:
        test, test_shape = _as_rows(test, f"{where}, test")
        test_labels = as_labels(test_labels, test.shape[0], f"{where}, test")
        if is_csr(train) != is_csr(test):
            raise DataError(f"{where}: one of train and test is sparse, and the other is not")
        if (train.shape[1], image_shape) != (test.shape[1], test_shape):
            sizes = [shape or x.shape[1] for x, shape in ((train, image_shape), (test, test_shape))]
            raise DataError(f"{where}: a row of train has size {sizes[0]}, of test {sizes[1]}")
        further = {column: _column(column, columns, (n, test.shape[0]), where) for column in COLUMNS}
    else:
        split_rows = split(n)
        (train, test), (train_labels, test_labels) = split_rows(train), split_rows(train_labels)
        further = {column: split_rows(_column(column, columns, (n,), where)[0]) for column in COLUMNS}
    found = {column: _converted(parts[0], parts[1], column) for column, parts in further.items() if parts[0] is not None}
    if train_labels is not None and test_labels is not None:
        found = {"y": (train_labels, test_labels)} | found
    train, test = _converted(train, test)
    return Dataset(name, train, test, train_labels, test_labels, image_shape, found, names, held_out=held_out)


def split(n: int, every: int = EVERY) -> Callable[[Any], tuple[Any, Any]]:
    """The function that splits n rows of an array: every `every`-th row is the test set; too few rows are both parts.

    By position, so that the split depends on no draw. None is split into Nones.
    """
    held = np.arange(n) % every == every - 1
    return lambda x: (x, x) if x is None or n < every else (x[np.flatnonzero(~held)], x[np.flatnonzero(held)])


def _as_rows(x: Any, where: str, names: tuple[str, ...] | None = None) -> tuple[Any, tuple[int, int] | None]:
    """Raw x as (N, D), finite, not yet scaled or converted, and the shape of an image or None; canonical CSR if sparse."""
    if hasattr(x, "tocsr"):
        return as_csr(x, where), None
    x = real(x, where)
    if x.ndim not in (2, 3):
        raise DataError(f"{where}: shape {x.shape}; expected (N, D), or (N, rows, columns) for images")
    if x.size == 0:
        raise DataError(f"{where}: shape {x.shape}; no {'columns' if x.shape[0] else 'rows'}")
    x = _finite(x, where, names)
    return x.reshape(len(x), -1), ((x.shape[1], x.shape[2]) if x.ndim == 3 else None)


def _finite(x: np.ndarray, where: str, names: tuple[str, ...] | None = None) -> np.ndarray:
    """Real numbers, no wider than float64, all finite."""
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is then refused
            x = x.astype(np.float64)
    check_finite(x, where, names)
    return x


def as_labels(labels: Any, n: int, where: str) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu" or labels.shape != (n,):
        raise DataError(f"{where}: labels are {labels.dtype} {labels.shape}, expected integers ({n},)")
    return labels.astype(np.int64)


def _column(name: str, given: Mapping[str, Any], rows: Sequence[int], where: str) -> tuple[Any, ...]:
    """A further column, checked but raw, of parts with the given numbers of rows: train and test, or all at once. Nones if
    it is not given.
    """
    keys = (next((key for key in (f"train_{name}", name) if key in given), f"train_{name}"), f"test_{name}")[: len(rows)]
    there, missing = ([key for key in keys if (key in given) is wanted] for wanted in (True, False))
    if not there:
        return (None,) * len(rows)
    if missing:
        raise DataError(f"{where}: {there[0]!r} without {missing[0]!r}, though x has a train and a test part")
    check = as_weight if name == "weight" else as_y
    parts = tuple(check(given[key], n, f"{where}, {key!r}") for key, n in zip(keys, rows, strict=True))
    if len({part.shape[1:] for part in parts}) > 1:
        raise DataError(f"{where}: a row of {keys[0]!r} has shape {parts[0].shape[1:]}, of {keys[1]!r} {parts[1].shape[1:]}")
    if len({is_text(part) for part in parts}) > 1:
        raise DataError(f"{where}: {keys[0]!r} are {parts[0].dtype}, {keys[1]!r} are {parts[1].dtype}; only one is text")
    return parts


def as_y(y: Any, n: int, where: str) -> Any:
    """Labels or targets (N,), or a second view, which is flattened if it consists of images."""
    if hasattr(y, "tocsr"):
        raise DataError(f"{where}: a sparse matrix; expected a dense array of labels, targets or a second view")
    if is_text(y) and y.shape == (n,):
        return np.asarray(y, str)
    y = real(y, where)
    if y.ndim not in (1, 2, 3) or len(y) != n:
        raise DataError(f"{where}: shape {y.shape}; expected ({n},), or ({n}, E) for a second view: as many rows as x has")
    if y.ndim > 1:
        return _as_rows(y, where)[0]
    if y.dtype.kind == "u" and y.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: the label {y.max()} at row {y.argmax()} (counted from 0) is beyond int64")
    return _finite(y, where)


def is_text(y: Any) -> bool:
    """Whether these are labels in words."""
    kind = getattr(getattr(y, "dtype", None), "kind", "")
    return kind == "U" or (kind == "O" and all(isinstance(label, str) for label in np.ravel(y)))


def as_weight(weight: Any, n: int, where: str) -> np.ndarray:
    check_weight(weight, n, where)
    if not np.any(weight):
        raise DataError(f"{where}: all {n} weights are 0")
    return _finite(np.asarray(weight), where)


def _converted(train: Any, test: Any, column: str = "x") -> tuple[Any, Any]:
    """Both as C-contiguous float32, or float64 if either is or has whole numbers that float32 would round; grey levels
    / 255; labels of y as int64; CSR as it is."""
    parts = (train, test)
    if is_csr(train):
        return parts
    if train.dtype.kind == "U":
        return parts
    if column == "y" and train.ndim == 1 and all(x.dtype.kind in "biu" for x in parts):
        return train.astype(np.int64), test.astype(np.int64)
    dtype = np.float64 if any(x.dtype.str[1:] == "f8" or not _is_exact(x) for x in parts) else np.float32
    if train.ndim > 1 and any(x.dtype == np.uint8 and x.max() > 1 for x in parts):
        train, test = (scaled(x, dtype) if x.dtype == np.uint8 else x for x in parts)
    return np.ascontiguousarray(train, dtype=dtype), np.ascontiguousarray(test, dtype=dtype)


def _is_exact(x: np.ndarray) -> bool:
    """Whether float32 holds the numbers, if they are whole ones."""
    if np.can_cast(x.dtype, np.float32) or x.dtype.kind not in "iu" or not x.size:
        return True
    return bool(x.min() >= -WHOLE and x.max() <= WHOLE)


def scaled(x: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """x / 255 as C-contiguous rows; by all CPUs, because on a virtual machine new memory takes longer than dividing."""
    out = np.empty(x.shape, dtype)

    def scale(first: int) -> None:
        rows = slice(first, first + 1000)
        np.divide(x[rows], 255, out=out[rows], dtype=dtype)

    pool.each(scale, range(0, len(x), 1000))
    return out
