"""Memory for large arrays that is used again: fresh pages from the system cost more than most kernels that fill them.

`empty(shape, dtype)` is `numpy.empty`, except that memory of about the size which no array uses any more is handed out
again. The arrays are ordinary ones; what tells that one is no longer used, nor any view of it, is its reference count. At
most LIMIT bytes lie idle, those idle for longest go first, and `clear()` gives all of them back to the system.

They begin with a line of the caches, where NumPy's begin anywhere: a kernel that stores whole lines takes up to a fifth less
time.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["LIMIT", "clear", "empty"]

LINE = 64  # bytes
SMALL = 1 << 16  # below this the C library itself keeps freed memory
LIMIT = 1 << 28
MOST = 64  # blocks: each call looks through them, while somebody may hold any number of results

_lock = threading.Lock()
# a block, its size, and where its first line begins; the least recently handed out first
_blocks: deque[tuple[np.ndarray, int, int]] = deque()


def _calibrated() -> int | None:
    """The count of a block that no array uses, by this interpreter: versions differ in what they count. None where a use
    does not count, or counts without the lock of the GIL."""
    _blocks.append((np.empty(8, np.uint8), 8, 0))
    block, _, _ = _blocks[0]
    idle = sys.getrefcount(block)
    used = np.ndarray((2,), np.float32, block)
    counts = sys.getrefcount(block) == idle + 1 and getattr(sys, "_is_gil_enabled", lambda: True)()
    del used
    _blocks.clear()
    return idle if counts else None


_IDLE = _calibrated()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with arbitrary content, C-contiguous."""
    size = _room(shape, dtype)
    if size == 0 or _IDLE is None:
        return np.empty(shape, dtype)
    with _lock:
        most = size + size // 4
        for i in range(len(_blocks) - 1, -1, -1):  # what was used last is in the caches still
            block, there, start = _blocks[i]
            if size <= there <= most and sys.getrefcount(block) == _IDLE:
                size = there
                del _blocks[i]
                break
        else:
            block = np.empty(size, np.uint8)
            start = -block.ctypes.data % LINE
            _discard(LIMIT - size)
        _blocks.append((block, size, start))
        return np.ndarray(shape, dtype, block, start)


def clear() -> None:
    """Forget all memory: what no array uses goes back to the system."""
    with _lock:
        _blocks.clear()


def _unlock() -> None:
    """In a forked child: the lock may have been held by a thread that does not exist there."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


@lru_cache(maxsize=1024)  # a program makes arrays of few shapes, and each of them often
def _room(shape: tuple[int, ...], dtype: Any) -> int:
    """The size of a block for such an array, or 0 if it gets none. Up to the next of eight sizes per power of two, so that a
    last smaller batch fits where a full one was."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < SMALL or nbytes > LIMIT:
        return 0
    nbytes += LINE
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _discard(limit: int) -> None:
    """Forget blocks, those handed out longest ago first, until one more has room; what is used lives on elsewhere."""
    total = sum(size for _, size, _ in _blocks)
    while total > limit or len(_blocks) >= MOST:
        total -= _blocks.popleft()[1]
