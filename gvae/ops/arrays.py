"""Reductions, shapes and indexing. Attaches the methods of Var that are not arithmetic.

A reduction takes float32 or float64, as all arithmetic does; what only moves elements takes any dtype, and says so.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.autodiff import Var, primitive
from gvae.checks import caller_name, check_array, check_axes, check_axis, check_floating
from gvae.errors import BoundsError, ShapeError
from gvae.runtime import device

__all__ = [
    "broadcast_to",
    "concatenate",
    "cumsum",
    "getitem",
    "logsumexp",
    "mean",
    "place",
    "reshape",
    "stack",
    "sum",
    "swapaxes",
    "transpose",
]


def _expand(bar, shape, axis, keepdims):
    """Broadcast a reduced cotangent back over the axes that were summed."""
    if axis is not None and not keepdims:
        bar = np.expand_dims(bar, check_axes(axis, len(shape)))
    return np.broadcast_to(bar, shape)


def _check_reduction(x, axis):
    check_floating(x=x)
    if axis is not None:
        check_axes(axis, x.ndim)


@primitive
def sum(x, *, axis=None, keepdims=False):
    """Sum over `axis` (an int, a tuple, or None for all)."""
    _check_reduction(x, axis)
    return x.sum(axis=axis, keepdims=keepdims)


@sum.vjp
def _(y_bar, y, x, *, needs, axis=None, keepdims=False):
    return (_expand(y_bar, x.shape, axis, keepdims),)


@primitive
def mean(x, *, axis=None, keepdims=False):
    """Arithmetic mean over `axis`. The mean of nothing is NaN, without a warning."""
    _check_reduction(x, axis)
    total = x.sum(axis=axis, keepdims=keepdims)
    n = x.size // total.size if total.size else 1
    return total / x.dtype.type(n) if n else total + x.dtype.type("nan")


@mean.vjp
def _(y_bar, y, x, *, needs, axis=None, keepdims=False):
    n = max(x.size // y.size, 1) if y.size else 1
    return (_expand(y_bar / x.dtype.type(n), x.shape, axis, keepdims),)


@primitive
def logsumexp(x, *, axis=-1, keepdims=False):
    """log sum e^x over one axis, stable; -inf where all entries are -inf, NaN where one is NaN."""
    check_floating(x=x)
    check_axis(axis, x.ndim)
    if x.shape[axis] == 0:
        return x.sum(axis=axis, keepdims=keepdims) - x.dtype.type("inf")
    top = x.max(axis=axis, keepdims=True)
    shift = np.where(np.isfinite(top), top, x.dtype.type(0))
    with np.errstate(divide="ignore"):
        y = np.log(np.exp(x - shift).sum(axis=axis, keepdims=True)) + shift
    return y if keepdims else y.squeeze(axis)


@logsumexp.vjp
def _(y_bar, y, x, *, needs, axis=-1, keepdims=False):
    if not keepdims:
        y, y_bar = np.expand_dims(y, axis), np.expand_dims(y_bar, axis)
    shift = np.where(np.isneginf(y), y.dtype.type(0), y)  # all weights -inf: the softmax is taken as 0, not NaN
    return (y_bar * np.exp(x - shift),)


@primitive
def cumsum(x, *, axis):
    """Running sum along one axis."""
    check_floating(x=x)
    check_axis(axis, x.ndim)
    return np.cumsum(x, axis=axis)


@cumsum.vjp
def _(y_bar, y, x, *, needs, axis):
    return (np.flip(np.cumsum(np.flip(y_bar, axis), axis=axis), axis),)


@primitive
def reshape(x, *, shape):
    """The same elements, of any dtype, in C order under another shape; one size may be -1."""
    check_array(x=x)
    try:
        return x.reshape(shape)
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"{caller_name()}: shape is {shape!r}, expected one that holds the {x.size} elements of {x.shape}")


@reshape.vjp
def _(y_bar, y, x, *, needs, shape):
    return (y_bar.reshape(x.shape),)


@primitive
def transpose(x, *, axes=None):
    """Axes permuted (reversed when None); x of any dtype."""
    check_array(x=x)
    if axes is not None and len(check_axes(axes, x.ndim, name="axes")) != x.ndim:
        raise ShapeError(f"{caller_name()}: axes is {axes!r}, expected all {x.ndim} axes of x")
    return x.transpose(axes)


@transpose.vjp
def _(y_bar, y, x, *, needs, axes=None):
    return (y_bar.transpose(None if axes is None else np.argsort([a % x.ndim for a in axes]).tolist()),)


@primitive
def swapaxes(x, *, axis1, axis2):
    """Two axes exchanged; x of any dtype."""
    check_array(x=x)
    check_axis(axis1, x.ndim, name="axis1")
    check_axis(axis2, x.ndim, name="axis2")
    return x.swapaxes(axis1, axis2)


@swapaxes.vjp
def _(y_bar, y, x, *, needs, axis1, axis2):
    return (y_bar.swapaxes(axis1, axis2),)


@primitive
def broadcast_to(x, *, shape):
    """A read-only view under a larger shape; x of any dtype."""
    check_array(x=x)
    try:
        return np.broadcast_to(x, shape)
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"{caller_name()}: shape is {shape!r}, expected one that {x.shape} broadcasts to")


@broadcast_to.vjp
def _(y_bar, y, x, *, needs, shape):
    from gvae.ops.elementwise import unbroadcast

    return (unbroadcast(y_bar, x.shape),)


def concatenate(arrays: Any, axis: int = 0) -> Any:
    """Arrays joined along an existing axis."""
    return _concatenate(*arrays, axis=axis)


@primitive
def _concatenate(*arrays, axis):
    check_floating(**{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    first = arrays[0].shape
    joined = check_axis(axis, len(first))
    for i, a in enumerate(arrays):
        if a.ndim != len(first) or any(n != m for d, (n, m) in enumerate(zip(a.shape, first, strict=True)) if d != joined):
            raise ShapeError(f"concatenate: arrays[{i}] has shape {a.shape}, expected {first} in all axes but {joined}")
    return np.concatenate(arrays, axis=axis)


@_concatenate.vjp
def _(y_bar, y, *arrays, needs, axis):
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1].tolist()
    return tuple(np.split(y_bar, ends, axis=axis))


def stack(arrays: Any, axis: int = 0) -> Any:
    """Arrays of one shape joined along a new axis."""
    return _stack(*arrays, axis=axis)


@primitive
def _stack(*arrays, axis):
    check_floating(**{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    check_axis(axis, arrays[0].ndim + 1)
    for i, a in enumerate(arrays):
        if a.shape != arrays[0].shape:
            raise ShapeError(f"stack: arrays[{i}] has shape {a.shape}, expected {arrays[0].shape} as arrays[0]")
    return np.stack(arrays, axis=axis)


@_stack.vjp
def _(y_bar, y, *arrays, needs, axis):
    return tuple(np.moveaxis(y_bar, axis, 0))


def getitem(x: Any, index: Any) -> Any:
    """x[index], x of any dtype: integers, slices, None, `...`, masks and integer arrays; the index is a constant.

    Raises BoundsError, which is an IndexError too, so that Python can iterate over a Var.
    """
    return _getitem(x, index=index)


@primitive
def _getitem(x, *, index):
    check_array(x=x)
    try:
        return x[_where_it_is_used(index, x)]
    except (IndexError, TypeError, ValueError) as error:
        reason = str(error)
    raise BoundsError(f"{caller_name()}: index is {index!r}, expected one that fits shape {x.shape}: {reason}")


@_getitem.vjp
def _(y_bar, y, x, *, needs, index):
    x_bar, index = np.zeros_like(x), _where_it_is_used(index, x)
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, list) or getattr(p, "ndim", 0) > 0 for p in parts):
        device.scatter_add(x_bar, index, y_bar)  # an integer array may name an element twice
    else:
        x_bar[index] = y_bar
    return (x_bar,)


def _where_it_is_used(index: Any, x: Any) -> Any:
    """The index with its arrays on the device of x, where what is out of bounds would wrap around: here it raises, if the
    arrays come from the host."""
    if not device.is_cuda(x):
        return index
    _check_bounds(index, x.shape)
    return tuple(device.beside(p, x) for p in index) if isinstance(index, tuple) else device.beside(index, x)


def _check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """What NumPy raises for the index. Arrays that are read-only are looked at once."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = [p for p in parts if isinstance(p, (np.ndarray, list))]
    if not arrays or any(device.is_cuda(p) for p in parts):
        return
    key = shape, *(id(p) if isinstance(p, np.ndarray) else repr(p) for p in parts)
    if key in _checked:
        return
    np.broadcast_to(False, shape)[index]
    if not any(isinstance(p, list) or p.flags.writeable for p in arrays):
        if len(_checked) >= 256:
            _checked.clear()
        _checked[key] = arrays  # held, so that their identity stays their own


_checked: dict[tuple, list] = {}


def diagonal(x: Any) -> Any:
    """The diagonal of matrices: x (..., N, N) -> (..., N)."""
    i = _positions(x.shape[-1])
    return getitem(x, (..., i, i))


@lru_cache(maxsize=64)
def _positions(n: int) -> np.ndarray:
    positions = np.arange(n)
    positions.flags.writeable = False
    return positions


@primitive
def place(x, *, index, size):
    """Zeros of length `size` along the last axis, with x, of any dtype, at the positions `index`.

    index : integers, one per entry of x's last axis. Not checked: that they are distinct.
    """
    check_array(x=x)
    if x.ndim == 0 or np.shape(index) != x.shape[-1:]:
        raise ShapeError(f"{caller_name()}: index has shape {np.shape(index)}, expected {x.shape[-1:]} as x's last axis")
    try:
        y = device.zeros((*x.shape[:-1], operator.index(size)), x.dtype, x)
        if device.is_cuda(x):
            _check_bounds((..., index), (1,) * (x.ndim - 1) + y.shape[-1:])
        y[..., device.beside(index, x)] = x
        return y
    except (IndexError, TypeError, ValueError) as error:
        reason = str(error)
    raise BoundsError(f"{caller_name()}: index does not fit size {size!r}, expected integers below it: {reason}")


@place.vjp
def _(y_bar, y, x, *, needs, index, size):
    return (y_bar[..., device.beside(index, y_bar)],)


def _attach() -> None:
    """Give Var its indexing and shape methods; `gvae.autodiff` imports this module for that purpose."""

    def reshaped(self, *shape):
        return reshape(self, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)

    attached = {
        "__getitem__": getitem,
        "sum": lambda self, axis=None, keepdims=False: sum(self, axis=axis, keepdims=keepdims),
        "mean": lambda self, axis=None, keepdims=False: mean(self, axis=axis, keepdims=keepdims),
        "reshape": reshaped,
        "transpose": lambda self, *axes: transpose(self, axes=axes or None),
        "swapaxes": lambda self, axis1, axis2: swapaxes(self, axis1=axis1, axis2=axis2),
        "T": property(transpose),
    }
    for name, method in attached.items():
        setattr(Var, name, method)


_attach()
