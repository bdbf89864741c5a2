"""What the operands of an elementwise function must be, and cotangents of those that were broadcast."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.checks import FLOATS, caller_name, check_device
from gvae.errors import DTypeError, ShapeError
from gvae.typing import Array, Cotangents, Needs

WEAK = (int, float, bool)  # exact types: a NumPy scalar of another dtype must not slip through


def check(**operands: Array) -> None:
    """Check that floating operands have one dtype and one device and broadcast; Python numbers pass."""
    first: Any = None
    ordinary = True
    for name, x in operands.items():
        if type(x) in WEAK:
            continue
        dtype = getattr(x, "dtype", None)
        if dtype not in FLOATS or (first is not None and dtype != first.dtype):
            given = dtype if dtype is not None else type(x).__name__
            wanted = f"{first.dtype} array" if first is not None else "float32 or float64 array"
            raise DTypeError(f"{caller_name()}: {name} is {given}, expected a {wanted} (or a Python number)")
        if first is None:
            first = x
        elif x.shape != first.shape and not broadcast(x.shape, first.shape):
            raise ShapeError(f"{caller_name()}: {name} has shape {x.shape}, expected one that broadcasts with {first.shape}")
        ordinary = ordinary and type(x) is np.ndarray
    if not ordinary:
        check_device(**operands)


@lru_cache(maxsize=1024)
def broadcast(*shapes: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


def unbroadcast(bar: Array, shape: tuple[int, ...]) -> Array:
    """The cotangent of an operand that was broadcast: summed over the axes that broadcasting added or stretched."""
    if bar.shape == shape:
        return bar
    extra = bar.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and bar.shape[extra + i] != 1)
    return bar.sum(axis=axes, keepdims=True).reshape(shape)


def pair(needs: Needs, x_bar: Callable[[], Array], x: Array, y_bar: Callable[[], Array], y: Array) -> Cotangents:
    """Cotangents of a binary operation; each is a thunk, evaluated only where it is needed."""
    return (
        unbroadcast(x_bar(), x.shape) if needs[0] else None,
        unbroadcast(y_bar(), y.shape) if needs[1] else None,
    )
