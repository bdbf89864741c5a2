"""A module `cupy` whose arrays lie in the host's memory, for tests of code that takes CuPy arrays.

    with installed() as cupy, counted() as n:
        y = cupy.exp(cupy.asarray(x))
    assert n.to_device == 1 and n.to_host == 0

What it provides follows the rules of the real CuPy, as far as a caller can notice them: names and parameters that CuPy does
not have do not exist (cupy_names.json lists what it has), host and device arrays do not mix, nothing becomes a NumPy array
without being asked, reductions return arrays of no axes. What goes between host and device is counted. Memory that
`empty` returns holds NaN. Kernels run in the emulator (module.py). A name that CuPy has and this module has not raises
NotImplementedError. What it does not show: streams running at once, rounding and atomics of a device, speed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

from emulator import module as kernels

NAMES: dict[str, Any] = json.loads(Path(__file__).with_name("cupy_names.json").read_text(encoding="utf-8"))


def _words(text: str) -> list[str]:
    return text.split()


# -- counting -----------------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What happened in a `counted()` block."""

    to_host: int = 0  # copies and reads of values, each of which waits for the device; bool(x) and sizes of results too
    to_device: int = 0
    synchronize: int = 0  # waits that the caller asked for
    launches: int = 0  # of kernels of RawModules
    operations: int = 0  # calls of CuPy's own functions that compute
    allocations: int = 0


_listeners: list[Counts] = []


def _count(what: str) -> None:
    for counts in _listeners:
        setattr(counts, what, getattr(counts, what) + 1)


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count transfers, waits, launches and allocations of the block, of all threads."""
    counts = Counts()
    _listeners.append(counts)
    try:
        yield counts
    finally:
        _listeners[:] = [c for c in _listeners if c is not counts]


# -- memory -------------------------------------------------------------------------------------------------------------


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory's: more than the pool's limit is asked for."""


class MemoryPool:
    """The pool behind all arrays: knows how many bytes are in use, and refuses more than its limit."""

    def __init__(self):
        self._used, self._limit, self._refs = 0, 0, {}

    def _take(self, host: np.ndarray) -> None:
        if self._limit and self._used + host.nbytes > self._limit:
            raise OutOfMemoryError(f"Out of memory allocating {host.nbytes} bytes (allocated so far: {self._used} bytes).")
        _count("allocations")
        self._used += host.nbytes
        key, n = id(host), host.nbytes
        self._refs[key] = weakref.ref(host, lambda _: self._give(key, n))

    def _give(self, key: int, n: int) -> None:
        self._used -= n
        del self._refs[key]

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream=None) -> None:
        pass

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size=None, fraction=None) -> None:
        if fraction is not None:
            raise NotImplementedError("the emulated pool knows no size of a device: give set_limit a size")
        self._limit = size or 0


_pool = MemoryPool()


class MemoryPointer:
    """Where an array begins."""

    def __init__(self, mem: Any, offset: int):  # mem: the host array that owns the memory
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return self.mem.ctypes.data + self._offset

    @property
    def device(self) -> Device:
        return Device(0)

    device_id = 0

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    def memset_async(self, value: int, size: int, stream=None) -> None:
        ctypes.memset(self.ptr, value, size)

    memset = memset_async

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream=None) -> None:
        ctypes.memmove(self.ptr, src.ptr, size)

    copy_from_device = copy_from_device_async


def _owner(host: np.ndarray) -> np.ndarray:
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


ALIGNMENT = 512  # of what the real pool returns


def _poisoned(shape, dtype=float, order="C") -> np.ndarray:
    """Host memory, aligned as a device's, with content that shows when it is used: NaN, -1, True."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.full(size * dtype.itemsize + ALIGNMENT, 0xFF if dtype != np.bool_ else 1, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    host = raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape, order=order)
    _pool._take(raw)
    return host


# -- arrays -------------------------------------------------------------------------------------------------------------

SCALARS = (bool, int, float, complex, np.bool_, np.number)


def _host(x: Any) -> Any:
    """What NumPy computes with: the arrays behind arguments, their lists and tuples. CuPy refuses host arrays, and so does
    this."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (list, tuple)):
        return type(x)(_host(v) for v in x)
    if isinstance(x, dict):
        return {k: _host(v) for k, v in x.items()}
    return x


def _device(x: Any) -> Any:
    """Results as CuPy returns them: arrays, also of no axes."""
    if isinstance(x, (np.ndarray, np.generic)):
        return _array_of(np.asarray(x))
    if isinstance(x, (list, tuple)):
        return type(x)(_device(v) for v in x)
    return x


def _array_of(host: np.ndarray) -> ndarray:
    if host.base is None:
        _pool._take(host)
    array = object.__new__(ndarray)
    array._host = host
    return array


def _check_parameters(owner: str, name: str, args: tuple, kwargs: dict) -> None:
    """TypeError unless the real function has these parameters."""
    listed = NAMES[owner][name]
    if listed == "ufunc" or "*" in listed:
        return
    allowed = [part for part in listed.strip("()").split(", ") if part]
    unknown = set(kwargs) - set(allowed)
    if unknown:
        raise TypeError(f"{owner}.{name}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    if len(args) > len(allowed):
        raise TypeError(f"{owner}.{name}() takes at most {len(allowed)} arguments ({len(args)} given)")


class Flags:
    """As cupy's: three facts and no more."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata
        self.forc, self.fnc = flags.forc, flags.fnc

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


def _index(key: Any, shape: tuple[int, ...]) -> tuple[Any, bool]:
    """An index for NumPy, and whether it holds a mask. Arrays of the host in it are moved to the device (which counts), and
    indices in arrays wrap around instead of raising: both as CuPy does."""
    parts = list(key) if isinstance(key, tuple) else [key]
    masks = False
    for i, part in enumerate(parts):
        if isinstance(part, ndarray):
            parts[i] = part._host
        elif isinstance(part, (np.ndarray, list, tuple)):
            _count("to_device")
            parts[i] = np.asarray(part, dtype=np.int64) if np.size(part) == 0 else np.asarray(part)
        elif isinstance(part, (bool, np.bool_)):
            parts[i] = np.asarray(part)
        masks = masks or (isinstance(parts[i], np.ndarray) and parts[i].dtype == np.bool_)
    taken = [
        p.ndim if isinstance(p, np.ndarray) and p.dtype == np.bool_ else 0 if p is None or p is Ellipsis else 1
        for p in parts
    ]
    axis = 0
    for i, (part, n) in enumerate(zip(parts, taken, strict=True)):
        if part is Ellipsis:
            axis = len(shape) - sum(taken[i + 1 :])
        elif isinstance(part, np.ndarray) and part.dtype.kind in "iu" and axis < len(shape) and shape[axis]:
            parts[i] = part % shape[axis]
        axis += n
    return tuple(parts), masks


class ndarray:
    """An array that only the functions of this module compute with."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None:
            if strides is not None:
                raise NotImplementedError("the emulated ndarray takes strides with memptr only")
            self._host = _poisoned(shape, dtype, order)
            return
        owner = memptr.mem.ravel("K").view(np.uint8)
        self._host = np.ndarray(shape, dtype, owner, memptr.ptr - owner.ctypes.data, strides, order)

    # what it is

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host.flags))
    device = property(lambda self: Device(0))
    T = property(lambda self: _array_of(self._host.T))
    mT = property(lambda self: _array_of(self._host.mT))

    @shape.setter
    def shape(self, shape):
        view = self._host.view()
        view.shape = shape
        self._host = view

    def __getattr__(self, name):
        if name in NAMES["cupy.ndarray"] and not name.startswith("__"):
            raise NotImplementedError(f"cupy.ndarray.{name} exists, but not in the emulated CuPy: add it to {__name__}")
        raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")

    @property
    def data(self) -> MemoryPointer:
        owner = _owner(self._host)
        return MemoryPointer(owner, self._host.ctypes.data - owner.ctypes.data)

    @property
    def __cuda_array_interface__(self) -> dict:
        strides = None if self._host.flags.c_contiguous else self.strides
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "strides": strides,
            "data": (self.data.ptr, False),
            "stream": 1,
            "version": 3,
        }

    # to the host, each time in the caller's own words

    def get(self, stream=None, order="C", out=None, blocking=True) -> np.ndarray:
        _count("to_host")
        if out is None:
            return np.array(self._host, order=order)
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        out[...] = self._host
        return out

    def set(self, arr, stream=None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self._host.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        _count("to_device")
        self._host[...] = arr

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def tobytes(self, order="C") -> bytes:
        return self.get().tobytes(order)

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, format_spec) -> str:
        return format(self.get(), format_spec)

    def __reduce__(self):
        return array, (self.get(),)

    # parts

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    def __getitem__(self, key):
        index, masks = _index(key, self.shape)
        if masks:
            _count("to_host")  # the size of the result
        return _device(self._host[index])

    def __setitem__(self, key, value):
        index, _ = _index(key, self.shape)
        if isinstance(value, np.ndarray):
            if any(isinstance(part, np.ndarray) for part in index):
                _count("to_device")
            elif value.shape != ():
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        elif not isinstance(value, (ndarray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(value)}")
        _count("operations")
        self._host[index] = value._host if isinstance(value, ndarray) else value

    def fill(self, value) -> None:
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        _count("operations")
        self._host.fill(_host(value) if isinstance(value, ndarray) else value)

    def scatter_add(self, slices, value) -> None:
        _count("operations")
        np.add.at(self._host, _index(slices, self.shape)[0], _host(value))

    def view(self, dtype=None, type=None) -> ndarray:
        return _array_of(self._host.view() if dtype is None else self._host.view(dtype))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True) -> ndarray:
        result = self._host.astype(dtype, order=order, casting=casting or "unsafe", copy=copy)
        return self if result is self._host else _computed(result)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo) -> ndarray:
        return self.copy()

    # NumPy's own functions, called with such an array

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        operands = inputs
        if "out" in kwargs:
            if len(kwargs["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            operands += kwargs["out"]
            kwargs["out"] = kwargs["out"][0]
        if method != "__call__" or NAMES["cupy"].get(ufunc.__name__) != "ufunc":
            return NotImplemented
        for x in operands:
            if not isinstance(x, (ndarray, np.ndarray, *SCALARS)):
                return NotImplemented
        comparison = ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
        if comparison:
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return getattr(cupy, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        owner = ".".join(["cupy", *func.__module__.split(".")[1:]])
        if NAMES.get(owner, {}).get(func.__name__, "numpy") == "numpy":
            return NotImplemented
        if any(t not in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return getattr(sys.modules[owner], func.__name__)(*args, **kwargs)


def _computed(result: Any) -> Any:
    _count("operations")
    return _device(result)


def _method(name: str):
    host_method = getattr(np.ndarray, name)

    def method(self, *args, **kwargs):
        _check_parameters("cupy.ndarray", name, args, kwargs)
        out = kwargs.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"Unsupported type {type(out)}")
        result = host_method(self._host, *_host(args), **_host(kwargs))
        return out if out is not None else _computed(result)

    method.__name__ = name
    return method


METHODS = _words("""
    all any argmax argmin argpartition argsort choose clip compress conj conjugate copy cumprod cumsum diagonal dot flatten
    max mean min nonzero prod ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take trace transpose var
""")
for _name in METHODS:
    setattr(ndarray, _name, _method(_name))

BINARY = _words("add and divmod floordiv lshift matmul mod mul or pow rshift sub truediv xor lt le gt ge eq ne")
UFUNC_OF = {
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "floordiv": "floor_divide", "lshift": "left_shift",
    "rshift": "right_shift", "mod": "remainder", "mul": "multiply", "pow": "power", "sub": "subtract",
    "truediv": "true_divide", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}  # fmt: skip


def _operator(name: str, kind: str):
    ufunc_name = UFUNC_OF.get(name, name)

    def operate(self, other):
        if not isinstance(other, (ndarray, np.ndarray, *SCALARS)):
            return NotImplemented
        ufunc = getattr(cupy, ufunc_name)
        if kind == "i":
            return ufunc(self, other, out=self)
        return ufunc(other, self) if kind == "r" else ufunc(self, other)

    return operate


for _name, _kind in itertools.product(BINARY, ("", "r", "i")):
    if f"__{_kind}{_name}__" in NAMES["cupy.ndarray"]:
        setattr(ndarray, f"__{_kind}{_name}__", _operator(_name, _kind))
ndarray.__neg__ = lambda self: cupy.negative(self)
ndarray.__pos__ = lambda self: cupy.positive(self)
ndarray.__abs__ = lambda self: cupy.absolute(self)
ndarray.__invert__ = lambda self: cupy.invert(self)


# -- functions ----------------------------------------------------------------------------------------------------------


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
        with np.errstate(all="ignore"):  # a device does not warn
            result = self._numpy(*_host(args), **_host(kwargs))
        if out is not None:
            _count("operations")
            return out
        return _computed(result)

    def at(self, a, indices, b=None) -> None:
        _count("operations")
        self._numpy.at(a._host, _index(indices, a.shape)[0], _host(b))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.name not in ("add", "multiply"):
            raise NotImplementedError(f"`{self.__name__}.reduce` is not supported yet")
        return getattr(array, "sum" if self.name == "add" else "prod")(axis, dtype, out, keepdims)


WAITING = {"argwhere", "flatnonzero", "nonzero", "unique"}  # the size of the result depends on values


def _function(owner: str, name: str, host: Any):
    @functools.wraps(host)
    def function(*args, **kwargs):
        _check_parameters(owner, name, args, kwargs)
        if name in WAITING or (name == "where" and len(args) + len(kwargs) == 1):
            _count("to_host")
        out = kwargs.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"Unsupported type {type(out)}")
        with np.errstate(all="ignore"):
            result = host(*_host(args), **_host(kwargs))
        if out is not None:
            _count("operations")
            return out
        return _computed(result)

    return function


FUNCTIONS = _words("""
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


def _on_host(a: Any) -> bool:
    """Whether an array would have to be moved to the device; a list of the device's arrays would not."""
    if isinstance(a, (list, tuple)):
        return not a or any(_on_host(v) for v in a)
    return not isinstance(a, ndarray)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, blocking=False) -> ndarray:
    if isinstance(obj, ndarray):
        host = np.array(obj._host, dtype=dtype, copy=copy or None, order=order, ndmin=ndmin)
        return obj if host is obj._host else _computed(host)
    if not _on_host(obj):
        return _computed(np.array(_host(obj), dtype=dtype, order=order, ndmin=ndmin))
    host = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    if host.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    _count("to_device")
    return _array_of(host)


def asarray(a, dtype=None, order=None, copy=None, blocking=False) -> ndarray:
    return array(a, dtype, bool(copy), order or "K")


def ascontiguousarray(a, dtype=None) -> ndarray:
    return array(a, dtype, False, "C", ndmin=1)


def asfortranarray(a, dtype=None) -> ndarray:
    return array(a, dtype, False, "F", ndmin=1)


def empty(shape, dtype=float, order="C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None) -> ndarray:
    host = np.empty_like(_host(prototype), dtype=dtype, order=order, shape=shape)
    host.fill(np.nan if host.dtype.kind in "fc" else host.dtype.type(1) if host.dtype.kind == "b" else ~host.dtype.type(0))
    return _array_of(host)


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
    return cupy if any(isinstance(a, ndarray) for a in args) else np


def fill_diagonal(a, val, wrap=False) -> None:
    np.fill_diagonal(_host(a), _host(val), wrap)


def put(a, ind, v, mode="wrap") -> None:
    np.put(_host(a), _host(ind), _host(v), mode)


def get_default_memory_pool() -> MemoryPool:
    return _pool


# linear algebra: what fails is not noticed, unless cupyx.errstate(linalg="raise") asks for it


def _linalg(name: str):
    host = getattr(np.linalg, name)

    def function(*args, **kwargs):
        _check_parameters("cupy.linalg", name, args, kwargs)
        arguments = _host(args), _host(kwargs)
        with np.errstate(all="ignore"):
            try:
                return _computed(host(*arguments[0], **arguments[1]))
            except np.linalg.LinAlgError:
                if _errors.linalg == "raise":
                    raise
        if name != "cholesky":
            raise NotImplementedError(f"cupy.linalg.{name} of a singular matrix: what the device leaves is not emulated")
        return _computed(_failing_cholesky(args[0]._host))

    function.__name__ = name
    return function


def _failing_cholesky(a: np.ndarray) -> np.ndarray:
    """Matrix by matrix; what a failed one leaves is undefined on a device, and NaN here."""
    result = np.full_like(a, np.nan)
    for i in np.ndindex(a.shape[:-2]):
        with contextlib.suppress(np.linalg.LinAlgError):
            result[i] = np.linalg.cholesky(a[i])
    return result


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


def scatter_add(a, slices, value) -> None:
    a.scatter_add(slices, value)


def rsqrt(x):
    return 1 / cupy.sqrt(x)


# -- devices and streams --------------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime's."""


class Device:
    """The one device that there is."""

    def __init__(self, device=None):
        self.id = int(device or 0)
        if self.id != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"
    pci_bus_id = "0000:00:00.0"
    attributes = types.MappingProxyType(
        {"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 227 * 1024, "WarpSize": 32}
    )
    mem_info = (1 << 33, 1 << 33)

    def use(self) -> Device:
        return self

    def synchronize(self) -> None:
        _count("synchronize")

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_) -> None:
        pass

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class _Current(threading.local):
    def __init__(self):
        self.streams: list[Stream] = []


_current = _Current()
_pointers = itertools.count(0x5000, 0x100)


class Stream:
    """Everything runs at once here; a stream knows its pointer, who is the current one, and that it was waited for."""

    null: Stream
    ptds: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else 2 if ptds else next(_pointers)
        self.device_id = 0

    def __enter__(self) -> Stream:
        _current.streams.append(self)
        return self

    def __exit__(self, *_) -> None:
        _current.streams.pop()

    def use(self) -> Stream:
        _current.streams[:] = [self]
        return self

    done = property(lambda self: True)

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        _count("synchronize")

    def record(self, event=None) -> Event:
        return event or Event()

    def wait_event(self, event) -> None:
        pass

    def __eq__(self, other) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"


Stream.null, Stream.ptds = Stream(null=True), Stream(ptds=True)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.ptr = next(_pointers)

    done = property(lambda self: True)

    def record(self, stream=None) -> None:
        pass

    def synchronize(self) -> None:
        _count("synchronize")


def get_current_stream(device_id=-1) -> Stream:
    return _current.streams[-1] if _current.streams else Stream.null


def alloc(size: int) -> MemoryPointer:
    host = _poisoned(size, np.uint8)
    return MemoryPointer(host, 0)


class RawModule(kernels.EmuModule):
    """EmuModule, with the arguments and the names of CuPy's."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", name_expressions=None, **others):
        if not isinstance(options, tuple):
            raise TypeError(f"Argument 'options' has incorrect type (expected tuple, got {type(options).__name__})")
        super().__init__(code or Path(path).read_text(), options=options, name_expressions=name_expressions, **others)
        self.options, self.backend = options, backend

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(super().get_function(name))


class RawKernel:
    """What RawModule.get_function returns."""

    def __init__(self, function: kernels.EmuFunction):
        self._function, self.name = function, function.name

    def __call__(self, grid, block, args, **kwargs) -> None:
        for k, a in enumerate(args):
            if isinstance(a, np.ndarray):
                raise TypeError(f"Unsupported type {type(a)} (argument {k})")
        _count("launches")
        self._function(grid, block, args, **kwargs)

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._function.max_dynamic_shared_size_bytes = size


# -- the modules ----------------------------------------------------------------------------------------------------------


class _Module(types.ModuleType):
    """A module that tells what CuPy does not have from what is missing here."""

    def __init__(self, name: str, **contents: Any):
        super().__init__(name, f"Emulated {name}, see {__name__}.")
        self.__dict__.update(contents)
        self.__path__ = []  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        listed = NAMES.get(self.__name__, {})
        if name.startswith("__") or name not in listed:
            raise AttributeError(f"module {self.__name__!r} (CuPy {NAMES['version']}) has no attribute {name!r}")
        if listed[name] == "numpy":
            return getattr(np.linalg if self.__name__ == "cupy.linalg" else np, name)
        raise NotImplementedError(f"{self.__name__}.{name} exists, but not in the emulated CuPy: add it to {__name__}")

    def __dir__(self):
        return [name for name in self.__dict__ if not name.startswith("_")]


def _ufuncs(owner: str, host: Any) -> dict[str, Any]:
    """The ufuncs that both CuPy and the host's module have."""
    both = [n for n, kind in NAMES[owner].items() if kind == "ufunc" and isinstance(getattr(host, n, None), np.ufunc)]
    return {n: ufunc(getattr(host, n), owner, n) for n in both}


cupy: Any = _Module(
    "cupy",
    **_ufuncs("cupy", np),
    **{name: _function("cupy", name, getattr(np, name)) for name in FUNCTIONS},
    **{f.__name__: f for f in (array, asarray, ascontiguousarray, asfortranarray, empty, empty_like, copy, asnumpy)},
    **{f.__name__: f for f in (get_array_module, fill_diagonal, put, get_default_memory_pool)},
    **{c.__name__: c for c in (ndarray, ufunc, RawModule, RawKernel)},
    asanyarray=asarray,
    float32=np.float32,
    float64=np.float64,
    inf=np.inf,
    nan=np.nan,
    pi=np.pi,
    e=np.e,
    newaxis=None,
)
cupy.__version__ = NAMES["version"]
_linalg_names = _words("cholesky det eigh eigvalsh inv norm qr slogdet solve svd matrix_power pinv")
cupy.linalg = _Module("cupy.linalg", **{name: _linalg(name) for name in _linalg_names}, LinAlgError=np.linalg.LinAlgError)
cupy.cuda = _Module(
    "cupy.cuda",
    **{c.__name__: c for c in (Device, Stream, Event, MemoryPointer, MemoryPool, get_current_stream, alloc)},
    is_available=lambda: True,
    get_device_id=lambda: 0,
)
cupy.cuda.memory = _Module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool)
cupy.cuda.runtime = _Module(
    "cupy.cuda.runtime",
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    getDevice=lambda: 0,
    getDeviceProperties=lambda device: {"name": b"emulated", "major": 9, "minor": 0, "multiProcessorCount": 4},
    driverGetVersion=lambda: 13000,
    runtimeGetVersion=lambda: 13000,
    deviceSynchronize=lambda: _count("synchronize"),
    memGetInfo=lambda: Device.mem_info,
)
cupyx = _Module("cupyx", scatter_add=scatter_add, errstate=errstate, rsqrt=rsqrt)
cupyx.scipy = _Module("cupyx.scipy")
_special_functions = {
    n: _function("cupyx.scipy.special", n, getattr(scipy.special, n)) for n in ("logsumexp", "softmax", "log_softmax")
}
cupyx.scipy.special = _Module("cupyx.scipy.special", **_ufuncs("cupyx.scipy.special", scipy.special), **_special_functions)
MODULES = {
    m.__name__: m
    for m in (cupy, cupy.linalg, cupy.cuda, cupy.cuda.memory, cupy.cuda.runtime, cupyx, cupyx.scipy, cupyx.scipy.special)
}


@contextlib.contextmanager
def installed() -> Iterator[Any]:
    """`import cupy` finds the emulated one in the block, in all threads; afterwards sys.modules is as before."""
    before = {name: loaded for name, loaded in sys.modules.items() if name.split(".")[0] in ("cupy", "cupyx")}
    for name in before:
        del sys.modules[name]
    sys.modules.update(MODULES)
    try:
        yield cupy
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")]:
            del sys.modules[name]
        sys.modules.update(before)
