"""What a thread is doing: who executes its work, in which memory, with how many others. Entered by `with`, read here.

    with entered(pool=workspace): ...

backend : what `device` hands work on NumPy arrays to: the graph that is being captured, or None, which is the CPU itself
pool    : where `memory` takes large arrays from; None: the process's own
stop    : an event that is set when the caller of `pool.each` is interrupted
alone   : whether kernels are shared with no other thread
share   : the numbers that are worth another thread; None: pool.SHARE
parked  : whether workers park between shares at once, without spinning first
uploads : where index arrays on a device are kept, for a graph that uses them for longer than they stay there; or None
allocator : of the memory on a device in which index arrays lie; None: CuPy's current one
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
    """In the block, this thread's context has these values."""
    before = {name: getattr(context, name) for name in changes}
    vars(context).update(changes)
    try:
        yield
    finally:
        vars(context).update(before)
