"""CSR matrix x dense matrix: counts and bags of words without a dense copy."""

from __future__ import annotations

import operator
from typing import Any

from gvae.autodiff import primitive
from gvae.checks import check_floating
from gvae.errors import DeviceError, DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.device import is_cuda

__all__ = ["csr_matmul", "is_csr"]


def is_csr(x: Any) -> bool:
    """Whether this is a SciPy or CuPy CSR matrix or array (told by its format, without importing either)."""
    return getattr(x, "format", None) == "csr" and hasattr(x, "indptr")


def csr_matmul(x: Any, y: Any) -> Any:
    """x @ y for a constant CSR matrix x (n, k) and a dense y (k, m); the derivative is in y only.

    x may hold any real or integer data; it is used in y's dtype. Raises ShapeError, DTypeError.
    """
    if not is_csr(x):
        raise DTypeError(f"csr_matmul: x is {type(x).__name__}, expected a CSR matrix")
    if x.dtype.kind not in "biuf":
        raise DTypeError(f"csr_matmul: x is {x.dtype}, expected real numbers, integers or booleans")
    return _csr_matmul(y, x=x)


@primitive
def _csr_matmul(y, *, x):
    check_floating(y=y)
    if is_cuda(x) != is_cuda(y):
        kinds = ("CuPy", "NumPy") if is_cuda(x) else ("SciPy", "CuPy")
        raise DeviceError(f"csr_matmul: x is a {kinds[0]} matrix and y a {kinds[1]} array, expected both on one device")
    if y.ndim != 2 or x.shape[1] != y.shape[0]:
        raise ShapeError(f"csr_matmul: y has shape {y.shape}, expected (k={x.shape[1]}, m)")
    return device.foreign(operator.matmul, x.astype(y.dtype, copy=False), y)


@_csr_matmul.vjp
def _(z_bar, z, y, *, needs, x):
    # Z = X Y:  Ȳ = Xᵀ Z̄
    return (device.foreign(operator.matmul, x.astype(y.dtype, copy=False).T, z_bar),)
