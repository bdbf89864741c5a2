"""Memory for large arrays that is used again: fresh pages from the system cost more than most kernels that fill them.

`empty(shape, dtype)` is `numpy.empty`, except that memory of the size which no array uses any more is handed out again. The
arrays are ordinary ones; what tells that one is no longer used, nor any view of it, is its reference count. At most LIMIT
bytes lie idle, those idle for longest go first, and `clear()` gives all of them back to the system.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from typing import Any

import numpy as np

__all__ = ["LIMIT", "clear", "empty"]

SMALL = 1 << 16  # below this the C library itself keeps freed memory
LIMIT = 1 << 28

_lock = threading.Lock()
_blocks: deque[np.ndarray] = deque()  # the least recently handed out first


def _references(i: int) -> int:
    """How many references to block i there are, by the count of one interpreter: versions differ in what they count."""
    return sys.getrefcount(_blocks[i])


_blocks.append(np.empty(0, np.uint8))
_IDLE = _references(0)  # of a block that no array uses
_blocks.clear()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with arbitrary content, C-contiguous."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < SMALL or nbytes > LIMIT:
        return np.empty(shape, dtype)
    size = _rounded(nbytes)
    with _lock:
        for i in range(len(_blocks)):
            if len(_blocks[i]) == size and _references(i) == _IDLE:
                block = _blocks[i]
                del _blocks[i]
                break
        else:
            block = np.empty(size, np.uint8)
            _discard(LIMIT - size)
        _blocks.append(block)
        return np.ndarray(shape, dtype, block)


def clear() -> None:
    """Forget all memory: what no array uses goes back to the system."""
    with _lock:
        _blocks.clear()


def _rounded(nbytes: int) -> int:
    """Up to the next of eight sizes per power of two, so that a last smaller batch fits where a full one was."""
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step


def _discard(limit: int) -> None:
    """Forget blocks, those handed out longest ago first, until the rest is within the limit; used ones live on elsewhere."""
    total = sum(len(block) for block in _blocks)
    while total > limit:
        total -= len(_blocks.popleft())
