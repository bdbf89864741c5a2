"""Settings of the current thread: the executor of its work, its memory, its number of threads. Entered by `with`, read here.

    with entered(pool=workspace): ...

backend : the executor of work on NumPy arrays: the graph that is being captured, or None for the CPU itself
pool    : the pool from which `memory` takes large arrays; None: that of the process
stop    : an event that is set when the caller of `pool.each` is interrupted
alone   : whether kernels run in the calling thread only
share   : the number of array elements that are worth another thread; None: pool.SHARE
parked  : whether workers park between shares at once, without spinning first
uploads : a list that keeps index arrays on a device, for a graph that uses them longer than they are cached there; or None
allocator : the allocator of index arrays on a device; None: CuPy's current one
compilers : processes that wait for kernels to compile, until they are given some; None: no kernels are compiled ahead
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gvae.runtime.launches import Graph
    from gvae.runtime.memory import Pool

__all__ = ["context", "entered"]


class _Context(threading.local):
    backend: Graph | None = None
    pool: Pool | None = None
    stop: threading.Event | None = None
    alone = False
    share: int | None = None
    parked = False
    uploads: list[Any] | None = None
    allocator: Any = None
    compilers: list[Any] | None = None


context = _Context()


@contextlib.contextmanager
def entered(**changes: Any) -> Iterator[None]:
    """Set values of this thread's context in the block."""
    before = {name: getattr(context, name) for name in changes}
    vars(context).update(changes)
    try:
        yield
    finally:
        vars(context).update(before)
