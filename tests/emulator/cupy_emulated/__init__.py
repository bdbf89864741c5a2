"""A module `cupy` whose arrays lie in the host's memory, for tests of code that takes CuPy arrays.

    with installed() as cupy, counted() as n:
        y = cupy.exp(cupy.asarray(x))
    assert n.to_device == 1 and n.to_host == 0

What it provides follows the rules of the real CuPy, as far as a caller can notice them: names and parameters that CuPy does
not have do not exist (cupy_names.json lists what it has), host and device arrays do not mix, nothing becomes a NumPy array
without being asked, reductions return arrays of no axes. What goes between host and device is counted. Memory that
`empty` returns holds NaN, and so does memory that has been freed. A stream that captures executes nothing and refuses what
CUDA and CuPy refuse; its graph knows addresses, and keeps nothing alive. Kernels run in the emulator (module.py). A name
that CuPy has and this module has not raises NotImplementedError. What it does not show: streams running at once, rounding
and atomics of a device, a pool that splits its blocks, speed.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from emulator.cupy_emulated import device, functions, sparse
from emulator.cupy_emulated.arrays import ndarray
from emulator.cupy_emulated.counting import NAMES, Counts, counted
from emulator.cupy_emulated.memory import MemoryPointer, MemoryPool, OutOfMemoryError, alloc, get_allocator, using_allocator

__all__ = ["MODULES", "NAMES", "Counts", "counted", "cupy", "cupyx", "installed"]


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


cupy: Any = _Module(
    "cupy",
    **functions.ufuncs("cupy", np),
    **{name: functions.function("cupy", name, getattr(np, name)) for name in functions.FUNCTIONS},
    **{f.__name__: f for f in functions.OWN},
    **{c.__name__: c for c in (ndarray, functions.ufunc, device.RawModule, device.RawKernel)},
    asanyarray=functions.asarray,
)
cupy.__version__ = NAMES["version"]
cupy.linalg = _Module("cupy.linalg", **functions.LINEAR_ALGEBRA)
cupy.cuda = _Module(
    "cupy.cuda",
    **{c.__name__: c for c in (device.Device, device.Stream, device.Event, device.Graph, MemoryPointer, MemoryPool)},
    **{f.__name__: f for f in (device.get_current_stream, alloc, get_allocator, using_allocator)},
    is_available=lambda: True,
    get_device_id=lambda: 0,
)
cupy.cuda.memory = _Module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool)
cupy.cuda.runtime = _Module("cupy.cuda.runtime", **device.RUNTIME)
cupy.cuda.nvrtc = _Module("cupy.cuda.nvrtc", getVersion=lambda: (13, 0))
cupyx = _Module("cupyx", **{f.__name__: f for f in (functions.errstate, functions.rsqrt)})
cupyx.scipy = _Module("cupyx.scipy")
cupyx.scipy.linalg = _Module("cupyx.scipy.linalg", solve_triangular=functions.solve_triangular)
cupyx.scipy.special = _Module("cupyx.scipy.special", **functions.SPECIAL)
cupyx.scipy.sparse = _Module(
    "cupyx.scipy.sparse", csr_matrix=sparse.csr_matrix, csc_matrix=sparse.csc_matrix, issparse=sparse.issparse
)
_modules = (cupy, cupy.linalg, cupy.cuda, cupy.cuda.memory, cupy.cuda.runtime, cupy.cuda.nvrtc)
_modules += (cupyx, cupyx.scipy, cupyx.scipy.linalg, cupyx.scipy.special, cupyx.scipy.sparse)
MODULES = {m.__name__: m for m in _modules}


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
