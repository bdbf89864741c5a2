"""Ufuncs, functions and linear algebra: NumPy's on the memory behind the arrays, with CuPy's parameters and refusals."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any

import numpy as np
import scipy.special
from scipy.linalg import blas

from emulator import cupy_emulated
from emulator.cupy_emulated.arrays import (
    SCALARS,
    array_of,
    changed,
    check_parameters,
    computed,
    device_of,
    host_of,
    index_of,
    ndarray,
    wrapped,
)
from emulator.cupy_emulated.counting import NAMES, count, not_captured, words
from emulator.cupy_emulated.memory import MemoryPool, poisoned, pool


class ufunc:
    """One of CuPy's: takes arrays of the device and numbers, `out`, `dtype` and `casting`."""

    def __init__(self, host: Any, owner: str, name: str):
        self._numpy, self._owner, self.name = host, owner, name
        self.__name__ = f"{owner.replace('.', '_')}_{name}"
        self.nin, self.nout = host.nin, host.nout

    def __repr__(self) -> str:
        return f"<ufunc {self.__name__!r}>"

    def __call__(self, *args, **kwargs):
        generalized = self._numpy.signature is not None
        unknown = set(kwargs) - {"out", "dtype", "casting"} - ({"axes", "axis", "keepdims"} if generalized else set())
        if unknown:
            raise TypeError(f"Wrong arguments {dict.fromkeys(unknown)}")
        for x in (*args, kwargs.get("out")):
            if x is not None and not isinstance(x, (ndarray, *SCALARS)):
                raise TypeError(f"Unsupported type {type(x)}")
        if generalized and not all(isinstance(x, ndarray) for x in args):
            raise TypeError(f"{self.name} takes arrays of the device only")
        out = kwargs.get("out", args[self.nin] if len(args) > self.nin else None)
        if generalized:
            not_captured("cuBLAS")
        if out is not None:
            changed(self._numpy, *host_of(args), **host_of(kwargs))
            return out
        return computed(self._numpy, *host_of(args), **host_of(kwargs))

    def at(self, a, indices, b=None) -> None:
        changed(lambda a, i, b: self._numpy.at(a, wrapped(i, a.shape), b), a._host, index_of(indices)[0], host_of(b))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.name not in ("add", "multiply"):
            raise NotImplementedError(f"`{self.__name__}.reduce` is not supported yet")
        return getattr(array, "sum" if self.name == "add" else "prod")(axis, dtype, out, keepdims)


def ufuncs(owner: str, host: Any) -> dict[str, Any]:
    """The ufuncs that both CuPy and the host's module have."""
    both = [n for n, kind in NAMES[owner].items() if kind == "ufunc" and isinstance(getattr(host, n, None), np.ufunc)]
    return {n: ufunc(getattr(host, n), owner, n) for n in both}


WAITING = {"argwhere", "flatnonzero", "nonzero", "unique"}  # the size of the result depends on values


def function(owner: str, name: str, host: Any):
    @functools.wraps(host)
    def function(*args, **kwargs):
        check_parameters(owner, name, args, kwargs)
        if name in WAITING or (name == "where" and len(args) + len(kwargs) == 1):
            count("to_host")
        out = kwargs.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"Unsupported type {type(out)}")
        if name in PRODUCTS:
            not_captured("cuBLAS")
        if name == "copyto":
            changed(host, *host_of(args), **host_of(kwargs))
            return None
        if out is not None:
            changed(host, *host_of(args), **host_of(kwargs))
            return out
        return computed(host, *host_of(args), **host_of(kwargs))

    return function


PRODUCTS = {"dot", "einsum", "inner", "outer", "tensordot", "vdot"}  # of cuBLAS, most of them
FUNCTIONS = words("""
    all allclose amax amin any append arange argmax argmin argsort argwhere around array_equal array_split atleast_1d
    atleast_2d average bincount broadcast_arrays broadcast_to can_cast clip column_stack compress concatenate copyto
    count_nonzero cross cumprod cumsum diag diagflat diagonal diff dot dstack einsum expand_dims eye flatnonzero flip
    fliplr flipud full full_like hstack identity indices inner interp isclose isneginf isposinf kron lexsort linspace
    logspace max may_share_memory mean median meshgrid min moveaxis nan_to_num nanmax nanmin nansum ndim nonzero ones
    ones_like outer pad percentile prod ptp put_along_axis quantile ravel repeat reshape result_type roll rollaxis
    searchsorted select shape shares_memory size sort split squeeze stack std sum swapaxes take take_along_axis
    tensordot tile trace transpose trapezoid tri tril tril_indices triu triu_indices unique unravel_index var vdot
    vstack where zeros zeros_like
""")


def on_host(a: Any) -> bool:
    """Whether an array would have to be moved to the device; a list of the device's arrays would not."""
    if isinstance(a, (list, tuple)):
        return not a or any(on_host(v) for v in a)
    return not isinstance(a, ndarray)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False) -> ndarray:
    if isinstance(obj, ndarray):
        settings = {"dtype": dtype, "copy": copy or None, "order": order, "ndmin": ndmin}
        return obj if np.array(obj._host, **settings) is obj._host else computed(np.array, obj._host, **settings)
    if not on_host(obj):
        return computed(np.array, host_of(obj), dtype=dtype, order=order, ndmin=ndmin)
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    count("to_device")
    return device_of(host)


def asarray(a, dtype=None, order=None, copy=None, blocking=False) -> ndarray:
    return array(a, dtype, bool(copy), order or "K")


def ascontiguousarray(a, dtype=None) -> ndarray:
    return array(a, dtype, False, "C", ndmin=1)


def asfortranarray(a, dtype=None) -> ndarray:
    return array(a, dtype, False, "F", ndmin=1)


def empty(shape, dtype=float, order="C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    host = np.empty_like(host_of(prototype), dtype=dtype, order=order, shape=shape)
    return array_of(poisoned(host.shape, host.dtype, strides=host.strides))


def copy(a, order="K") -> ndarray:
    return a.copy(order)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream, order, out)
    host = np.asarray(a, order=order)
    if out is None:
        return host
    out[...] = host
    return out


def get_array_module(*args):
    return cupy_emulated.cupy if any(isinstance(a, ndarray) for a in args) else np


def fill_diagonal(a, val, wrap=False) -> None:
    changed(np.fill_diagonal, host_of(a), host_of(val), wrap)


def put(a, ind, v, mode="wrap") -> None:
    changed(np.put, host_of(a), host_of(ind), host_of(v), mode)


def get_default_memory_pool() -> MemoryPool:
    return pool


OWN = (array, asarray, ascontiguousarray, asfortranarray, empty, empty_like, copy, asnumpy)
OWN += (get_array_module, fill_diagonal, put, get_default_memory_pool)


# linear algebra: what fails is not noticed, unless cupyx.errstate(linalg="raise") asks for it


def linear_algebra(name: str):
    host = getattr(np.linalg, name)

    def function(*args, **kwargs):
        check_parameters("cupy.linalg", name, args, kwargs)
        not_captured("cuSOLVER")
        try:
            return computed(host, *host_of(args), **host_of(kwargs))
        except np.linalg.LinAlgError:
            if _errors.linalg == "raise":
                raise
        if name != "cholesky":
            raise NotImplementedError(f"cupy.linalg.{name} of a singular matrix: what the device leaves is not emulated")
        return computed(_failing_cholesky, args[0]._host)

    function.__name__ = name
    return function


def _failing_cholesky(a: np.ndarray) -> np.ndarray:
    """Matrix by matrix; what a failed one leaves is undefined on a device, and NaN here."""
    result = np.full_like(a, np.nan)
    for i in np.ndindex(a.shape[:-2]):
        with contextlib.suppress(np.linalg.LinAlgError):
            result[i] = np.linalg.cholesky(a[i])
    return result


LINEAR_ALGEBRA: dict[str, Any] = {
    name: linear_algebra(name)
    for name in words("cholesky det eigh eigvalsh inv matrix_power norm pinv qr slogdet solve svd")
} | {"LinAlgError": np.linalg.LinAlgError}


def solve_triangular(a, b, trans=0, lower=False, unit_diagonal=False, overwrite_b=False, check_finite=False):
    """cupyx.scipy.linalg's, of two matrices: cuBLAS divides by a zero on the diagonal."""
    not_captured("cuBLAS")
    trsm = {"d": blas.dtrsm, "f": blas.strsm}[a.dtype.char]
    solve = functools.partial(trsm, 1.0, lower=lower, trans_a=trans, diag=unit_diagonal)
    return computed(solve, *host_of((a, b)))


class _Errors(threading.local):
    linalg = "ignore"


_errors = _Errors()


@contextlib.contextmanager
def errstate(*, divide=None, over=None, under=None, invalid=None, linalg=None):
    if any(setting is not None for setting in (divide, over, under, invalid)):
        raise NotImplementedError
    before, _errors.linalg = _errors.linalg, linalg or _errors.linalg
    try:
        yield
    finally:
        _errors.linalg = before


def rsqrt(x):
    return 1 / cupy_emulated.cupy.sqrt(x)


SPECIAL = ufuncs("cupyx.scipy.special", scipy.special) | {
    name: function("cupyx.scipy.special", name, getattr(scipy.special, name))
    for name in words("log_softmax logsumexp polygamma softmax zeta")
}
