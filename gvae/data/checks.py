"""Checks of data that need no model: real numbers, finite, within a support; weights; the names of columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.distributions import Support
from gvae.errors import DataError, DTypeError
from gvae.ops.sparse import is_csr
from gvae.runtime.device import to_host

__all__ = ["check_finite", "check_support", "check_weight", "column_names", "place", "real"]


def check_finite(x: Any, name: str = "data", names: Any = None, rows: Any = None) -> None:
    """Raise an error if data hold a NaN or infinity.

    Parameters
    ----------
    x : array (N, ...) or CSR (N, D)
    name : str, default "data"
        The error's message begins with it.
    names : sequence of str, optional
        The D columns' names, which the message then uses instead of their indices.
    rows : int array (N,), optional
        The rows' indices, if x is a part of a table.

    Raises
    ------
    DataError
        The message has the first row and column (counted from 0) and the count of such values; also raised where x is
        not an array of real numbers.

    Examples
    --------
    >>> gvae.data.check_finite(np.ones((2, 3)))
    >>> gvae.data.check_finite(np.array([[1.0, np.nan]]), "ages")
    Traceback (most recent call last):
        ...
    gvae.errors.DataError: ages: NaN or infinite values: 1 in all, the first, nan, at row 0, column 1 (counted from 0)
    """
    x = real(x, name)
    values = x.data if is_csr(x) else x
    with np.errstate(invalid="ignore", over="ignore"):
        if values.dtype.kind != "f" or values.size == 0 or np.isfinite(values.sum()):
            return  # a NaN or infinity shows in the sum; no temporary of the size of x
        if np.isfinite(values.min()) and np.isfinite(values.max()):
            return  # only the sum is too large
    _refuse(~np.isfinite(values), x, f"{name}: NaN or infinite values", names, rows)


def check_support(x: Any, support: Support, name: str = "data", names: Any = None, rows: Any = None) -> None:
    """Raise an error if data leave the support of an observation model's distribution.

    Parameters
    ----------
    x : array (N, ...) or CSR (N, D)
        A NaN is outside. For CSR the stored values are checked, and 0 if there is an entry that is not stored; no dense
        copy is made.
    support : Support
        See `gvae.distributions.Support`.
    name : str, default "data"
        The error's message begins with it.
    names : sequence of str, optional
        The D columns' names, which the message then uses instead of their indices.
    rows : int array (N,), optional
        The rows' indices, if x is a part of a table.

    Raises
    ------
    DataError
        The message has the first row and column (counted from 0), the value there and the count of such values; also
        raised where x is not an array of real numbers.

    Examples
    --------
    >>> counts = gvae.distributions.Support(0, whole=True)
    >>> gvae.data.check_support(np.array([[0, 3]]), counts)
    >>> gvae.data.check_support(np.array([[0.5, 3.0]]), counts, "words")
    Traceback (most recent call last):
        ...
    gvae.errors.DataError: words: values outside 0, 1, ..: 1 in all, the first, 0.5, at row 0, column 0 (counted from 0)
    """
    x = real(x, name)
    complaint = f"{name}: values outside {support}"
    if not is_csr(x):
        with np.errstate(invalid="ignore"):
            if not support.holds(x):
                _refuse(~support.contains(x), x, complaint, names, rows)
        return
    if not x.has_canonical_format:  # an entry in several parts is their sum
        x = x.copy()
        x.sum_duplicates()
    missing = 0 if support.contains(np.zeros(1))[0] else x.shape[0] * x.shape[1] - x.nnz
    with np.errstate(invalid="ignore"):
        if missing or not support.holds(x.data):
            _refuse(~support.contains(x.data), x, complaint, names, rows, missing)


def check_weight(weight: Any, n: int, name: str = "weight") -> None:
    """Raise an error unless weights are n real numbers, finite and at least 0.

    Parameters
    ----------
    weight : array (n,)
    n : int
        The number of rows.
    name : str, default "weight"
        The error's message begins with it.

    Raises
    ------
    DataError
        The message has the first such row.

    Examples
    --------
    >>> gvae.data.check_weight(np.array([1.0, 0.0, 2.5]), 3)
    >>> gvae.data.check_weight(np.array([1.0, -1.0]), 2)
    Traceback (most recent call last):
        ...
    gvae.errors.DataError: weight: weights that are negative, NaN or infinite: 1 in all, the first, -1.0, at row 1 ...
    """
    weight = real(to_host(weight), name)
    if weight.shape != (n,):
        raise DataError(f"{name}: shape {weight.shape}; expected ({n},), a number for each row of x")
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if bad.size:
        where = f"the first, {weight[bad[0]]}, at row {bad[0]} (counted from 0)"
        raise DataError(f"{name}: weights that are negative, NaN or infinite: {bad.size} in all, {where}")


def column_names(X: Any) -> np.ndarray | None:
    """The names of a data frame's columns.

    Parameters
    ----------
    X : object
        Data frames of pandas and polars have names. Neither package is imported.

    Returns
    -------
    array (D,) of object, or None
        None if X has no columns, or names that are not all strings.

    Raises
    ------
    DTypeError
        Some names are strings and others are not, as in scikit-learn.

    Examples
    --------
    >>> import pandas
    >>> gvae.data.column_names(pandas.DataFrame({"age": [31], "height": [1.7]}))
    array(['age', 'height'], dtype=object)
    """
    columns = getattr(X, "columns", None)
    if columns is None or len(getattr(X, "shape", ())) != 2:
        return None
    names = list(columns)
    strings = [name for name in names if isinstance(name, str)]
    if not strings:
        return None
    if others := [name for name in names if not isinstance(name, str)]:
        raise DTypeError(
            f"column_names: the columns of X have names of mixed types, such as {strings[0]!r} and {others[0]!r}; "
            "expected only strings: X.columns = X.columns.astype(str)"
        )
    return np.array(names, dtype=object)


def real(x: Any, where: str) -> Any:
    """x as an array of real numbers, of any rank, or as CSR if it is sparse. Raises DataError."""
    if hasattr(x, "tocsr"):
        x = x.tocsr()
    else:
        if np.ma.is_masked(x):
            raise DataError(f"{where}: masked entries; gvae takes complete rows only")
        try:
            x = np.asarray(x)
        except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, arrays on a device
            raise DataError(f"{where}: not an array of numbers ({error})") from error
    if x.dtype.kind not in "biuf":
        hint = "; encode text, such as labels, as numbers" if x.dtype.kind in "OSU" else ""
        raise DataError(f"{where}: dtype {x.dtype} is not real numbers{hint}")
    return x


def _refuse(bad: np.ndarray, x: Any, complaint: str, names: Any, rows: Any = None, missing: int = 0) -> None:
    """Raise for the entries of x where bad is true; for CSR, bad refers to stored values, and `missing` zeros are bad
    too."""
    first = int(bad.argmax()) if bad.size else 0  # in C order, whatever the memory layout
    if is_csr(x):
        row, column, value = _first_of_csr(first if bad.any() else None, x, bool(missing))
    else:
        row, column = divmod(first, x.size // x.shape[0] if x.ndim else 1)
        value = x.flat[first]
    row = row if rows is None else int(rows[row])
    where = place(row, column, names)
    raise DataError(f"{complaint}: {np.count_nonzero(bad) + missing} in all, the first, {value}, at {where}")


def place(row: int, column: int, names: Any) -> str:
    """An entry of a table in words, by the names of its columns if they are not None."""
    if names is None:
        return f"row {row}, column {column} (counted from 0)"
    return f"row {row} (counted from 0), column {str(names[column])!r}"


def _first_of_csr(stored: int | None, x: Any, zeros: bool) -> tuple[int, int, Any]:
    """Row, column and value of the first of two: the stored value of this number, and an entry that is not stored."""
    places = []
    if stored is not None:
        row = int(np.searchsorted(x.indptr, stored, side="right")) - 1
        places.append((row, int(x.indices[stored]), x.data[stored]))
    if zeros:
        row = int((np.diff(x.indptr) < x.shape[1]).argmax())
        there = x.indices[x.indptr[row] : x.indptr[row + 1]]
        gaps = np.flatnonzero(there != np.arange(len(there)))  # sorted and without duplicates
        places.append((row, int(gaps[0]) if gaps.size else len(there), x.dtype.type(0)))
    return min(places, key=lambda place: place[:2])
