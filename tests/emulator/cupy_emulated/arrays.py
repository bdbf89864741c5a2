"""cupy.ndarray: an array that only the functions of the emulated CuPy compute with."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

from emulator import cupy_emulated
from emulator.cupy_emulated.counting import NAMES, Partial, capturing, count, not_captured, words
from emulator.cupy_emulated.memory import MemoryPointer, detached, memory_of, poisoned, taken

SCALARS = (bool, int, float, complex, np.bool_, np.number)


def host_of(x: Any) -> Any:
    """What NumPy computes with: the arrays behind arguments, their lists and tuples. CuPy refuses host arrays, and so does
    this."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (list, tuple)):
        return type(x)(host_of(v) for v in x)
    if isinstance(x, dict):
        return {k: host_of(v) for k, v in x.items()}
    return x


def device_of(x: Any) -> Any:
    """Results as CuPy returns them: arrays, also of no axes. What is no view of the device's memory is copied there."""
    if isinstance(x, (np.ndarray, np.generic)):
        host = np.asarray(x)
        return array_of(taken(host) if memory_of(host) is None else host)
    if isinstance(x, (list, tuple)):
        parts = [device_of(v) for v in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def array_of(host: np.ndarray) -> ndarray:
    array = object.__new__(ndarray)
    array._host = host
    return array


def check_parameters(owner: str, name: str, args: tuple, kwargs: dict) -> None:
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


def index_of(key: Any) -> tuple[Any, bool]:
    """An index for `wrapped`, and whether it holds a mask. Arrays of the host in it are moved to the device (which counts),
    as CuPy does."""
    parts = list(key) if isinstance(key, tuple) else [key]
    masks = False
    for i, part in enumerate(parts):
        if isinstance(part, ndarray):
            parts[i] = part._host
        elif isinstance(part, (np.ndarray, list, tuple)):
            count("to_device")
            parts[i] = np.asarray(part, dtype=np.int64) if np.size(part) == 0 else np.asarray(part)
        elif isinstance(part, (bool, np.bool_)):
            parts[i] = np.asarray(part)
        masks = masks or (isinstance(parts[i], np.ndarray) and parts[i].dtype == np.bool_)
    return tuple(parts), masks


def wrapped(index: tuple, shape: tuple[int, ...]) -> tuple:
    """The index for NumPy: what it holds in arrays wraps around instead of raising, as on a device."""
    parts = list(index)
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
    return tuple(parts)


def getitem(host: np.ndarray, index: tuple) -> Any:
    part = host[wrapped(index, host.shape)]
    return host[(*index, Ellipsis)] if isinstance(part, np.generic) and all(isinstance(i, int) for i in index) else part


def setitem(host: np.ndarray, index: tuple, value: Any) -> None:
    host[wrapped(index, host.shape)] = value


class ndarray(Partial):
    """An array that only the functions of this module compute with."""

    __module__ = "cupy"
    _real = "cupy.ndarray"
    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None:
            if strides is not None:
                raise NotImplementedError("the emulated ndarray takes strides with memptr only")
            self._host = poisoned(shape, dtype, order)
            return
        self._host = np.ndarray(shape, dtype, np.asarray(memptr.mem), memptr.ptr - memptr.mem.ptr, strides, order)

    # what it is

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host.flags))
    device = property(lambda self: self.data.device)
    T = property(lambda self: array_of(self._host.T))
    mT = property(lambda self: array_of(self._host.mT))

    @shape.setter
    def shape(self, shape):
        view = self._host.view()
        view.shape = shape
        self._host = view

    @property
    def data(self) -> MemoryPointer:
        memory = memory_of(self._host)
        return MemoryPointer(memory, self._host.ctypes.data - memory.ptr)

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
        count("to_host")
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
        count("to_device")
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
        return cupy_emulated.cupy.array, (self.get(),)

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
        index, masks = index_of(key)
        if masks:
            count("to_host")  # the size of the result
        return computed(getitem, self._host, index)

    def __setitem__(self, key, value):
        index, _ = index_of(key)
        if isinstance(value, np.ndarray):
            if any(isinstance(part, np.ndarray) for part in index):
                count("to_device")
            elif value.shape != ():
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        elif not isinstance(value, (ndarray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(value)}")
        changed(setitem, self._host, index, value._host if isinstance(value, ndarray) else value)

    def fill(self, value) -> None:
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        changed(np.copyto, self._host, host_of(value) if isinstance(value, ndarray) else value, casting="unsafe")

    def view(self, dtype=None, type=None) -> ndarray:
        return array_of(self._host.view() if dtype is None else self._host.view(dtype))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True) -> ndarray:
        if not copy and self._host.astype(dtype, order=order, casting=casting or "unsafe", copy=False) is self._host:
            return self
        return computed(np.ndarray.astype, self._host, dtype, order=order, casting=casting or "unsafe")

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
        return getattr(cupy_emulated.cupy, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        owner = ".".join(["cupy", *func.__module__.split(".")[1:]])
        if NAMES.get(owner, {}).get(func.__name__, "numpy") == "numpy":
            return NotImplemented
        if any(t not in (ndarray, np.ndarray) for t in types):
            return NotImplemented
        return getattr(sys.modules[owner], func.__name__)(*args, **kwargs)


def computed(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function of NumPy makes of the device's memory, there: now, or in each launch of what is being captured."""
    count("operations")
    with np.errstate(all="ignore"):  # a device does not warn
        result = function(*args, **kwargs)  # of a capture, its shape alone
    capture, there = capturing(), device_of(result)
    if capture is not None:
        fresh = [(i, detached(part._host)) for i, part in enumerate(parts(there)) if is_new(parts(result)[i])]
        args, kwargs = detached(args), detached(kwargs)

        def again() -> None:
            with np.errstate(all="ignore"):
                values = parts(function(*args, **kwargs))
            for i, place in fresh:
                place[...] = values[i]

        capture.add(again)
    return there


def changed(function: Any, *args: Any, **kwargs: Any) -> None:
    """A function of NumPy's that writes into the device's memory: now, or in each launch of what is being captured."""
    count("operations")
    capture = capturing()
    if capture is not None:
        args, kwargs = detached(args), detached(kwargs)

    def run() -> None:
        with np.errstate(all="ignore"):
            function(*args, **kwargs)

    run() if capture is None else capture.add(run)


def parts(result: Any) -> Any:
    return result if isinstance(result, (list, tuple)) else (result,)


def is_new(result: Any) -> bool:
    return isinstance(result, np.generic) or (isinstance(result, np.ndarray) and memory_of(result) is None)


def _method(name: str):
    host_method = getattr(np.ndarray, name)

    def method(self, *args, **kwargs):
        check_parameters("cupy.ndarray", name, args, kwargs)
        given = dict(zip(NAMES["cupy.ndarray"][name].strip("()").split(", "), args, strict=False)) | kwargs
        out = given.get("out")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"Unsupported type {type(out)}")
        if name == "dot":
            not_captured("cuBLAS")
        if out is not None or name == "sort":
            changed(host_method, self._host, *host_of(args), **host_of(kwargs))
            return out
        return computed(host_method, self._host, *host_of(args), **host_of(kwargs))

    method.__name__ = name
    return method


METHODS = words("""
    all any argmax argmin argpartition argsort choose clip compress conj conjugate copy cumprod cumsum diagonal dot flatten
    max mean min nonzero prod ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take trace transpose var
""")
for _name in METHODS:
    setattr(ndarray, _name, _method(_name))

BINARY = words("add and divmod floordiv lshift matmul mod mul or pow rshift sub truediv xor lt le gt ge eq ne")
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
        ufunc = getattr(cupy_emulated.cupy, ufunc_name)
        if kind == "i":
            return ufunc(self, other, out=self)
        return ufunc(other, self) if kind == "r" else ufunc(self, other)

    return operate


for _name, _kind in itertools.product(BINARY, ("", "r", "i")):
    if f"__{_kind}{_name}__" in NAMES["cupy.ndarray"]:
        setattr(ndarray, f"__{_kind}{_name}__", _operator(_name, _kind))
ndarray.__neg__ = lambda self: cupy_emulated.cupy.negative(self)
ndarray.__pos__ = lambda self: cupy_emulated.cupy.positive(self)
ndarray.__abs__ = lambda self: cupy_emulated.cupy.absolute(self)
ndarray.__invert__ = lambda self: cupy_emulated.cupy.invert(self)
