"""Sparse matrices as checked, canonical CSR: from SciPy's, or from the arrays that `scipy.sparse.save_npz` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gvae.data.checks import check_finite
from gvae.errors import DataError

__all__ = ["PARTS", "as_csr", "csr_of"]

INDICES = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
PARTS = ("format", "shape", "data", "indices", "indptr", "row", "col")
EMPTY = 1 << 17  # rows that a file may announce in any case, and as many more for each value that it holds:
PER_VALUE = 16


def as_csr(x: Any, where: str) -> Any:
    """A checked copy of a sparse matrix, as canonical CSR.

    Parameters
    ----------
    x : sparse matrix (N, D)
        A matrix of SciPy's, in any format.
    where : str
        The error's message begins with it.

    Returns
    -------
    scipy.sparse.csr_array (N, D)
        With sorted indices and without duplicates; float32, or float64 if the data are.

    Raises
    ------
    DataError
        x is not of two axes, empty, on a device, inconsistent, or not finite real numbers.

    Examples
    --------
    >>> from scipy import sparse
    >>> counts = gvae.data.as_csr(sparse.coo_array(np.array([[0, 2], [1, 0]])), "counts")
    >>> counts.format, counts.dtype, counts.nnz
    ('csr', dtype('float32'), 2)
    """
    if x.format not in INDICES:
        x = x.tocsr()
    parts = {name: getattr(x, name) for name in ("data", *INDICES[x.format])} if len(x.shape) == 2 else {}
    if not all(isinstance(part, np.ndarray) for part in parts.values()):
        raise DataError(f"{where}: a sparse matrix on a device; expected one of SciPy's")
    return csr_of(parts | {"format": np.array(x.format), "shape": np.array(x.shape)}, where)


def csr_of(parts: Mapping[str, np.ndarray], where: str) -> Any:
    """A scipy.sparse.csr_array (N, D) with sorted indices and without duplicates, float32, or float64 if the data are.

    parts : "format" (csr, csc or coo), "shape", "data", and "indices" and "indptr", or "row" and "col"
    Raises DataError for another format, for parts that are inconsistent, and for what is not finite real numbers. Nothing
    is trusted: memory grows with what the parts hold, not with the shape that they announce.
    """
    from scipy import sparse

    form, (n, d) = _format(parts["format"], where), _shape(parts["shape"], where)
    if missing := [name for name in INDICES[form] if name not in parts]:
        raise DataError(f"{where}: a {form} matrix without {missing[0]!r}")
    data, (first, second) = parts["data"], (parts[name] for name in INDICES[form])
    if data.dtype.kind not in "biuf":
        raise DataError(f"{where}, 'data': dtype {data.dtype} is not real numbers")
    for name, part in (("data", data), *((name, parts[name]) for name in INDICES[form])):
        if part.ndim != 1 or (name != "data" and part.dtype.kind not in "iu"):
            raise DataError(f"{where}, {name!r}: {part.dtype} {part.shape}; expected one axis, and integers as indices")
    if form != "csr" and n > EMPTY + PER_VALUE * len(data):
        raise DataError(f"{where}, 'shape': {n} rows announced, too many for {len(data)} values")
    if form == "coo":
        _check_indices(first, n, len(data), f"{where}, 'row'")
        _check_indices(second, d, len(data), f"{where}, 'col'")
    else:
        _check_pointers(second, n if form == "csr" else d, len(data), f"{where}, 'indptr'")
        _check_indices(first, d if form == "csr" else n, len(data), f"{where}, 'indices'")
    dtype = np.float64 if data.dtype.kind == "f" and data.dtype.itemsize > 4 else np.float32
    index = np.int32 if max(n, d, len(data)) < 1 << 31 else np.int64  # CuPy takes int32 only
    first, second = first.astype(index), second.astype(index)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is then refused
        data = data.astype(dtype)
        x = getattr(sparse, f"{form}_array")(
            (data, (first, second)) if form == "coo" else (data, first, second), shape=(n, d)
        ).tocsr()
        x.sum_duplicates()  # it sorts, too; after the conversion, because small integers would wrap
    check_finite(x, where)
    return x


def _format(form: np.ndarray, where: str) -> str:
    text = form.item() if form.ndim == 0 else None
    text = text.decode("latin1") if isinstance(text, bytes) else text
    if text not in INDICES:
        raise DataError(f"{where}: a sparse matrix of format {text!r}; expected {', '.join(INDICES)}")
    return text


def _shape(shape: np.ndarray, where: str) -> tuple[int, int]:
    sizes = shape.tolist() if shape.dtype.kind in "iu" else None
    if shape.shape != (2,) or sizes is None or not all(0 <= size < 1 << 63 for size in sizes):
        given = sizes if sizes is not None and shape.size < 8 else f"{shape.dtype} {shape.shape}"
        raise DataError(f"{where}: a sparse matrix whose 'shape' is {given}; expected (N, D)")
    if 0 in sizes:
        raise DataError(f"{where}: shape {tuple(sizes)}; no {'columns' if sizes[0] else 'rows'}")
    return sizes[0], sizes[1]


def _check_indices(indices: np.ndarray, size: int, n: int, where: str) -> None:
    if len(indices) != n:
        raise DataError(f"{where}: {len(indices)} indices for {n} values")
    if n and not (indices.min() >= 0 and indices.max() < size):
        first = int(((indices < 0) | (indices >= size)).argmax())
        raise DataError(f"{where}: index {indices[first]} of value {first} (counted from 0) is not in 0 to {size - 1}")


def _check_pointers(pointers: np.ndarray, size: int, n: int, where: str) -> None:
    if len(pointers) != size + 1 or pointers[0] != 0 or pointers[-1] != n:
        ends = f", from {pointers[0]} to {pointers[-1]}" if len(pointers) else ""
        raise DataError(f"{where}: {len(pointers)} entries{ends}; expected {size + 1} entries, from 0 to {n}")
    falls = np.flatnonzero(pointers[1:] < pointers[:-1])
    if falls.size:
        raise DataError(f"{where}: it decreases after entry {falls[0]} (counted from 0), expected ascending numbers")
