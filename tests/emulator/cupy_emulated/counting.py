"""What the real CuPy has, what goes between host and device, and what a stream captures."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES: dict[str, Any] = json.loads(Path(__file__).parents[1].joinpath("cupy_names.json").read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    return text.split()


class CUDARuntimeError(RuntimeError):
    """As cupy.cuda.runtime's."""


@dataclass
class Counts:
    """What happened in a `counted()` block."""

    to_host: int = 0  # copies and reads of values, each of which waits for the device; bool(x) and sizes of results too
    to_device: int = 0
    synchronize: int = 0  # waits that the caller asked for
    launches: int = 0  # of kernels of RawModules
    operations: int = 0  # calls of CuPy's own functions that compute
    allocations: int = 0  # of memory that no pool had idle
    graphs: int = 0  # launches of graphs: what is in them is not counted again


_listeners: list[Counts] = []


def count(what: str) -> None:
    capture = capturing()
    if capture is not None and (what in WAITING or (what == "allocations" and capture.mode != RELAXED)):
        capture.refuse()
    for counts in _listeners:
        setattr(counts, what, getattr(counts, what) + 1)


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count transfers, waits, launches and allocations of the block, of all threads."""
    counts = Counts()
    _listeners.append(counts)
    try:
        yield counts
    finally:
        _listeners[:] = [c for c in _listeners if c is not counts]


# ---- capture: the current stream of a thread executes nothing, and keeps a list ----

WAITING = ("to_host", "to_device", "synchronize")  # what no stream does while it captures
RELAXED = 2  # the mode in which memory may be taken while a stream captures; CuPy's default


class Capture:
    """What a stream has been given since its capture began."""

    def __init__(self, mode: int):
        self.mode, self.operations, self.broken = mode, [], False

    def refuse(self) -> None:
        """What has happened cannot be captured: it raises here, and the capture is lost."""
        self.broken = True
        raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

    def add(self, operation: Callable[[], Any]) -> None:
        if self.broken:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        self.operations.append(operation)


class Current(threading.local):
    def __init__(self):
        self.streams: list[Any] = []


current = Current()


def capturing() -> Capture | None:
    """What the current stream captures, if it does."""
    return current.streams[-1]._capture if current.streams else None


def recorded_as(function: Callable, *args: Any) -> None:
    """Call it, or have the graph call it."""
    capture = capturing()
    if capture is None:
        function(*args)
    else:
        capture.add(lambda: function(*args))


def not_captured(library: str) -> None:
    """CuPy calls most of CUDA's libraries only where no stream captures."""
    if capturing() is not None:
        raise NotImplementedError(f"calling {library} API during stream capture is currently unsupported")


class Partial:
    """A class that has some of the names of a real one, and says so of the others. `_real`: its name in NAMES."""

    __slots__ = ()
    _real = ""

    def __getattr__(self, name: str) -> Any:
        if name in NAMES[self._real] and not name.startswith("__"):
            raise NotImplementedError(f"{self._real}.{name} exists, but not in the emulated CuPy: add it to {__package__}")
        raise AttributeError(f"{self._real!r} object has no attribute {name!r}")
