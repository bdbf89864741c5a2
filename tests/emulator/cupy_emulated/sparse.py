"""cupyx.scipy.sparse: compressed matrices, as far as a product with a dense one needs them."""

from __future__ import annotations

import operator
from typing import Any

import scipy.sparse

from emulator.cupy_emulated.arrays import computed, device_of, host_of, index_of, ndarray, wrapped
from emulator.cupy_emulated.counting import count, not_captured

DTYPES = ("?", "f", "d", "F", "D")


class _Compressed:
    __array_priority__ = 101
    _of_host: Any

    def __init__(self, arg1, shape=None, dtype=None, copy=False):
        if scipy.sparse.issparse(arg1):
            count("to_device")
        elif isinstance(arg1, tuple) and len(arg1) == 3:
            arg1 = tuple(host_of(part) for part in arg1)
        elif isinstance(arg1, _Compressed):
            arg1 = arg1._matrix
        elif isinstance(arg1, ndarray):
            count("to_host")  # the number of entries
            arg1 = arg1._host
        else:
            raise ValueError("Unsupported initializer format")
        self._matrix = self._of_host(arg1, shape=shape, dtype=dtype, copy=copy)
        if self._matrix.dtype.char not in DTYPES:
            raise ValueError("Only bool, float32, float64, complex64 and complex128 are supported")

    shape = property(lambda self: self._matrix.shape)
    dtype = property(lambda self: self._matrix.dtype)
    nnz = property(lambda self: self._matrix.nnz)
    ndim = 2
    format = property(lambda self: self._matrix.format)
    data = property(lambda self: device_of(self._matrix.data))
    indices = property(lambda self: device_of(self._matrix.indices))
    indptr = property(lambda self: device_of(self._matrix.indptr))
    T = property(lambda self: self.transpose())

    def transpose(self, axes=None, copy=False) -> _Compressed:
        return _of(self._matrix.T)

    def astype(self, dtype, copy=True) -> _Compressed:
        return _of(self._matrix.astype(dtype, copy=copy))

    def copy(self) -> _Compressed:
        return _of(self._matrix.copy())

    def get(self, stream=None) -> Any:
        count("to_host")
        return self._matrix.copy()

    def toarray(self, order=None, out=None) -> ndarray:
        return computed(self._matrix.toarray, order=order)

    def tocsr(self, copy=False) -> _Compressed:
        return _of(self._matrix.tocsr())

    def __getitem__(self, key) -> Any:
        not_captured("cuSPARSE")
        index = wrapped(index_of(key)[0], self.shape)
        return _of(self._matrix[index if len(index) > 1 else index[0]])

    def __matmul__(self, other) -> Any:
        not_captured("cuSPARSE")
        if isinstance(other, ndarray):
            return computed(operator.matmul, self._matrix, other._host)
        if isinstance(other, _Compressed):
            return _of((self._matrix @ other._matrix).tocsr())
        raise TypeError(f"Unsupported type {type(other)}")

    dot = __matmul__

    def __len__(self) -> int:
        raise TypeError("sparse matrix length is ambiguous; use getnnz()")


def _of(matrix: Any) -> _Compressed:
    new = object.__new__(csc_matrix if matrix.format == "csc" else csr_matrix)
    new._matrix = matrix
    return new


class csr_matrix(_Compressed):
    __module__ = "cupyx.scipy.sparse"
    _of_host = scipy.sparse.csr_matrix


class csc_matrix(_Compressed):
    __module__ = "cupyx.scipy.sparse"
    _of_host = scipy.sparse.csc_matrix


def issparse(x: Any) -> bool:
    return isinstance(x, _Compressed)
