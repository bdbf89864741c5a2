"""What callers hand over, as arrays that a model takes: matrices, counts, labels, weights."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

import numpy as np

from gvae import data
from gvae.data.checks import place
from gvae.data.rows import Column, as_rows, stored_in
from gvae.errors import DataError, DTypeError, ShapeError

__all__ = [
    "as_counts",
    "as_matrix",
    "as_weight",
    "check_names",
    "converted",
    "encoded",
    "loaded",
    "names_of",
    "numbers",
    "part_of",
]


def loaded(X: Any) -> Any:
    """Rows of a file as an array; anything else as it is."""
    rows = as_rows(X)
    return X if rows is None else rows.take(np.arange(rows.shape[0]))


def part_of(column: Any, which: np.ndarray) -> Any:
    """Some rows of a column, by indices or by an array of bool; a part of one that is not in memory or not converted."""
    return column.part(which) if isinstance(column, Column) else column[which]


def numbers(X: Any, name: str, model: str = "a VAE") -> np.ndarray:
    """X as an array of real numbers of any shape."""
    if isinstance(X, (str, os.PathLike)):
        raise DataError(
            f"{name} is {str(X)!r:.80}, expected an array: the rows of a file are gvae.data.open_rows(path), or "
            "gvae.data.load(path).train"
        )
    if hasattr(X, "tocsr"):
        raise DataError(f"{name} is a sparse matrix, which {model} does not take: give {name}.toarray(){_takers()}")
    if np.ma.is_masked(X):
        raise DataError(f"{name} has masked entries; {model} takes complete rows only")
    x = None
    try:
        x = np.asarray(X)
        if x.dtype == object:  # as pandas gives for nullable columns, and for columns of several kinds
            x = x.astype(np.float64)
    except (TypeError, ValueError) as error:
        kind = DTypeError if isinstance(error, TypeError) else DataError
        where = "" if x is None else _first_without_number(x, names_of(X))
        raise kind(f"{name} is not an array of real numbers: {error}{where}") from None
    if x.dtype.kind == "c":
        raise DataError(f"{name} is an array of {x.dtype}, expected real numbers. Complex data not supported")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{name} is an array of {x.dtype}, expected real numbers")
    return x


def _first_without_number(x: np.ndarray, names: Any) -> str:
    """Where the first entry is that is not a number, as a part of a message."""
    for i, entry in enumerate(x.flat):
        try:
            np.float64(entry)  # None is a NaN
        except (TypeError, ValueError):
            return f", at {place(*divmod(i, max(1, x.size // len(x))), names)}" if x.ndim else ""
    return ""


def _takers() -> str:
    """The estimators that read counts."""
    from gvae.estimator import estimators

    names = [f"gvae.{c.__name__}" for c in estimators().values() if c.model.columns["x"] == "counts"]
    return f"; models of sparse counts are {', '.join(names)}" if names else ""


def as_matrix(
    X: Any,
    dtype: np.dtype,
    name: str,
    *,
    columns: int | None = None,
    grey: bool | None = None,
    exact: bool = False,
    model: str = "VAE",
    rows: Any = None,
) -> tuple[np.ndarray, bool | None]:
    """Rows as a finite, C-contiguous matrix of the model's dtype, and whether they were grey levels (None: not uint8).

    columns : how many there must be           grey : whether uint8 are grey levels; None: if any is above 1
    exact   : what dtype would round is float64 instead
    rows    : the rows' indices for messages, if they are a part of a table
    """
    x = numbers(X, name, model if model != "VAE" else "a VAE")
    if x.ndim == 3:
        x = x.reshape(len(x), -1)
    check_rows(x.shape, name, columns, model)
    data.check_finite(x, name, names=names_of(X), rows=rows)
    is_uint8 = x.dtype == np.uint8
    if is_uint8 and grey is None:
        grey = bool(x.max() > 1)
    result = converted(x, np.dtype(np.float64) if exact and not np.can_cast(x.dtype, dtype) else dtype, name)
    if is_uint8 and grey:
        result = result / dtype.type(255)
    return result, grey if is_uint8 else None


def presented(x: np.ndarray, dtype: np.dtype, grey: bool) -> np.ndarray:
    """Rows as `as_matrix` returns them, without its checks; grey: whether bytes are grey levels."""
    with np.errstate(over="ignore"):
        result = np.array(x.reshape(len(x), -1), dtype, order="C", copy=None)
    return result / dtype.type(255) if grey and x.dtype == np.uint8 else result


def check_rows(shape: tuple[int, ...], name: str, columns: int | None, model: str) -> None:
    """Raise ShapeError or DataError unless there are rows, each with that many columns."""
    if len(shape) != 2:
        hint = ". Reshape your data: one row is x.reshape(1, -1)" if len(shape) < 2 else ""
        raise ShapeError(f"{name} has shape {shape}, expected (rows, columns) or (rows, height, width){hint}")
    if 0 in shape:
        what, n = ("sample", shape[0]) if shape[0] == 0 else ("feature", shape[1])
        raise DataError(f"{name} has {n} {what}(s) (shape={shape}) while a minimum of 1 is required.")
    if columns is not None and shape[1] != columns:
        raise ShapeError(f"{name} has {shape[1]} features, but {model} is expecting {columns} features as input")


def converted(x: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Numbers as C-contiguous ones of the dtype. DataError if they are too large for it."""
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(x, dtype)
    if x.dtype.kind == "f" and x.dtype.itemsize > dtype.itemsize:
        data.check_finite(result, f"{name} as {dtype}")
    return result


def as_columns(y: Any) -> Any:
    """A second view of one axis as one column."""
    return np.asarray(y).reshape(-1, 1) if y is not None and len(np.shape(np.asarray(y))) == 1 else y


def as_counts(
    X: Any, dtype: np.dtype, name: str, *, columns: int | None = None, model: str = "VAE", rows: Any = None
) -> Any:
    """Rows of whole numbers as a canonical CSR matrix of the model's dtype; CSR rows never become dense."""
    from scipy import sparse

    if not hasattr(X, "tocsr"):
        x = numbers(X, name, model)
        if x.ndim == 3:
            x = x.reshape(len(x), -1)
        check_rows(x.shape, name, columns, model)
        data.check_finite(x, name, names=names_of(X), rows=rows)
        X = sparse.csr_array(x.astype(np.float32) if x.dtype == np.float16 else x)  # SciPy has no matrices of float16
    check_rows(X.shape, name, columns, model)
    x = data.as_csr(X, name).astype(dtype, copy=False)
    if x.nnz and x.data.min() < 0:
        least_of_all = int(x.data.argmin())  # stored zeros count as well
        row, column = int(np.searchsorted(x.indptr, least_of_all, side="right")) - 1, x.indices[least_of_all]
        row = row if rows is None else rows[row]
        least = f"the least, {x.data.min():g}, at row {row}, column {column} (counted from 0)"
        raise DataError(f"Negative values in data passed to {model}: {name} are counts; {least}")
    return x


def encoded(y: Any, n: int, name: str = "y", classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(labels as 0 .. C-1, int64, (n,); the C classes). classes: those of the fit; a label that is none of them is an error.

    Raises DataError for a length other than n, for labels that are missing, fractional or not seen by the fit.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        said = f"A column-vector {name} was passed when a 1d array was expected: labels of shape (n_samples,)"
        warnings.warn(said, _warning(), stacklevel=4)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ShapeError(f"{name} has shape {labels.shape}, expected labels of shape ({n},)")
    if len(labels) != n:
        raise DataError(f"{name} has {len(labels)} labels, but X has {n} rows")
    if labels.dtype.kind == "f":
        data.check_finite(labels[:, None], name)
        odd = np.flatnonzero(labels != np.floor(labels))
        if len(odd):
            raise DataError(
                f"Unknown label type: {name} has fractional labels, {len(odd)} in all, the first, {labels[odd[0]]}, at row "
                f"{odd[0]} (counted from 0); expected classes"
            )
    elif labels.dtype.kind == "c":
        raise DataError(f"{name} is an array of {labels.dtype}, expected labels. Complex data not supported")
    elif labels.dtype == object:
        missing = [i for i, label in enumerate(labels) if label is None or (label == label) is not True]
        if missing:
            raise DataError(f"{name}: the label of row {missing[0]} (counted from 0) is missing (NaN)")
    try:
        known, codes = np.unique(labels, return_inverse=True)
        json.dumps(known.tolist())  # as a file keeps them
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
        raise DataError(f"{name} has labels of type {kinds}, expected text, numbers or booleans, all of one type") from None
    if classes is None:
        return codes.astype(np.int64), known
    places = np.searchsorted(classes, labels).clip(0, len(classes) - 1)
    unseen = np.flatnonzero(classes[places] != labels)
    if len(unseen):
        raise DataError(
            f"{name}: the label {labels[unseen[0]]!s} of row {unseen[0]} (counted from 0) was not seen by fit; "
            f"known are {', '.join(map(str, classes[:10]))}{', ...' if len(classes) > 10 else ''}"
        )
    return places.astype(np.int64), classes


def _warning() -> type[Warning]:
    """scikit-learn's DataConversionWarning, if the caller uses scikit-learn."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return UserWarning if exceptions is None else exceptions.DataConversionWarning


def as_weight(weight: Any, n: int, dtype: np.dtype) -> np.ndarray:
    """Weights of n rows, (n,), as multiples of the mean of those above 0: only their ratios count.

    DataError for another length, negative or infinite weights, or none above 0.
    """
    w = numbers(weight, "sample_weight")
    w = np.full(n, w) if w.ndim == 0 else w
    data.check_weight(w, n, "sample_weight")
    if not w.any():
        raise DataError("sample_weight is zero for all rows")
    w = (w / w.max()).astype(dtype).astype(np.float64)  # sums of large weights overflow, and the smallest are 0 here
    return (w * (np.count_nonzero(w) / w.sum())).astype(dtype)


# ---- names of columns ----------------------------------------------------------------------------


def names_of(X: Any) -> np.ndarray | None:
    """The names of the columns of a DataFrame; None if they have none."""
    return data.column_names(X)


def named(rows: Any) -> np.ndarray | None:
    """The names of the columns of rows in a file."""
    names = getattr(stored_in(rows), "names", None)
    return None if not names else np.array(names, dtype=object)


def check_names(X: Any, known: np.ndarray | None, model: str) -> None:
    """Compare the names of X's columns with those of the fit, as scikit-learn does. Raises DataError for other names, and
    warns where only one of the two has names."""
    given = names_of(X) if known is None or not isinstance(X, data.Rows) else named(X)
    if known is None and given is not None:
        warnings.warn(f"X has feature names, but {model} was fitted without feature names", UserWarning, stacklevel=4)
    elif known is not None and given is None:
        warnings.warn(
            f"X does not have valid feature names, but {model} was fitted with feature names", UserWarning, stacklevel=4
        )
    elif known is not None and given is not None and (len(known) != len(given) or (known != given).any()):
        raise DataError(_difference(list(known), list(given)))


def check_names_of_validation(X: Any, known: np.ndarray | None, name: str) -> None:
    """DataError if rows to validate on have names, and others than those of the fit."""
    given = named(X) if isinstance(X, data.Rows) else names_of(X)
    if known is not None and given is not None and (len(known) != len(given) or (known != given).any()):
        raise DataError(f"{name}: {_difference(list(known), list(given))}")


def _difference(known: list[str], given: list[str]) -> str:
    """In the words that scikit-learn's own checks expect."""
    lines = ["The feature names should match those that were passed during fit."]
    for title, names in (
        ("Feature names unseen at fit time:", sorted(set(given) - set(known))),
        ("Feature names seen at fit time, yet now missing:", sorted(set(known) - set(given))),
    ):
        if names:
            lines += [title, *(f"- {name}" for name in names[:5]), *(["- ..."] if len(names) > 5 else [])]
    if len(lines) == 1:
        lines.append("Feature names must be in the same order as they were in fit.")
    return "\n".join(lines) + "\n"
