"""The memory of device arrays: the host's, with a pool's limit, and poison where nothing was written."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from emulator.cupy_emulated.counting import Partial, count


class OutOfMemoryError(MemoryError):
    """As cupy.cuda.memory's: more than the pool's limit is asked for."""


class MemoryPool(Partial):
    """The pool behind all arrays: knows how many bytes are in use, and refuses more than its limit."""

    _real = "cupy.cuda.MemoryPool"

    def __init__(self):
        self._used, self._limit, self._refs = 0, 0, {}

    def _take(self, host: np.ndarray) -> None:
        if id(host) in self._refs:  # another view of it
            return
        if self._limit and self._used + host.nbytes > self._limit:
            raise OutOfMemoryError(f"Out of memory allocating {host.nbytes} bytes (allocated so far: {self._used} bytes).")
        count("allocations")
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


pool = MemoryPool()


class MemoryPointer(Partial):
    """Where an array begins."""

    _real = "cupy.cuda.MemoryPointer"

    def __init__(self, mem: Any, offset: int):  # mem: the host array that owns the memory
        self.mem, self._offset = mem, offset

    @property
    def ptr(self) -> int:
        return self.mem.ctypes.data + self._offset

    @property
    def device(self) -> Any:
        from emulator.cupy_emulated.device import Device

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


def owner_of(host: np.ndarray) -> np.ndarray:
    while isinstance(host.base, np.ndarray):
        host = host.base
    return host


ALIGNMENT = 512  # of what the real pool returns


def poisoned(shape, dtype=float, order="C") -> np.ndarray:
    """Host memory, aligned as a device's, with content that shows when it is used: NaN, -1, True."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.full(size * dtype.itemsize + ALIGNMENT, 0xFF if dtype != np.bool_ else 1, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    host = raw[start : start + size * dtype.itemsize].view(dtype).reshape(shape, order=order)
    pool._take(raw)
    return host
