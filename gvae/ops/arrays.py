"""Reductions, shapes and indexing. Attaches the methods of Var that are not arithmetic.

A reduction takes float32 or float64, as all arithmetic does; a function that only moves elements takes any dtype, and its
docstring says so.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gvae.autodiff import Var, primitive
from gvae.checks import caller_name, check_array, check_axes, check_axis, check_floating
from gvae.errors import BoundsError, ShapeError
from gvae.ops._former import keyword_only, renamed_op
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = [
    "broadcast_to",
    "concatenate",
    "cumsum",
    "getitem",
    "logsumexp",
    "mean",
    "reshape",
    "scatter_last",
    "stack",
    "sum",
    "swapaxes",
    "transpose",
]

Axes: TypeAlias = int | tuple[int, ...] | None


def _expand(bar: Array, shape: tuple[int, ...], axis: Axes, keepdims: bool) -> Array:
    """Broadcast a reduced cotangent back over the axes that were summed."""
    if axis is not None and not keepdims:
        bar = np.expand_dims(bar, check_axes(axis, len(shape)))
    return np.broadcast_to(bar, shape)


def _check_reduction(x: Array, axis: Axes) -> None:
    check_floating(x=x)
    if axis is not None:
        check_axes(axis, x.ndim)


@primitive
def sum(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Sum over one axis, several axes or all axes.

    Parameters
    ----------
    x : array
    axis : int or tuple of int, optional
        All axes by default.
    keepdims : bool, default False
        Whether the axes that are summed stay, with size 1.

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> gvae.ops.sum(x, axis=-1)
    array([ 6., 15.])
    >>> gvae.gradient(lambda x: gvae.ops.sum(x), x)
    array([[1., 1., 1.],
           [1., 1., 1.]])
    """
    _check_reduction(x, axis)
    return x.sum(axis=axis, keepdims=keepdims)


@sum.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axis: Axes = None, keepdims: bool = False) -> Cotangents:
    return (_expand(y_bar, x.shape, axis, keepdims),)


@primitive
def mean(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Arithmetic mean over one axis, several axes or all axes.

    Parameters
    ----------
    x : array
    axis : int or tuple of int, optional
        All axes by default.
    keepdims : bool, default False
        Whether the axes that are averaged stay, with size 1.

    Returns
    -------
    array
        The mean of no elements is NaN, without a warning.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> gvae.ops.mean(x, axis=0, keepdims=True)
    array([[2.5, 3.5, 4.5]])
    """
    _check_reduction(x, axis)
    total = x.sum(axis=axis, keepdims=keepdims)
    n = x.size // total.size if total.size else 1
    return total / x.dtype.type(n) if n else total + x.dtype.type("nan")


@mean.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axis: Axes = None, keepdims: bool = False) -> Cotangents:
    n = max(x.size // y.size, 1) if y.size else 1
    return (_expand(y_bar / x.dtype.type(n), x.shape, axis, keepdims),)


@primitive
def logsumexp(x: Array, *, axis: int = -1, keepdims: bool = False) -> Array:
    """Logarithm of a sum of exponentials, log Σ e^x over one axis, computed without overflow.

    Parameters
    ----------
    x : array
    axis : int, default -1
    keepdims : bool, default False
        Whether the axis stays, with size 1.

    Returns
    -------
    array
        -inf where all entries are -inf, NaN where one is NaN.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.logsumexp(np.array([[1000.0, 1000.0], [-np.inf, -np.inf]])).round(4)
    array([1000.6931,      -inf])
    """
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
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axis: int = -1, keepdims: bool = False) -> Cotangents:
    if not keepdims:
        y, y_bar = np.expand_dims(y, axis), np.expand_dims(y_bar, axis)
    shift = np.where(np.isneginf(y), y.dtype.type(0), y)  # all weights -inf: the softmax is taken as 0, not NaN
    return (y_bar * np.exp(x - shift),)


@primitive
def cumsum(x: Array, *, axis: int) -> Array:
    """Cumulative sum along one axis.

    Parameters
    ----------
    x : array
    axis : int

    Returns
    -------
    array
        In the shape of x.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.cumsum(np.array([1.0, 2.0, 3.0]), axis=0)
    array([1., 3., 6.])
    """
    check_floating(x=x)
    check_axis(axis, x.ndim)
    return np.cumsum(x, axis=axis)


@cumsum.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axis: int) -> Cotangents:
    return (np.flip(np.cumsum(np.flip(y_bar, axis), axis=axis), axis),)


@primitive
def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    """The same elements in C order under another shape; x may have any dtype.

    Parameters
    ----------
    x : array
    shape : int or tuple of int
        One size may be -1: it is inferred from the others.

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.reshape(np.array([1.0, 2.0, 3.0, 4.0]), shape=(2, -1))
    array([[1., 2.],
           [3., 4.]])
    """
    check_array(x=x)
    try:
        return x.reshape(shape)
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"{caller_name()}: shape is {shape!r}, expected one that holds the {x.size} elements of {x.shape}")


@reshape.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, shape: tuple[int, ...]) -> Cotangents:
    return (y_bar.reshape(x.shape),)


@primitive
def transpose(x: Array, *, axes: tuple[int, ...] | None = None) -> Array:
    """Permutation of the axes; x may have any dtype.

    Parameters
    ----------
    x : array
    axes : tuple of int, optional
        All axes of x in their new order; reversed by default.

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.zeros((2, 3, 4))
    >>> gvae.ops.transpose(x).shape, gvae.ops.transpose(x, axes=(0, 2, 1)).shape
    ((4, 3, 2), (2, 4, 3))
    """
    check_array(x=x)
    if axes is not None and len(check_axes(axes, x.ndim, name="axes")) != x.ndim:
        raise ShapeError(f"{caller_name()}: axes is {axes!r}, expected all {x.ndim} axes of x")
    return x.transpose(axes)


@transpose.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axes: tuple[int, ...] | None = None) -> Cotangents:
    return (y_bar.transpose(None if axes is None else np.argsort([a % x.ndim for a in axes]).tolist()),)


@primitive
def swapaxes(x: Array, *, axis1: int, axis2: int) -> Array:
    """Exchange of two axes; x may have any dtype.

    Parameters
    ----------
    x : array
    axis1, axis2 : int

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.swapaxes(np.zeros((2, 3, 4)), axis1=0, axis2=-1).shape
    (4, 3, 2)
    """
    check_array(x=x)
    check_axis(axis1, x.ndim, name="axis1")
    check_axis(axis2, x.ndim, name="axis2")
    return x.swapaxes(axis1, axis2)


@swapaxes.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, axis1: int, axis2: int) -> Cotangents:
    return (y_bar.swapaxes(axis1, axis2),)


@primitive
def broadcast_to(x: Array, *, shape: tuple[int, ...]) -> Array:
    """A read-only view under a larger shape; x may have any dtype.

    Parameters
    ----------
    x : array
    shape : int or tuple of int

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> x = np.array([1.0, 2.0])
    >>> gvae.ops.broadcast_to(x, shape=(3, 2))
    array([[1., 2.],
           [1., 2.],
           [1., 2.]])
    >>> gvae.gradient(lambda x: gvae.ops.broadcast_to(x, shape=(3, 2)).sum(), x)
    array([3., 3.])
    """
    check_array(x=x)
    try:
        return np.broadcast_to(x, shape)
    except (TypeError, ValueError):
        pass
    raise ShapeError(f"{caller_name()}: shape is {shape!r}, expected one that {x.shape} broadcasts to")


@broadcast_to.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, shape: tuple[int, ...]) -> Cotangents:
    from gvae.ops.elementwise import unbroadcast

    return (unbroadcast(y_bar, x.shape),)


@keyword_only
def concatenate(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """Arrays joined along an existing axis.

    Parameters
    ----------
    arrays : sequence of array
        At least one, of one shape in all axes but `axis`.
    axis : int, default 0

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.concatenate([np.array([1.0, 2.0]), np.array([3.0])])
    array([1., 2., 3.])
    """
    return _concatenate(*arrays, axis=axis)


@primitive
def _concatenate(*arrays: Array, axis: int) -> Array:
    check_floating(**{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    first = arrays[0].shape
    joined = check_axis(axis, len(first))
    for i, a in enumerate(arrays):
        if a.ndim != len(first) or any(n != m for d, (n, m) in enumerate(zip(a.shape, first, strict=True)) if d != joined):
            raise ShapeError(f"concatenate: arrays[{i}] has shape {a.shape}, expected {first} in all axes but {joined}")
    return np.concatenate(arrays, axis=axis)


@_concatenate.vjp
def _(y_bar: Array, y: Array, *arrays: Array, needs: Needs, axis: int) -> Cotangents:
    ends = np.cumsum([a.shape[axis] for a in arrays])[:-1].tolist()
    return tuple(np.split(y_bar, ends, axis=axis))


@keyword_only
def stack(arrays: Sequence[Array], *, axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis.

    Parameters
    ----------
    arrays : sequence of array
        At least one.
    axis : int, default 0
        The position of the new axis in the result.

    Returns
    -------
    array

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.stack([np.array([1.0, 2.0]), np.array([3.0, 4.0])], axis=-1)
    array([[1., 3.],
           [2., 4.]])
    """
    return _stack(*arrays, axis=axis)


@primitive
def _stack(*arrays: Array, axis: int) -> Array:
    check_floating(**{f"arrays[{i}]": a for i, a in enumerate(arrays)})
    check_axis(axis, arrays[0].ndim + 1)
    for i, a in enumerate(arrays):
        if a.shape != arrays[0].shape:
            raise ShapeError(f"stack: arrays[{i}] has shape {a.shape}, expected {arrays[0].shape} as arrays[0]")
    return np.stack(arrays, axis=axis)


@_stack.vjp
def _(y_bar: Array, y: Array, *arrays: Array, needs: Needs, axis: int) -> Cotangents:
    return tuple(np.moveaxis(y_bar, axis, 0))


def getitem(x: Array, index: Any) -> Array:
    """Indexing x[index]; x may have any dtype.

    Parameters
    ----------
    x : array
    index : int, slice, None, Ellipsis, array of bool or int, or tuple of these
        A constant: no derivative passes.

    Returns
    -------
    array
        For a Var, x[index] is the same.

    Raises
    ------
    BoundsError
        Also an IndexError, so that Python can iterate over a Var.
    DTypeError
        x is not an array.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> gvae.ops.getitem(x, x > 1.5)
    array([2., 3.])
    >>> gvae.gradient(lambda x: gvae.ops.getitem(x, [0, 0, 2]).sum(), x)  # an element taken twice counts twice
    array([2., 0., 1.])
    """
    return _getitem(x, index=index)


@primitive
def _getitem(x: Array, *, index: Any) -> Array:
    check_array(x=x)
    try:
        return x[_where_it_is_used(index, x)]
    except (IndexError, TypeError, ValueError) as error:
        reason = str(error)
    raise BoundsError(f"{caller_name()}: index is {index!r}, expected one that fits shape {x.shape}: {reason}")


@_getitem.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, index: Any) -> Cotangents:
    x_bar, index = np.zeros_like(x), _where_it_is_used(index, x)
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, (list, tuple)) or getattr(p, "ndim", 0) > 0 for p in parts):
        device.scatter_add(x_bar, index, y_bar)  # an integer array may name an element twice
    else:
        x_bar[index] = y_bar
    return (x_bar,)


def _where_it_is_used(index: Any, x: Array) -> Any:
    """The index with its arrays on the device of x.

    There an index that is out of bounds would wrap around: here it raises, if the arrays come from the host.
    """
    if not device.is_cuda(x):
        return index
    _check_bounds(index, x.shape)
    return tuple(device.beside(p, x) for p in index) if isinstance(index, tuple) else device.beside(index, x)


def _check_bounds(index: Any, shape: tuple[int, ...]) -> None:
    """Raise what NumPy raises for the index. Read-only arrays are checked once."""
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


def diagonal(x: Array) -> Array:
    """The diagonal of matrices: x (..., N, N) -> (..., N)."""
    i = _positions(x.shape[-1])
    return getitem(x, (..., i, i))


@lru_cache(maxsize=64)
def _positions(n: int) -> np.ndarray:
    positions = np.arange(n)
    positions.flags.writeable = False
    return positions


@primitive
def scatter_last(x: Array, *, index: Any, size: int) -> Array:
    """Zeros of length `size` along the last axis, with the entries of x at the positions `index`; x may have any dtype.

    Parameters
    ----------
    x : array (..., K)
    index : sequence of int (K,)
        Positions along the last axis of the result. Not checked: that they are distinct.
    size : int

    Returns
    -------
    array (..., size)

    Raises
    ------
    ShapeError, BoundsError, DTypeError

    Examples
    --------
    >>> gvae.ops.scatter_last(np.array([1.0, 2.0]), index=[0, 3], size=5)
    array([1., 0., 0., 2., 0.])
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


@scatter_last.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, index: Any, size: int) -> Cotangents:
    return (y_bar[..., device.beside(index, y_bar)],)


def __getattr__(name: str) -> Any:
    return renamed_op(__name__, name)


class _Methods:
    """Methods of Var. In their bodies, names such as `sum` are the ops of this module."""

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Array:
        """Sum over one axis, several axes or all axes: the op `gvae.ops.sum`.

        Parameters
        ----------
        axis : int or tuple of int, optional
            All axes by default.
        keepdims : bool, default False
            Whether the axes that are summed stay, with size 1.

        Returns
        -------
        Var

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> gvae.gradient(lambda x: (x * x).sum(), np.array([1.0, 2.0]))
        array([2., 4.])
        """
        return sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Array:
        """Arithmetic mean over one axis, several axes or all axes: the op `gvae.ops.mean`.

        Parameters
        ----------
        axis : int or tuple of int, optional
            All axes by default.
        keepdims : bool, default False
            Whether the axes that are averaged stay, with size 1.

        Returns
        -------
        Var

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> gvae.gradient(lambda x: (x * x).mean(), np.array([1.0, 2.0]))
        array([1., 2.])
        """
        return mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Array:
        """The same elements in C order under another shape: the op `gvae.ops.reshape`.

        Parameters
        ----------
        *shape : int or tuple of int
            The sizes, one by one or as a tuple. One of them may be -1.

        Returns
        -------
        Var

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> gvae.Var(np.arange(6.0)).reshape(2, -1).shape
        (2, 3)
        """
        return reshape(self, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)

    def transpose(self, *axes: int) -> Array:
        """Permutation of the axes: the op `gvae.ops.transpose`.

        Parameters
        ----------
        *axes : int
            All axes in their new order, one by one; reversed by default.

        Returns
        -------
        Var

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3, 4))).transpose(0, 2, 1).shape
        (2, 4, 3)
        """
        return transpose(self, axes=axes or None)

    def swapaxes(self, axis1: int, axis2: int) -> Array:
        """Exchange of two axes: the op `gvae.ops.swapaxes`.

        Parameters
        ----------
        axis1, axis2 : int

        Returns
        -------
        Var

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3, 4))).swapaxes(0, -1).shape
        (4, 3, 2)
        """
        return swapaxes(self, axis1=axis1, axis2=axis2)

    @property
    def T(self) -> Array:
        """The Var with its axes reversed, as by `transpose`.

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3))).T.shape
        (3, 2)
        """
        return transpose(self)


def _attach() -> None:
    """Give Var its indexing and shape methods; `gvae.autodiff` imports this module for that purpose."""
    Var.__getitem__ = getitem  # type: ignore[method-assign]
    for name in ("sum", "mean", "reshape", "transpose", "swapaxes", "T"):
        method = vars(_Methods)[name]
        getattr(method, "fget", method).__qualname__ = f"Var.{name}"
        setattr(Var, name, method)


_attach()
