"""Product of a CSR matrix and a dense matrix: counts and bags of words without a dense copy."""

from __future__ import annotations

import operator

from gvae.autodiff import primitive
from gvae.checks import check_floating
from gvae.errors import DeviceError, DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.device import is_cuda
from gvae.typing import Array, Cotangents, Needs

__all__ = ["csr_matmul", "is_csr"]


def is_csr(x: Array) -> bool:
    """Whether x is a SciPy or CuPy CSR matrix or array.

    Parameters
    ----------
    x : object

    Returns
    -------
    bool
        Decided by the format of x, without importing SciPy or CuPy.

    Examples
    --------
    >>> import scipy.sparse
    >>> gvae.ops.is_csr(scipy.sparse.csr_array(np.eye(2))), gvae.ops.is_csr(np.eye(2))
    (True, False)
    """
    return getattr(x, "format", None) == "csr" and hasattr(x, "indptr")


def csr_matmul(x: Array, y: Array) -> Array:
    """Product x @ y of a constant CSR matrix and a dense matrix; the derivative is in y only.

    Parameters
    ----------
    x : CSR matrix (n, k)
        Real numbers, integers or booleans; used in the dtype of y.
    y : array (k, m)

    Returns
    -------
    array (n, m)

    Raises
    ------
    ShapeError, DTypeError
    DeviceError
        x is SciPy's and y CuPy's, or the reverse.

    Examples
    --------
    >>> import scipy.sparse
    >>> x = scipy.sparse.csr_array(np.array([[1, 0, 2], [0, 3, 0]]))
    >>> y = np.array([[1.0], [2.0], [3.0]])
    >>> gvae.ops.csr_matmul(x, y)
    array([[7.],
           [6.]])
    >>> gvae.gradient(lambda y: gvae.ops.csr_matmul(x, y).sum(), y)
    array([[1.],
           [3.],
           [2.]])
    """
    if not is_csr(x):
        raise DTypeError(f"csr_matmul: x is {type(x).__name__}, expected a CSR matrix")
    if x.dtype.kind not in "biuf":
        raise DTypeError(f"csr_matmul: x is {x.dtype}, expected real numbers, integers or booleans")
    return _csr_matmul(y, x=x)


@primitive
def _csr_matmul(y: Array, *, x: Array) -> Array:
    check_floating(y=y)
    if is_cuda(x) != is_cuda(y):
        kinds = ("CuPy", "NumPy") if is_cuda(x) else ("SciPy", "CuPy")
        raise DeviceError(f"csr_matmul: x is a {kinds[0]} matrix and y a {kinds[1]} array, expected both on one device")
    if y.ndim != 2 or x.shape[1] != y.shape[0]:
        raise ShapeError(f"csr_matmul: y has shape {y.shape}, expected (k={x.shape[1]}, m)")
    return device.foreign(operator.matmul, x.astype(y.dtype, copy=False), y)


@_csr_matmul.vjp
def _(z_bar: Array, z: Array, y: Array, *, needs: Needs, x: Array) -> Cotangents:
    # Z = X Y:  Ȳ = Xᵀ Z̄
    return (device.foreign(operator.matmul, x.astype(y.dtype, copy=False).T, z_bar),)
