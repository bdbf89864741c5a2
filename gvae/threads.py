"""A small pool of threads over ranges of systems, for kernels that release the interpreter lock.

How many threads: GVAE_NUM_THREADS, by default the number of CPUs this process may use. Every kernel runs over a half-open
range [lo, hi) of independent systems, and the cuts fall between the groups that the kernel itself works in, so the results
have the same bits for every number of threads. Work too small to share stays in the calling thread.

The pool is made at its first use, never at import. A forked child makes a pool of its own. A thread that waits for a share
which nobody has begun takes it back and does it itself, so any number of Python threads can call at once.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gvae.errors import ConfigError

__all__ = ["count", "over"]

VARIABLE = "GVAE_NUM_THREADS"
SHARE = 1 << 19  # numbers read and written that are worth another thread: it costs 20 to 50 us to wake

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def count() -> int:
    """How many threads large work is shared by, the caller's own included. Raises ConfigError."""
    given = os.environ.get(VARIABLE)
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdecimal() or int(given) == 0:
        raise ConfigError(f"{VARIABLE} is {given!r}, expected a positive integer")
    return int(given)


def over(kernel: Callable[..., None], *arguments: Any, n: int, work: int, step: int = 1) -> None:
    """kernel(*arguments, lo, hi) over all of [0, n), cut at multiples of `step`; `work` is the numbers touched in all."""
    shares = 1 if work < 2 * SHARE else min(count(), work // SHARE, -(-n // step))
    if shares <= 1:
        kernel(*arguments, 0, n)
        return
    cuts = [i * -(-n // step) // shares * step for i in range(shares)] + [n]
    pool = _shared_pool(shares - 1)
    boxes = [[(kernel, arguments, lo, hi)] for lo, hi in itertools.pairwise(cuts[1:])]
    others = [(box, pool.submit(_share, box)) for box in boxes]
    kernel(*arguments, 0, cuts[1])
    for box, future in reversed(others):
        if future.cancel():  # nobody has begun it; the box stays in the pool's queue, and must not hold the arrays there
            _share(box)
        else:
            future.result()


def _share(box: list) -> None:
    """Do what is in the box. Taken out of it, the arrays are let go of before the caller hears that they are ready: it may
    look at once whether their memory is free (see gvae.memory)."""
    kernel, arguments, lo, hi = box.pop()
    kernel(*arguments, lo, hi)


def _shared_pool(size: int) -> ThreadPoolExecutor:
    global _pool, _size
    with _lock:
        if _pool is None or size > _size:  # a smaller pool goes when its last work is done
            _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="gvae"), size
        return _pool


def _forget() -> None:
    """In a forked child the threads do not exist, and the lock may have been held by one of them."""
    global _lock, _pool, _size
    _lock, _pool, _size = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
