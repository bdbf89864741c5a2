"""The one launcher: every CUDA kernel is declared, built and called here.

    solve = kernel("banded", "solve", "chol: T F M N, b: T R N, x: T R N, trans: scalar int32 -> M N", elements("N"))
    solve(chol, b, x, True, lo, hi)

A contract names the arguments in the order of the CPU twin, each with its type and its sizes; T is the working type. What a
`scalar` is given is cast to its declared type; an array must have its dtype, be C-contiguous, and agree with the others in
every letter. After the arrow stand the letters that the kernel takes as int32 (`size`, of a flat array, as int64), before
`lo, hi`, which are int64. An axis that may have length 0, for "not wanted", has a letter of its own. Special types:

    key      four uint32 words: in host memory, passed as four numbers, or on the device, passed as their address
    number   a scalar that may lie on the device: passed as a value and an address, one of which counts
    offsets  int64 in host memory; `reach`, the last one, is known to the geometry
    int64    an index array, which may lie in host memory: it is uploaded once and kept while it is used

A family's source (with what _common.cu holds before it) is built once per process, device and working type, at its first
launch. Launches go to the caller's current stream and device; nothing here waits for the device or reads from it.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gvae.kernels import LANES
from gvae.runtime.context import context

__all__ = [
    "KERNELS",
    "OPTIONS",
    "Kernel",
    "counts",
    "elements",
    "kernel",
    "name_expressions",
    "resident",
    "source",
    "warps",
]

OPTIONS = ("--std=c++17",)
SHARED = 48 << 10  # bytes of shared memory that any block may have without asking
LARGEST = (1 << 31) - 1  # the largest int32, in which kernels count columns
BLOCK = 256
# Families whose source is several files, in the order in which they are compiled
PARTS = {"banded": ("systems", "solve", "draw", "multiply", "density", "groups", "invert", "factor")}
NOWHERE = np.uint64(0)  # an address: what would lie there is passed by value

counts: Counter[str] = Counter()  # launches by "family.kernel", for tests
KERNELS: dict[str, dict[str, Kernel]] = {}  # by family and name: what is compiled is what is declared here


class Launch(NamedTuple):
    """How many blocks, threads per block, bytes of shared memory, and what the kernel takes besides its contract."""

    grid: int
    block: int
    shared: int = 0
    extra: tuple[int, ...] = ()


Geometry = Callable[[dict[str, int], int], Launch]  # from the sizes, `n` and `itemsize` among them


@lru_cache
def source(family: str) -> str:
    """The text that is compiled."""
    folder = Path(__file__).parent
    files = [f"{family}/{part}.cu" for part in PARTS[family]] if family in PARTS else [f"{family}.cu"]
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in ("_common.cu", *files))


def name_expressions(family: str, dtype: Any) -> tuple[str, ...]:
    """The instantiations of a family's kernels for a working type."""
    return tuple(each.expression(np.dtype(dtype)) for each in KERNELS[family].values())


@lru_cache
def _module(cupy: Any, device: int, family: str, dtype: np.dtype) -> Any:
    return cupy.RawModule(code=source(family), options=OPTIONS, name_expressions=name_expressions(family, dtype))


@lru_cache
def _function(cupy: Any, device: int, family: str, name: str, dtype: np.dtype) -> Any:
    return _module(cupy, device, family, dtype).get_function(KERNELS[family][name].expression(dtype))


class Kernel:
    """A kernel, called as its CPU twin is: arguments, then lo, hi. Made by `kernel`."""

    def __init__(self, family: str, name: str, contract: str, geometry: Geometry):
        arguments, _, sizes = contract.partition("->")
        self.family, self.name, self.geometry, self.sizes = family, name, geometry, sizes.split()
        self.arguments: list[tuple[str, str, list[str]]] = []
        for clause in arguments.split(","):
            argument, kind = clause.split(":")
            tokens = kind.split()
            scalar = tokens[0] in ("scalar", "number")
            self.arguments.append((argument.strip(), " ".join(tokens[: 1 + scalar]), tokens[1 + scalar :]))
        self.parameters = (*(argument for argument, _, _ in self.arguments), "lo", "hi")
        self.generic = any(kind in ("T", "scalar T", "number T") for _, kind, _ in self.arguments)
        KERNELS.setdefault(family, {})[name] = self

    def expression(self, dtype: np.dtype) -> str:
        return f"{self.name}<{'float' if dtype == np.float32 else 'double'}>" if self.generic else self.name

    def __call__(self, *given: Any) -> None:
        cupy: Any = sys.modules["cupy"]
        device = cupy.cuda.Device().id
        *given, lo, hi = given  # type: ignore[assignment]
        if hi <= lo:
            return
        if len(given) != len(self.arguments):
            raise TypeError(f"{self.where()} takes {len(self.arguments)} arguments and lo, hi; got {len(given)}")
        floating = (x.dtype for x, (_, kind, _) in zip(given, self.arguments, strict=True) if kind == "T")
        real = np.dtype(next(floating, np.float32))  # without any, the kernel is not a template
        sizes: dict[str, int] = {"n": int(hi) - int(lo), "itemsize": real.itemsize}
        passed: list[Any] = []
        for x, (argument, kind, axes) in zip(given, self.arguments, strict=True):
            if kind.startswith("scalar"):
                passed.append((real if kind == "scalar T" else np.dtype(kind.split()[1])).type(x))
            elif kind == "key" or kind.startswith("number"):
                dtype = np.dtype(np.uint32) if kind == "key" else real
                words = 4 if kind == "key" else 1
                if isinstance(x, cupy.ndarray):
                    self._check(cupy, device, argument, x, dtype)
                    if x.size != words:
                        raise ValueError(f"{self.where()}: {argument} has shape {x.shape}, expected {words} in all")
                    passed.extend([dtype.type(0)] * words + [x])
                else:
                    passed.extend([dtype.type(word) for word in (x if kind == "key" else (x,))] + [NOWHERE])
            else:
                if isinstance(x, np.ndarray) and kind in ("int64", "offsets"):
                    if kind == "offsets":
                        sizes["reach"] = int(x[-1])
                    x = resident(x)
                dtype = real if kind == "T" else np.dtype("int64" if kind == "offsets" else kind)
                self._check(cupy, device, argument, x, dtype)
                self._measure(argument, x.shape, axes, sizes)
                passed.append(x)
        launch = self.geometry(sizes, sizes["n"])
        if launch.grid == 0:
            return
        numbers = [*((letter, sizes[letter]) for letter in self.sizes), *(("", x) for x in launch.extra)]
        for letter, size in numbers:
            if letter != "size" and size > LARGEST:
                raise ValueError(f"{self.where()}: {letter} is {size}, expected at most {LARGEST} on a device")
            passed.append((np.int64 if letter == "size" else np.int32)(size))
        function = _function(cupy, device, self.family, self.name, real)
        function((launch.grid,), (launch.block,), (*passed, np.int64(lo), np.int64(hi)), shared_mem=launch.shared)
        counts[f"{self.family}.{self.name}"] += 1

    def where(self) -> str:
        return f"CUDA kernel {self.family}.{self.name}"

    def _check(self, cupy: Any, device: int, argument: str, x: Any, dtype: Any) -> None:
        if not isinstance(x, cupy.ndarray):
            raise TypeError(f"{self.where()}: {argument} is {type(x).__name__}, expected a CuPy array")
        if x.size and x.data.device_id != device:
            there = f"on device {x.data.device_id}, expected one on the current device, {device}"
            raise ValueError(f"{self.where()}: {argument} is {there}: `with cupy.cuda.Device(...)` chooses it")
        if x.dtype != dtype:
            raise TypeError(f"{self.where()}: {argument} is {x.dtype}, expected {dtype}")
        if not x.flags.c_contiguous:
            raise ValueError(f"{self.where()}: {argument} is not C-contiguous")

    def _measure(self, argument: str, shape: tuple[int, ...], axes: list[str], sizes: dict[str, int]) -> None:
        if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
            expected = " ".join(f"{a}={sizes[a]}" if a in sizes else a for a in axes)
            raise ValueError(f"{self.where()}: {argument} has shape {shape}, expected ({expected})")


def kernel(family: str, name: str, contract: str, geometry: Geometry) -> Kernel:
    """Declare a kernel: see the module's docstring."""
    return Kernel(family, name, contract, geometry)


def elements(*letters: str) -> Geometry:
    """One thread per system and per entry of the axes with these letters."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        return Launch(-(-n * math.prod(sizes[letter] for letter in letters) // BLOCK), BLOCK)

    return geometry


def warps(letter: str) -> Geometry:
    """A warp per system and per entry of an axis, or per system where that axis is empty."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        return Launch(-(-n * max(sizes[letter], 1) * LANES // BLOCK), BLOCK)

    return geometry


# Index arrays that came from the host: they are made once per shape (see gvae.ops._batching), and so uploaded once.
RESIDENT, RESIDENT_BYTES = 256, 1 << 28  # at most; those not used for longest go first
PER_THREAD = 2  # cudaStreamPerThread: the name of each thread's own stream
_uploads: OrderedDict[tuple[int, int, int, int, int], tuple[np.ndarray, Any]] = OrderedDict()
_lock = threading.Lock()


class _Thread(threading.local):
    """The number of a thread; its identifier, unlike this, is used again for a later one."""

    numbers = itertools.count(1)

    def __init__(self) -> None:
        self.number = next(self.numbers)


_thread = _Thread()


def resident(array: Any) -> Any:
    """The copy of a host array on the current device. The host array is kept alive with it, so that its id is not reused;
    each stream has its own copies, so that none waits for another's upload. The code that captures a graph keeps the result
    alive (context.uploads); where arrays lie in reused memory, the copy is allocated elsewhere (context.allocator)."""
    cupy: Any = sys.modules["cupy"]
    if not isinstance(array, np.ndarray):
        return array
    stream = cupy.cuda.get_current_stream().ptr
    thread = _thread.number if stream == PER_THREAD else 0
    key = id(cupy), cupy.cuda.Device().id, stream, thread, id(array)
    with _lock:
        if key not in _uploads:
            with cupy.cuda.using_allocator(context.allocator or cupy.cuda.get_allocator()):
                _uploads[key] = array, cupy.asarray(array)
            while len(_uploads) > RESIDENT or sum(host.nbytes for host, _ in _uploads.values()) > RESIDENT_BYTES:
                if len(_uploads) == 1:
                    break
                _uploads.popitem(last=False)
        _uploads.move_to_end(key)
        there = _uploads[key][1]
    if context.uploads is not None:
        context.uploads.append(there)
    return there
