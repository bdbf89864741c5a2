"""Reductions, shapes and indexing. Attaches the methods of Var that are not arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae import dispatch
from gvae.autodiff import Var, primitive
from gvae.checks import check_floating

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
        axes = (axis,) if isinstance(axis, int) else axis
        bar = np.expand_dims(bar, tuple(a % len(shape) for a in axes))
    return np.broadcast_to(bar, shape)


@primitive
def sum(x, *, axis=None, keepdims=False):
    """Sum over `axis` (an int, a tuple, or None for all)."""
    check_floating(x=x)
    return x.sum(axis=axis, keepdims=keepdims)


@sum.vjp
def _(y_bar, y, x, *, needs, axis=None, keepdims=False):
    return (_expand(y_bar, x.shape, axis, keepdims),)


@primitive
def mean(x, *, axis=None, keepdims=False):
    """Arithmetic mean over `axis`. The mean of nothing is NaN, without a warning."""
    check_floating(x=x)
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
    top = x.max(axis=axis, keepdims=True, initial=-np.inf)
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
    return np.cumsum(x, axis=axis)


@cumsum.vjp
def _(y_bar, y, x, *, needs, axis):
    return (np.flip(np.cumsum(np.flip(y_bar, axis), axis=axis), axis),)


@primitive
def reshape(x, *, shape):
    """The same elements in C order under another shape; one size may be -1."""
    return x.reshape(shape)


@reshape.vjp
def _(y_bar, y, x, *, needs, shape):
    return (y_bar.reshape(x.shape),)


@primitive
def transpose(x, *, axes=None):
    """Axes permuted (reversed when None)."""
    return x.transpose(axes)


@transpose.vjp
def _(y_bar, y, x, *, needs, axes=None):
    return (y_bar.transpose(None if axes is None else np.argsort([a % x.ndim for a in axes])),)


@primitive
def swapaxes(x, *, axis1, axis2):
    """Two axes exchanged."""
    return x.swapaxes(axis1, axis2)


@swapaxes.vjp
def _(y_bar, y, x, *, needs, axis1, axis2):
    return (y_bar.swapaxes(axis1, axis2),)


@primitive
def broadcast_to(x, *, shape):
    """A read-only view under a larger shape."""
    return np.broadcast_to(x, shape)


@broadcast_to.vjp
def _(y_bar, y, x, *, needs, shape):
    from gvae.ops.elementwise import unbroadcast

    return (unbroadcast(y_bar, x.shape),)


def concatenate(arrays: Any, axis: int = 0) -> Any:
    """Arrays joined along an existing axis."""
    return _concatenate(*arrays, axis=axis)


@primitive
def _concatenate(*arrays, axis):
    check_floating(where="concatenate", **{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    return np.concatenate(arrays, axis=axis)


@_concatenate.vjp
def _(y_bar, y, *arrays, needs, axis):
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1]
    return tuple(np.split(y_bar, ends, axis=axis))


def stack(arrays: Any, axis: int = 0) -> Any:
    """Arrays of one shape joined along a new axis."""
    return _stack(*arrays, axis=axis)


@primitive
def _stack(*arrays, axis):
    check_floating(where="stack", **{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    return np.stack(arrays, axis=axis)


@_stack.vjp
def _(y_bar, y, *arrays, needs, axis):
    return tuple(np.moveaxis(y_bar, axis, 0))


def getitem(x: Any, index: Any) -> Any:
    """x[index]: integers, slices, None, `...`, boolean masks and integer arrays; the index is a constant."""
    return _getitem(x, index=index)


@primitive
def _getitem(x, *, index):
    return x[index]


@_getitem.vjp
def _(y_bar, y, x, *, needs, index):
    x_bar = np.zeros_like(x)
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, list) or getattr(p, "ndim", 0) > 0 for p in parts):
        dispatch.scatter_add(x_bar, index, y_bar)  # an integer array may name an element twice
    else:
        x_bar[index] = y_bar
    return (x_bar,)


@primitive
def place(x, *, index, size):
    """Zeros of length `size` along the last axis, with x at the positions `index` (distinct integers)."""
    y = np.zeros((*x.shape[:-1], size), x.dtype)
    y[..., index] = x
    return y


@place.vjp
def _(y_bar, y, x, *, needs, index, size):
    return (y_bar[..., index],)


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
