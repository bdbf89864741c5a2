"""Nested dicts, lists and tuples whose leaves are arrays (or anything else): arguments and results of whole computations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gvae.errors import ShapeError

__all__ = ["leaves_beside", "leaves_of", "mapped"]

NESTS = (dict, list, tuple)


def mapped(f: Callable[[Any], Any], structure: Any) -> Any:
    """The structure with f(leaf) for each leaf; None stays None."""
    if not isinstance(structure, NESTS):
        return None if structure is None else f(structure)
    if isinstance(structure, dict):
        return {name: mapped(f, part) for name, part in structure.items()}
    return type(structure)([mapped(f, part) for part in structure])


def leaves_of(structure: Any) -> list[Any]:
    """The leaves, in order, without None."""
    found: list[Any] = []
    _collect([structure], found)
    return found


def _collect(structure: Any, found: list[Any]) -> None:
    for part in structure.values() if isinstance(structure, dict) else structure:
        if isinstance(part, NESTS):
            _collect(part, found)
        elif part is not None:
            found.append(part)


def leaves_beside(structure: Any, other: Any) -> list[tuple[Any, Any]]:
    """Pairs (leaf, its counterpart in another structure of the same form), without those whose counterpart is None.

    A ShapeError if the other structure has other keys or lengths.
    """
    if other is None or structure is None:
        return []
    if not isinstance(structure, NESTS):
        return [(structure, other)]
    keys = _keys(structure)
    if _keys(other) != keys:
        raise ShapeError(f"structures differ: one has {_entries(structure)}, the other {_entries(other)}")
    return [pair for key in keys for pair in leaves_beside(structure[key], other[key])]


def _keys(structure: Any) -> Any:
    """What selects the parts of a structure, to be compared; None for a leaf."""
    if isinstance(structure, dict):
        return structure.keys()
    return range(len(structure)) if isinstance(structure, NESTS) else None


def _entries(structure: Any) -> str:
    if isinstance(structure, dict):
        return f"the entries {', '.join(map(str, structure))}"
    return f"{len(structure)} parts" if isinstance(structure, NESTS) else f"a single {type(structure).__name__}"
