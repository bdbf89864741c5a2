"""Dispatch between NumPy and CuPy, in this module only, by the type of an array. CuPy is imported for "cuda" only.

If an array is CuPy's, CuPy is already in `sys.modules`; a process that works on the CPU never imports it.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from gvae.errors import ConfigError, DeviceError
from gvae.kernels import LANES, NORM_EPSILON
from gvae.runtime import launches, memory, pool
from gvae.runtime.context import context

__all__ = [
    "DEVICES",
    "LANES",
    "NORM_EPSILON",
    "Cpu",
    "apply",
    "beside",
    "copy",
    "empty",
    "foreign",
    "graphs",
    "is_cuda",
    "kernels_for",
    "launch",
    "library",
    "module",
    "namespace",
    "overlap",
    "plain",
    "scatter_add",
    "special",
    "stream",
    "to_device",
    "to_host",
    "unseen",
    "zeros",
]

DEVICES = ("cpu", "cuda")


class Cpu:
    """Immediate execution of work on NumPy arrays. Its counterpart is `launches.Graph`, which records the work as well.

    values : whether control flow may depend on the values of arrays
    """

    values = True

    over = staticmethod(pool.over)
    empty = staticmethod(memory.empty)
    zeros = staticmethod(np.zeros)

    @staticmethod
    def pure(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    @staticmethod
    def kernels(module: Any) -> Any:
        return module

    functions = kernels


CPU = Cpu()


def _backend() -> Any:
    """The executor of work on NumPy arrays: the CPU, or the graph that is being captured."""
    return context.backend or CPU


HOST = (np.ndarray, launches.Traced)  # exact types: CuPy's may be subclasses of NumPy's


def is_cuda(array: Any) -> bool:
    """Whether an object is a CuPy array or sparse matrix."""
    return type(array) is not np.ndarray and type(array).__module__.split(".")[0] in ("cupy", "cupyx")


def namespace(*arrays: Any) -> Any:
    """The array module of the arguments: numpy or cupy. Python scalars and lists fit either; Vars count as arrays."""
    if {np.ndarray}.issuperset(map(type, arrays)):
        return np
    arrays = tuple(getattr(a, "value", a) for a in arrays)
    cuda = [is_cuda(a) for a in arrays if isinstance(a, np.ndarray) or is_cuda(a)]
    if not any(cuda):
        return np
    if not all(cuda):
        kinds = ", ".join(type(a).__module__.split(".")[0] for a in arrays)
        raise DeviceError(f"arrays of one call must live on one device, got {kinds}; move them with cupy.asarray/asnumpy")
    return sys.modules["cupy"]


def module(device: str) -> Any:
    """The array module of a device by its name: numpy for "cpu", cupy for "cuda".

    Raises ConfigError for another name; DeviceError, with the packages to install, if CUDA cannot be used.
    """
    if device not in DEVICES:
        raise ConfigError(f"unknown device {device!r}; known are {', '.join(DEVICES)}")
    if device == "cpu":
        return np
    extra = "pip install 'gvae[cuda13]', or 'gvae[cuda12]' for a driver of CUDA 12"
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(f"device 'cuda' needs CuPy ({error}): {extra}") from None
    if not cupy.cuda.is_available():
        raise DeviceError(
            "device 'cuda': CuPy is installed and finds no device; a GPU and NVIDIA's driver (nvidia-smi shows both) are "
            "needed, and the driver must know the CUDA version of the package: " + extra
        )
    return cupy


def to_device(array: Any, device: str) -> Any:
    """The array on a device; itself if it is there. CSR matrices and None are accepted as well. Raises as `module`."""
    there = module(device)
    if array is None or is_cuda(array) == (there is not np):
        return array
    if there is np:
        return to_host(array)
    if getattr(array, "format", None) is not None:
        return importlib.import_module("cupyx.scipy.sparse").csr_matrix(array)
    return there.asarray(array)


def to_host(array: Any) -> Any:
    """The array in host memory, which synchronises with the device. A NumPy array is returned as it is."""
    return array.get() if is_cuda(array) else array


def beside(array: Any, like: Any) -> Any:
    """A NumPy array (an index, a mask) on the device of `like`. A read-only array is uploaded once and cached; an argument
    that is not an array is returned as it is."""
    if not is_cuda(like) or not isinstance(array, np.ndarray):
        return array
    if array.flags.writeable:
        return sys.modules["cupy"].asarray(array)
    return importlib.import_module("gvae.kernels.cuda.launch").resident(array)


def overlap(x: Any, y: Any) -> bool:
    """Whether two arrays may share memory."""
    return bool(namespace(x, y).may_share_memory(x, y))


def span(x: Any) -> tuple[int, int]:
    """The addresses between which an array lies, the second one not included."""
    low = x.data.ptr if is_cuda(x) else x.__array_interface__["data"][0]
    high = low + x.itemsize
    for n, stride in zip(x.shape, x.strides, strict=True):
        low, high = low + min(0, (n - 1) * stride), high + max(0, (n - 1) * stride)
    return low, high


def kernels_for(family: str, *arrays: Any) -> Any:
    """The kernels of one family ("banded", "random", ...) for the device of the arrays: see gvae.kernels."""
    if namespace(*arrays) is not np:
        return _kernels(family, "cuda")
    return _backend().kernels(_kernels(family, "cpu"))


@lru_cache
def _kernels(family: str, device: str) -> ModuleType:
    return importlib.import_module(f"gvae.kernels.{device}.{family}")


def stream(device: str) -> AbstractContextManager[None]:
    """A context manager in which work on a device can be captured (see gvae.kernels.cuda.graph); without effect on a CPU."""
    return nullcontext() if module(device) is np else graphs().own_stream()


def graphs() -> ModuleType:
    """The module gvae.kernels.cuda.graph, which needs CuPy."""
    return importlib.import_module("gvae.kernels.cuda.graph")


def library() -> ModuleType:
    """The module gvae.kernels.cuda.library, which needs CuPy."""
    return importlib.import_module("gvae.kernels.cuda.library")


def launch(family: str, name: str, *arguments: Any, n: int, work: int, step: int = 1) -> None:
    """Run a kernel over the systems 0 .. n-1, by several threads if `work`, the number of elements it accesses, is worth it.

    `step` is the size of the groups of systems that the kernel processes together: LANES for a recurrence.
    """
    if type(arguments[0]) in HOST:  # the first arguments are inputs; all are on one device, which was checked before
        _backend().over(_kernel(family, name), *arguments, n=n, work=work, step=step)
    else:
        getattr(kernels_for(family, arguments[0]), name)(*arguments, 0, n)


@lru_cache
def _kernel(family: str, name: str) -> Any:
    """A kernel for the CPU."""
    return getattr(_kernels(family, "cpu"), name)


def empty(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
    """A buffer for a result on the device of `like`; large ones reuse memory (see gvae.runtime.memory)."""
    if type(like) not in HOST:
        return namespace(like).empty(shape, dtype)
    return _backend().empty(shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: Any, like: Any) -> Any:
    """Zeros on the device of `like`."""
    if type(like) not in HOST:
        return namespace(like).zeros(shape, dtype)
    return _backend().zeros(shape, dtype)


def apply(ufunc: Any, x: Any, y: Any, out: Any = None) -> Any:
    """ufunc(x, y) of arrays of one dtype, or of an array and a number: large results reuse memory and are computed by
    several threads. `out` may be x or y."""
    over = _backend().over
    large = x if type(x) in HOST else y
    if type(large) not in HOST or large.nbytes < memory.SMALL or is_cuda(x) or is_cuda(y):
        return ufunc(x, y) if out is None else ufunc(x, y, out=out)
    if type(x) not in HOST or type(y) not in HOST or x.shape != y.shape:
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        result = empty(shape, large.dtype, large) if out is None else out
        if shape and shape[:1] == np.shape(x)[:1] == np.shape(y)[:1] and np.ndim(x) == np.ndim(y):
            over(_share, ufunc, x, y, result, n=shape[0], work=3 * large.size // 4)
            return result
        return ufunc(x, y, out=result)
    result = empty(x.shape, x.dtype, x) if out is None else out
    if x.flags.c_contiguous and y.flags.c_contiguous and result.flags.c_contiguous:
        work = x.size * 3 // 4  # not x.size * 3: sharing work that is not compiled takes as long as adding 10^5 numbers
        over(_share, ufunc, x.reshape(-1), y.reshape(-1), result.reshape(-1), n=x.size, work=work, step=1024)
        return result
    return ufunc(x, y, out=result)


def copy(x: Any) -> Any:
    """A C-contiguous copy; large ones reuse memory."""
    if type(x) is not np.ndarray:  # on a device, or traced
        return x.copy()
    result = _backend().empty(x.shape, x.dtype)  # of a constant, too: a launch may write there
    result[...] = x
    return result


def constant(number: Any) -> Any:
    """A number as an operand: while a graph is captured an array, so that what follows from it alone is part of the graph,
    too, where it may be overwritten."""
    return number if context.backend is None else context.backend.traced(np.array(number))


def written(x: Any) -> Any:
    """An array of the caller's, such that what is assigned to its entries is part of a graph that is being captured."""
    return context.backend.traced(x) if type(x) is np.ndarray and context.backend is not None else x


def _share(ufunc: Any, x: Any, y: Any, result: Any, lo: int, hi: int) -> None:
    ufunc(x[lo:hi], y[lo:hi], out=result[lo:hi])


def plain(array: Any) -> Any:
    """The array as kernels expect it: C-contiguous, aligned, writable; a copy if it is not so already.

    Writable, although kernels do not change their inputs, because Numba compiles another version for read-only arrays.
    """
    if type(array) is not np.ndarray and is_cuda(array):
        return sys.modules["cupy"].ascontiguousarray(array)
    if type(array) in HOST:
        return array if array.flags.carray else array.copy()
    return np.array(array, order="C")


def foreign(function: Any, *arguments: Any) -> Any:
    """function(*arguments), of a function that a graph under capture would not record: neither NumPy's nor a ufunc."""
    return _backend().pure(function, *arguments)


def unseen(array: Any) -> bool:
    """Whether the values of an array must not be read: that would synchronise with a device, and a graph under capture will
    be launched with other values."""
    return is_cuda(array) or not _backend().values


def special(array: Any) -> Any:
    """scipy.special, or CuPy's version of it, which lacks some functions: access to one of them raises DeviceError."""
    if is_cuda(array):
        return _SpecialOnDevice()
    return _backend().functions(importlib.import_module("scipy.special"))


class _SpecialOnDevice:
    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(importlib.import_module("cupyx.scipy.special"), name)
        except AttributeError:
            raise DeviceError(f"this needs scipy.special.{name}, which CuPy does not have: do it on the CPU") from None


def scatter_add(target: Any, index: Any, values: Any) -> None:
    """target[index] += values, adding once per occurrence of a repeated index."""
    if is_cuda(target):
        sys.modules["cupy"].add.at(target, index, values)
    else:
        np.add.at(target, index, values)
