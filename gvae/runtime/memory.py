"""Reused memory for large arrays: fresh pages from the system cost more than most kernels that fill them.

`empty(shape, dtype)` is `numpy.empty`, except that memory of about the size which no array uses any more is handed out
again. The arrays are ordinary ones; their reference count tells whether one, or a view of it, is still in use. The
pool keeps blocks of at most LIMIT bytes in all, and drops those handed out longest ago first; `gvae.clear_memory()` drops
all of them. Arrays in use keep their memory.

The arrays begin at a cache line, where NumPy's begin anywhere, and each at another line of its page: a kernel that stores
whole lines takes up to a fifth less time, and a processor compares only positions within a page to decide whether what it
loads has just been stored.
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

from gvae.runtime.context import context

__all__ = ["LIMIT", "Pool", "clear_memory", "empty"]

LINE, PAGE = 64, 4096  # bytes
SMALL = 1 << 16  # below this the C library itself keeps freed memory
LIMIT = 1 << 28
MOST = 64  # blocks: each call scans them, and callers may hold any number of results
ROUNDS = 20  # rounds of the calibration: an interpreter rewrites bytecodes that run often, which must give the same counts


class Pool:
    """Blocks of memory, handed out again when no array uses them.

    blocks : (block, its size, where its first line begins), the least recently handed out first
    limit, most : bytes and blocks that it keeps
    idle : what `empty` counts of a block that no array uses; None if it cannot tell
    """

    idle: Any = None

    def __init__(self, limit: float, most: float):
        self.limit, self.most = limit, most
        self.blocks: deque[tuple[np.ndarray, int, int]] = deque()
        self.lock = threading.Lock()
        self.made = 0

    def empty(self, shape: tuple[int, ...], dtype: Any, size: int) -> np.ndarray:
        """See `memory.empty`; size: what `_room` returns."""
        if size > self.limit or self.idle is None:
            return np.empty(shape, dtype)
        blocks = self.blocks
        with self.lock:
            most = size + size // 4
            for i in range(len(blocks) - 1, -1, -1):  # the blocks used last are still in the caches
                block, there, start = blocks[i]
                if size <= there <= most and sys.getrefcount(block) == self.idle:
                    size = there
                    del blocks[i]
                    break
            else:
                block = np.empty(size, np.uint8)
                start = -block.ctypes.data % LINE + LINE * (self.made * 19 % (PAGE // LINE - 1))
                self.made += 1
                self.discard(self.limit - size)
            blocks.append((block, size, start))
            return np.ndarray(shape, dtype, block, start)

    def discard(self, limit: float) -> None:
        """Forget blocks, those handed out longest ago first, until one more has room; arrays in use keep their memory."""
        total = sum(size for _, size, _ in self.blocks)
        while total > limit or len(self.blocks) >= self.most:
            total -= self.blocks.popleft()[1]


class _Counts:
    """A placeholder for `Pool.idle`: equals no count, and keeps those that it is compared with."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __eq__(self, count: object) -> bool:
        self.seen.append(count)  # type: ignore[arg-type]
        return False

    __hash__ = None  # type: ignore[assignment]


def _count_of_first(pool: Pool) -> int:
    """What `Pool.empty` counts of the first block; it scans them from the last one on."""
    pool.empty((2,), np.float32, PAGE)
    return pool.idle.seen[-1]


def _calibrated() -> int | None:
    """`Pool.idle` by this interpreter, as `Pool.empty` itself counts: versions differ in which bytecodes hold references.
    None where a use does not count, or counts without the lock of the GIL."""
    idle, used = set(), set()
    for _ in range(ROUNDS):
        pool = Pool(math.inf, math.inf)
        pool.idle = _Counts()
        array = pool.empty((2,), np.float32, PAGE)
        used.add(_count_of_first(pool))
        view = array[1:]
        del array
        used.add(_count_of_first(pool))
        del view
        idle.add(_count_of_first(pool))
    counts = len(idle) == 1 and min(used) > max(idle) and getattr(sys, "_is_gil_enabled", lambda: True)()
    return idle.pop() if counts else None


Pool.idle = _calibrated()
_pool = Pool(LIMIT, MOST)  # the pool of the process


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with arbitrary content, C-contiguous, in the pool of the context."""
    size = _room(shape, dtype)
    return np.empty(shape, dtype) if size == 0 else (context.pool or _pool).empty(shape, dtype, size)


def clear_memory() -> None:
    """Release the idle memory that gvae keeps for large arrays to the system.

    Memory that arrays use is not affected; it goes back to the system with them.

    Examples
    --------
    >>> x = gvae.ops.add(np.zeros((300, 300)), 1.0)
    >>> gvae.clear_memory()
    >>> x.sum()  # arrays in use stay valid
    np.float64(90000.0)
    """
    with _pool.lock:
        _pool.blocks.clear()


def _unlock() -> None:
    """In a forked child: the lock may have been held by a thread that does not exist there."""
    _pool.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


@lru_cache(maxsize=1024)  # a program makes arrays of few shapes, each of them often
def _room(shape: tuple[int, ...], dtype: Any) -> int:
    """The size of a block for such an array, or 0 if it is too small for one. Up to the next of eight sizes per power of
    two, so that a last smaller batch fits where a full one was."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < SMALL:
        return 0
    nbytes += PAGE
    step = 1 << max(nbytes.bit_length() - 4, 12)
    return -(-nbytes // step) * step
