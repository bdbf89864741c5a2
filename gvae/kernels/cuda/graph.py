"""What launches that are replayed need: memory of their own, a stream of their own, and the graph of them.

A graph holds addresses and numbers as they were when it was captured. So nothing that it reads or writes may be given to
others while it lives: what is computed on the way lies in a `Workspace`, and everything else is held by the graph's owner.
What changes from launch to launch lies in device memory. cuBLAS, cuSOLVER, cuSPARSE and whatever waits for the device or
copies from the host raise while a stream captures: CuPy's rules, in its documentation of Stream.begin_capture.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from gvae.runtime.context import entered

__all__ = ["Graph", "Workspace", "own_stream"]

_thread = threading.local()  # .streams: by device
_outlived: set[Any] = set()  # pools without an owner, of which some array still has memory


class Workspace:
    """Memory that is used again: within `used()`, arrays lie in a pool that only this workspace has.

    The pool takes what it needs from the allocator that is current when the workspace is made, so that whatever limits hold
    there hold here, and keeps it as long as it lives: replayed launches find memory of every size they ask for.
    """

    def __init__(self) -> None:
        cupy: Any = sys.modules["cupy"]
        self.allocator = cupy.cuda.get_allocator()
        self.pool = cupy.cuda.MemoryPool(self.allocator)
        _outlived.difference_update([pool for pool in tuple(_outlived) if not pool.used_bytes()])

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        cupy: Any = sys.modules["cupy"]
        with cupy.cuda.using_allocator(self.pool.malloc), entered(allocator=self.allocator):
            yield

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # an array does not keep its pool alive, and without the pool its memory would be given to others
        if not ending() and self.pool.used_bytes():
            _outlived.add(self.pool)


class Graph:
    """The launches that `run` makes, captured: nothing of them is executed before `launch`.

    run must have been called before, on the same stream and in the same workspace, so that kernels are compiled and loaded,
    index arrays uploaded, and memory taken. Raises whatever run does, or CuPy because of what it does.
    """

    def __init__(self, run: Callable[[], Any], workspace: Workspace):
        cupy: Any = sys.modules["cupy"]
        self.workspace = workspace
        stream = cupy.cuda.get_current_stream()
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()  # what a collection frees may be modules or events, whose ends must not be part of a capture
        try:
            self.held: list[Any] = []
            with entered(uploads=self.held), workspace.used():
                stream.begin_capture()
                try:
                    run()
                except BaseException:
                    with contextlib.suppress(Exception):  # the capture is lost as well; the stream has to leave it
                        stream.end_capture()
                    raise
                self.graph = stream.end_capture()
        finally:
            if collecting:
                gc.enable()
        self.graph.upload()

    def launch(self) -> None:
        """Once, on the current stream."""
        self.graph.launch()


@contextlib.contextmanager
def own_stream() -> Iterator[None]:
    """Use another stream in the block if the current one cannot capture, because it is a default stream, or synchronises
    with the null stream. The other one begins after the work already queued on the caller's stream, which waits for it at
    the end. Nothing here waits for the device."""
    cupy: Any = sys.modules["cupy"]
    caller = cupy.cuda.get_current_stream()
    if caller.ptr not in (0, 1, 2) and caller.is_non_blocking:  # 0, 1, 2: the null stream, the legacy one, the thread's
        yield
        return
    streams = _thread.__dict__.setdefault("streams", {})
    device = id(cupy), cupy.cuda.Device().id
    if device not in streams:  # kept, because pools keep memory for each stream separately
        streams[device] = cupy.cuda.Stream(non_blocking=True)
    stream = streams[device]
    stream.wait_event(caller.record())
    with stream:
        try:
            yield
        finally:
            caller.wait_event(stream.record())
