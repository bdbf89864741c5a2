"""What the real CuPy has, and what goes between host and device."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES: dict[str, Any] = json.loads(Path(__file__).parents[1].joinpath("cupy_names.json").read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    return text.split()


@dataclass
class Counts:
    """What happened in a `counted()` block."""

    to_host: int = 0  # copies and reads of values, each of which waits for the device; bool(x) and sizes of results too
    to_device: int = 0
    synchronize: int = 0  # waits that the caller asked for
    launches: int = 0  # of kernels of RawModules
    operations: int = 0  # calls of CuPy's own functions that compute
    allocations: int = 0


_listeners: list[Counts] = []


def count(what: str) -> None:
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


class Partial:
    """A class that has some of the names of a real one, and says so of the others. `_real`: its name in NAMES."""

    __slots__ = ()
    _real = ""

    def __getattr__(self, name: str) -> Any:
        if name in NAMES[self._real] and not name.startswith("__"):
            raise NotImplementedError(f"{self._real}.{name} exists, but not in the emulated CuPy: add it to {__package__}")
        raise AttributeError(f"{self._real!r} object has no attribute {name!r}")
