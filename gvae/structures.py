"""Nested dicts, lists and tuples whose leaves are arrays (or anything else): arguments and results of whole computations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    """Pairs (leaf, its counterpart in another structure of the same form), without those whose counterpart is None."""
    if other is None or structure is None:
        return []
    if not isinstance(structure, NESTS):
        return [(structure, other)]
    keys = structure.keys() if isinstance(structure, dict) else range(len(structure))
    return [pair for key in keys for pair in leaves_beside(structure[key], other[key])]
