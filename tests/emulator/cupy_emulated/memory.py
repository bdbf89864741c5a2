"""The memory of device arrays: the host's, in blocks, with pools and their limits, and poison where nothing was written."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from emulator.cupy_emulated.counting import Partial, capturing, count, recorded_as

UNIT = 512  # to which sizes are rounded, and addresses aligned, as by the real pool


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory's: more than the pool's limit is asked for."""


class Memory:
    """What an allocation owns: `block`, bytes of the host, which the pool has back when nobody refers to this any more.
    Arrays are views of `numpy.asarray(memory)`, so they do."""

    device_id = 0  # a test may say that it is another

    def __init__(self, block: np.ndarray, give: Callable[[], None]):
        self.block, self._give = block, give
        self.ptr, self.size = block.ctypes.data, len(block)
        typestr, shape = "|u1", (self.size,)
        self.__array_interface__ = {"data": (self.ptr, False), "typestr": typestr, "shape": shape, "version": 3}

    def __del__(self, ending=sys.is_finalizing):
        if not ending():
            self._give()


class MemoryPool(Partial):
    """A pool. That of all arrays takes what it needs from the host, and keeps nothing that nobody uses; one with another
    allocator takes from there, and keeps everything until `free_all_blocks`. As the real one, a pool does not live for its
    arrays' sake: what they hold when it goes is somebody else's, and poisoned here."""

    _real = "cupy.cuda.MemoryPool"

    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None):
        self._allocator = allocator
        self._used, self._total, self._limit = 0, 0, 0
        self._idle: dict[int, list[Any]] = {}  # by size: what there is of the allocator's
        self._in_use: dict[int, np.ndarray] = {}  # by address
        self._lock = threading.RLock()

    def malloc(self, size: int) -> MemoryPointer:
        size = max(-(-size // UNIT), 1) * UNIT
        with self._lock:
            idle = self._idle.get(size)
            mine = idle.pop() if idle else self._more(size)
            self._used += size
        block = mine if self._allocator is None else mine.block
        block.fill(0xFF)
        self._in_use[block.ctypes.data] = block
        pool = weakref.ref(self)

        def give() -> None:
            if (alive := pool()) is not None:
                alive._give(mine, block.ctypes.data, size)

        return MemoryPointer(Memory(block, give), 0)

    def __del__(self, ending=sys.is_finalizing):
        if ending():
            return
        for block in self._in_use.values():
            block.fill(0xFF)

    def _more(self, size: int) -> Any:
        if self._limit and self._total + size > self._limit:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes (allocated so far: {self._total} bytes).")
        if self._allocator is None:
            count("allocations")
            raw = np.empty(size + UNIT, np.uint8)
            start = -raw.ctypes.data % UNIT
            mine = raw[start : start + size]
        else:
            mine = self._allocator(size).mem
        self._total += size
        return mine

    def _give(self, mine: Any, address: int, size: int) -> None:
        with self._lock:
            del self._in_use[address]
            self._used -= size
            if self._allocator is None:
                self._total -= size
                mine.fill(0xFF)  # whoever reads it from now on, reads what is not there
            else:
                self._idle.setdefault(size, []).append(mine)

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_bytes(self) -> int:
        return self._total - self._used

    def free_all_blocks(self, stream=None) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
            for size, blocks in idle.items():
                self._total -= size * len(blocks)
                for memory in blocks:
                    memory.block.fill(0xFF)

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size=None, fraction=None) -> None:
        if fraction is not None:
            raise NotImplementedError("the emulated pool knows no size of a device: give set_limit a size")
        self._limit = size or 0


pool = MemoryPool()
_thread = threading.local()  # .allocator, where a thread has one of its own


def get_allocator() -> Callable[[int], MemoryPointer]:
    return getattr(_thread, "allocator", None) or pool.malloc


@contextlib.contextmanager
def using_allocator(allocator=None) -> Iterator[None]:
    before, _thread.allocator = getattr(_thread, "allocator", None), allocator or pool.malloc
    try:
        yield
    finally:
        _thread.allocator = before


def alloc(size: int) -> MemoryPointer:
    return get_allocator()(size)


class MemoryPointer(Partial):
    """Where an array begins."""

    _real = "cupy.cuda.MemoryPointer"

    def __init__(self, mem: Memory, offset: int):
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return self.mem.ptr + self._offset

    @property
    def device(self) -> Any:
        from emulator.cupy_emulated.device import Device

        return Device(self.device_id)

    device_id = property(lambda self: self.mem.device_id)

    def __int__(self) -> int:
        return self.ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self._offset + offset)

    __radd__ = __add__

    def __sub__(self, offset: int) -> MemoryPointer:
        return self + -offset

    def memset_async(self, value: int, size: int, stream=None) -> None:
        recorded_as(ctypes.memset, self.ptr, value, size)

    memset = memset_async

    def copy_from_device_async(self, src: MemoryPointer, size: int, stream=None) -> None:
        recorded_as(ctypes.memmove, self.ptr, src.ptr, size)

    copy_from_device = copy_from_device_async


def owner_of(host: np.ndarray) -> np.ndarray:
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


def memory_of(host: np.ndarray) -> Memory | None:
    """The memory of the device that a host array is a view of, if it is."""
    base = owner_of(host).base
    return base if isinstance(base, Memory) else None


def detached(x: Any) -> Any:
    """The same places, for a graph: a graph knows addresses, and keeps nothing alive. What it holds here is the block, so
    that whoever is given that block next is seen to overwrite it."""
    if isinstance(x, (list, tuple)):
        return type(x)(detached(v) for v in x)
    if isinstance(x, dict):
        return {k: detached(v) for k, v in x.items()}
    memory = memory_of(x) if isinstance(x, np.ndarray) else None
    if memory is None:
        return x
    return np.ndarray(x.shape, x.dtype, memory.block, x.ctypes.data - memory.ptr, x.strides)


def poisoned(shape, dtype=float, order="C", strides=None) -> np.ndarray:
    """Memory of the current allocator, with content that shows when it is used: NaN, -1, True."""
    dtype = np.dtype(dtype)
    memory = alloc(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize).mem
    host = np.ndarray(shape, dtype, np.asarray(memory), 0, strides, order)
    if dtype == np.bool_ and capturing() is None:
        host.fill(True)
    return host


def taken(host: np.ndarray) -> np.ndarray:
    """A copy of a host array in the device's memory, with its order of axes."""
    place = poisoned(host.shape, host.dtype, strides=np.empty_like(host, order="K").strides)
    if capturing() is None:
        place[...] = host
    return place
