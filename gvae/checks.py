"""One-line contracts on shapes and dtypes.

    sizes = check_shapes("chol: ... M N, b: ... N", chol=chol, b=b)

A letter stands for a size and must be the same wherever it appears; `...` stands for leading batch axes, which must
broadcast against each other as in `numpy.matmul`; a number is that very size. The error names the calling function, the
argument, what was expected and what was given.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.errors import DTypeError, ShapeError

FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))  # a set: `np.dtype(float) == None` holds, hashes differ


@lru_cache(maxsize=256)
def _parse(contract: str) -> tuple[tuple[str, bool, tuple[str | int, ...]], ...]:
    parsed = []
    for clause in contract.split(","):
        name, axes = clause.split(":")
        tokens = axes.split()
        batched = bool(tokens) and tokens[0] == "..."
        core = tuple(int(t) if t.isdigit() else t for t in tokens[batched:])
        parsed.append((name.strip(), batched, core))
    return tuple(parsed)


def caller_name(depth: int) -> str:
    """The public function on whose behalf a check runs (read from the stack, and only when an error is raised)."""
    return sys._getframe(depth + 1).f_code.co_name


def check_shapes(contract: str, *, where: str | None = None, **arrays: Any) -> dict[str, Any]:
    """Check every array against the contract. Returns the sizes by letter, and the broadcast batch shape under "..."."""
    sizes: dict[str, Any] = {}
    batch: tuple[int, ...] = ()
    for name, batched, core in _parse(contract):
        shape = arrays[name].shape
        trailing = shape[len(shape) - len(core) :] if len(shape) >= len(core) else None
        good = trailing is not None and (batched or len(shape) == len(core))
        if good and trailing is not None:
            for axis, size in zip(core, trailing, strict=True):
                if (axis if isinstance(axis, int) else sizes.setdefault(axis, size)) != size:
                    good = False
        if good and batched:
            lead = shape[: len(shape) - len(core)]
            if lead and lead != batch:
                try:
                    batch = np.broadcast_shapes(batch, lead)
                except ValueError:
                    good = False
        if not good:
            _fail(where or caller_name(1), contract, name, shape, core, batched, sizes, batch)
    sizes["..."] = batch
    return sizes


def _fail(where, contract, name, shape, core, batched, sizes, batch):
    axes = [str(axis) if isinstance(axis, int) or axis not in sizes else f"{axis}={sizes[axis]}" for axis in core]
    lead = [f"...{batch}" if batch else "..."] if batched else []
    raise ShapeError(f"{where}: {name} has shape {shape}, expected ({', '.join(lead + axes)}) from '{contract}'")


def check_floating(*, where: str | None = None, **arrays: Any) -> np.dtype:
    """All arrays float32, or all float64. Returns the dtype."""
    first: np.dtype | None = None
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype not in FLOATS:
            given = dtype if dtype is not None else type(array).__name__
            raise DTypeError(f"{where or caller_name(1)}: {name} is {given}, expected a float32 or float64 array")
        if first is None:
            first = dtype
        elif dtype != first:
            raise DTypeError(
                f"{where or caller_name(1)}: {name} is {dtype}, expected {first} as {next(iter(arrays))}: "
                "arrays of one call share one dtype"
            )
    if first is None:
        raise ShapeError(f"{where or caller_name(1)}: no arrays were given, expected at least one")
    return first


def check_arrays(contract: str, *, where: str | None = None, **arrays: Any) -> dict[str, Any]:
    """Floating arrays of one dtype that fit the contract: `check_floating` and `check_shapes` in one. Vars pass alike."""
    where = where or caller_name(1)
    check_floating(where=where, **arrays)
    return check_shapes(contract, where=where, **arrays)


def check_offsets(offsets: Sequence[int], M: int | None = None, *, name="offsets", where: str | None = None) -> tuple:
    """Strictly increasing integers from 0, one per row of the factor."""
    try:
        checked = tuple(int(o) for o in offsets)
        exact = all(o == c for o, c in zip(offsets, checked, strict=True))
    except (TypeError, ValueError):
        exact, checked = False, ()
    increasing = all(a < b for a, b in itertools.pairwise(checked))
    if not exact or not checked or checked[0] != 0 or not increasing:
        raise ShapeError(
            f"{where or caller_name(1)}: {name} is {offsets!r}, expected strictly increasing integers starting at 0"
        )
    if M is not None and len(checked) != M:
        raise ShapeError(
            f"{where or caller_name(1)}: {name} has {len(checked)} entries, expected M={M}, one per row of the factor"
        )
    return checked


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, *, where: str) -> None:
    """A result buffer has exactly the result's shape and dtype, is writable, and no element of it is shared."""
    if out.shape != shape or out.dtype != dtype:
        raise ShapeError(f"{where}: out is {out.dtype} {out.shape}, expected {dtype} {shape}")
    if not out.flags.writeable or any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)):
        raise ShapeError(f"{where}: out is read-only or a broadcast view, expected a writable array of its own")
