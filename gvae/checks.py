"""One-line contracts on shapes and dtypes.

    sizes = check_shapes("chol: ... M N, b: ... N", chol=chol, b=b)

A letter stands for a size and must be the same wherever it appears; `...` stands for leading batch axes, which must
broadcast against each other as in `numpy.matmul`; a number stands for itself. The error names the calling function, the
argument, what was expected and what was given.
"""

from __future__ import annotations

import itertools
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from gvae.errors import ConfigError, DeviceError, DTypeError, ShapeError
from gvae.runtime.device import is_cuda
from gvae.typing import Array

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


def caller_name(primitive: str | None = None) -> str:
    """The name of the function for which a check runs, read from the stack only when an error is raised.

    It is the outermost public op, the one that the user called, or else the first function outside this module. A
    primitive has no frame of its own: the tape passes its name.
    """
    op, frame = None, sys._getframe(1)
    while frame.f_back is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.startswith("gvae.ops."):
            op = name if name in frame.f_globals.get("__all__", ()) else op
        elif module not in (__name__, "gvae.autodiff"):
            break
        frame = frame.f_back
    return op or primitive or frame.f_code.co_name


def check_shapes(contract: str, *, where: str | None = None, **arrays: Array) -> Mapping[str, Any]:
    """Check every array against the contract. Returns the sizes by letter, and the broadcast batch shape under "..."."""
    sizes, misfit = _fit(contract, tuple(arrays[name].shape for name, _, _ in _parse(contract)))
    if misfit is not None:
        _fail(where or caller_name(), contract, sizes, *misfit)
    return sizes


@lru_cache(maxsize=1024)  # a program uses few shapes, each of them often
def _fit(contract: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[Mapping[str, Any], tuple | None]:
    """The sizes by letter, and the first shape that does not fit with what was expected of it, or None."""
    sizes: dict[str, Any] = {}
    batch: tuple[int, ...] = ()
    for (name, batched, core), shape in zip(_parse(contract), shapes, strict=True):
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
            return sizes, (name, shape, core, batched, batch)
    sizes["..."] = batch
    return MappingProxyType(sizes), None


def _fail(
    where: str,
    contract: str,
    sizes: Mapping[str, Any],
    name: str,
    shape: tuple[int, ...],
    core: tuple[str | int, ...],
    batched: bool,
    batch: tuple[int, ...] | None,
) -> NoReturn:
    axes = [str(axis) if isinstance(axis, int) or axis not in sizes else f"{axis}={sizes[axis]}" for axis in core]
    lead = [f"...{batch}" if batch else "..."] if batched else []
    raise ShapeError(f"{where}: {name} has shape {shape}, expected ({', '.join(lead + axes)}) from '{contract}'")


def check_floating(*, where: str | None = None, **arrays: Array) -> np.dtype:
    """All arrays float32, or all float64, and on one device. Returns the dtype."""
    first: np.dtype | None = None
    ordinary = True
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype not in FLOATS:
            given = dtype if dtype is not None else type(array).__name__
            raise DTypeError(f"{where or caller_name()}: {name} is {given}, expected a float32 or float64 array")
        ordinary = ordinary and type(array) is np.ndarray
        if first is None:
            first = dtype
        elif dtype != first:
            raise DTypeError(
                f"{where or caller_name()}: {name} is {dtype}, expected {first} as {next(iter(arrays))}: "
                "arrays of one call share one dtype"
            )
    if first is None:
        raise ShapeError(f"{where or caller_name()}: no arrays were given, expected at least one")
    if not ordinary:
        check_device(where=where, **arrays)
    return first


def check_array(*, where: str | None = None, **arrays: Array) -> None:
    """Arrays of any dtype, for functions that only move elements."""
    for name, array in arrays.items():
        if getattr(array, "dtype", None) is None or getattr(array, "shape", None) is None:
            raise DTypeError(f"{where or caller_name()}: {name} is {type(array).__name__}, expected an array")


def check_device(*, where: str | None = None, **arrays: Array) -> None:
    """NumPy and CuPy arrays are not mixed, nor arrays of two devices. Numbers go with either; a Var counts as its array."""
    values = {name: getattr(array, "value", array) for name, array in arrays.items()}
    host = [name for name, value in values.items() if isinstance(value, np.ndarray) and not is_cuda(value)]
    for name, value in values.items():
        if host and is_cuda(value):
            raise DeviceError(
                f"{where or caller_name()}: {name} is a CuPy array, expected a NumPy array as {host[0]}: "
                "arrays of one call live on one device; cupy.asarray and cupy.asnumpy move them"
            )
    places = {name: getattr(getattr(value, "data", None), "device_id", None) for name, value in values.items()}
    known = {name: place for name, place in places.items() if place is not None}
    for name, place in known.items():
        first = next(iter(known))
        if place != known[first]:
            raise DeviceError(
                f"{where or caller_name()}: {name} is on CUDA device {place}, expected device {known[first]} as {first}: "
                "arrays of one call live on one device"
            )


def check_arrays(contract: str, *, where: str | None = None, **arrays: Array) -> Mapping[str, Any]:
    """Floating arrays of one dtype that fit the contract: `check_floating` and `check_shapes` in one. Vars are accepted."""
    kinds = tuple([(x.dtype, x.shape) if type(x) is np.ndarray else None for x in arrays.values()])
    sizes = _sizes_of_good(contract, tuple(arrays), kinds)
    if sizes is not None:
        return sizes
    check_floating(where=where, **arrays)
    return check_shapes(contract, where=where, **arrays)


@lru_cache(maxsize=1024)  # as `_fit`
def _sizes_of_good(contract: str, names: tuple[str, ...], kinds: tuple[Any, ...]) -> Mapping[str, Any] | None:
    """The return value of `check_arrays` if all arrays are NumPy's own and valid, else None."""
    if None in kinds or len({dtype for dtype, _ in kinds}) != 1 or kinds[0][0] not in FLOATS:
        return None
    sizes, misfit = _fit(contract, tuple(kinds[names.index(name)][1] for name, _, _ in _parse(contract)))
    return sizes if misfit is None else None


def check_offsets(offsets: Sequence[int], M: int | None = None, *, name: str = "offsets", where: str | None = None) -> tuple:
    """Strictly increasing integers from 0, one per row of the factor."""
    try:
        checked = tuple(int(o) for o in offsets)
        exact = all(o == c for o, c in zip(offsets, checked, strict=True))
    except (TypeError, ValueError):
        exact, checked = False, ()
    increasing = all(a < b for a, b in itertools.pairwise(checked))
    if not exact or not checked or checked[0] != 0 or not increasing:
        raise ShapeError(
            f"{where or caller_name()}: {name} is {offsets!r}, expected strictly increasing integers starting at 0"
        )
    if M is not None and len(checked) != M:
        raise ShapeError(
            f"{where or caller_name()}: {name} has {len(checked)} entries, expected M={M}, one per row of the factor"
        )
    return checked


def check_axis(axis: Any, ndim: int, *, name: str = "axis", where: str | None = None) -> int:
    """One axis of an array with `ndim` of them, counted from 0."""
    try:
        position = operator.index(axis)
    except TypeError:
        position = ndim
    if not -ndim <= position < ndim:
        raise ShapeError(f"{where or caller_name()}: {name} is {axis!r}, expected an axis of an array with {ndim} of them")
    return position % ndim


def check_axes(axes: Any, ndim: int, *, name: str = "axis", where: str | None = None) -> tuple[int, ...]:
    """One axis or a tuple of distinct ones, counted from 0."""
    checked = tuple(check_axis(a, ndim, name=name, where=where) for a in (axes if isinstance(axes, tuple) else (axes,)))
    if len(set(checked)) < len(checked):
        raise ShapeError(f"{where or caller_name()}: {name} is {axes!r}, expected distinct axes")
    return checked


def check_out(
    out: Array, shape: tuple[int, ...], dtype: DTypeLike, *, name: str = "out", like: Array = None, where: str | None = None
) -> None:
    """A result buffer has exactly the result's shape and dtype, is writable, shares no element with itself, and lies on the
    device of `like`.
    """
    where = where or caller_name()
    if not isinstance(out, np.ndarray) and not is_cuda(out):
        raise DTypeError(f"{where}: {name} is {type(out).__name__}, expected a {np.dtype(dtype)} array {shape}")
    if out.dtype != dtype:
        raise DTypeError(f"{where}: {name} is {out.dtype} {out.shape}, expected {np.dtype(dtype)} {shape}")
    if out.shape != shape:
        raise ShapeError(f"{where}: {name} is {out.dtype} {out.shape}, expected {np.dtype(dtype)} {shape}")
    if is_cuda(out) != is_cuda(like):
        kinds = ("NumPy", "CuPy") if is_cuda(like) else ("CuPy", "NumPy")
        raise DeviceError(f"{where}: {name} is a {kinds[0]} array, expected a {kinds[1]} array as the arguments are")
    shared = any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True))
    if shared or not getattr(out.flags, "writeable", True):  # CuPy arrays are always writable
        raise ShapeError(f"{where}: {name} is read-only or a broadcast view, expected a writable array of its own")


def check_whole(**numbers: Any) -> None:
    """Raise ConfigError unless all are positive integers."""
    for name, x in numbers.items():
        if not isinstance(x, (int, np.integer)) or isinstance(x, bool) or x < 1:
            raise ConfigError(f"{name} is {x!r}, expected a whole number of at least 1")


def check_paths(where: str, **paths: Any) -> None:
    """Raise ConfigError unless all are paths, of at least one character. `os` would take a number for an open file."""
    for name, path in paths.items():
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise ConfigError(f"{where}: {name} is {_shown(path)}, expected a path")


def check_callables(where: str, **functions: Any) -> None:
    """Raise ConfigError unless all are None or can be called."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ConfigError(f"{where}: {name} is {_shown(function)}, expected a function or None")


def _shown(x: Any) -> str:
    return f"{' '.join(repr(x).split()):.80}"
