"""Arithmetic, extremes and choice; and the arithmetic operators of Var."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gvae.autodiff import Var, primitive, value_of
from gvae.errors import DTypeError, ShapeError
from gvae.ops.elementwise._operands import broadcast, check, pair
from gvae.runtime import device
from gvae.runtime.device import apply
from gvae.typing import Array, Cotangents, Needs

__all__ = ["abs", "add", "divide", "maximum", "minimum", "multiply", "negative", "power", "subtract", "where"]


@primitive
def add(x: Array, y: Array) -> Array:
    """Elementwise sum x + y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to. For Vars, the operator `+` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.add(np.array([1.0, 2.0]), np.array([[10.0], [20.0]]))
    array([[11., 12.],
           [21., 22.]])
    """
    check(x=x, y=y)
    return apply(np.add, x, y)


@add.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: z_bar, x, lambda: z_bar, y)


@primitive
def subtract(x: Array, y: Array) -> Array:
    """Elementwise difference x - y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to. For Vars, the operator `-` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.subtract(1, np.array([0.25, 0.5]))
    array([0.75, 0.5 ])
    """
    check(x=x, y=y)
    return apply(np.subtract, x, y)


@subtract.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: z_bar, x, lambda: apply(np.multiply, z_bar, -1), y)


@primitive
def multiply(x: Array, y: Array) -> Array:
    """Elementwise product x * y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to. For Vars, the operator `*` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, -1.0])
    >>> gvae.ops.multiply(x, y)
    array([ 2.,  0., -3.])
    >>> gvae.gradient(lambda x: gvae.ops.multiply(x, y).sum(), x)
    array([ 2.,  0., -1.])
    """
    check(x=x, y=y)
    return apply(np.multiply, x, y)


@multiply.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: apply(np.multiply, z_bar, y), x, lambda: apply(np.multiply, z_bar, x), y)


@primitive
def divide(x: Array, y: Array) -> Array:
    """Elementwise quotient x / y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to. For Vars, the operator `/` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.divide(np.array([1.0, 2.0, 3.0]), 4)
    array([0.25, 0.5 , 0.75])
    """
    check(x=x, y=y)
    return x / y


@divide.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: z_bar / y, x, lambda: -z_bar * z / y, y)


@primitive
def power(x: Array, y: Array) -> Array:
    """Elementwise power x ** y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to. For Vars, the operator `**` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    The derivative in y takes 0 ** y as constant, which is its limit for y > 0.

    Examples
    --------
    >>> gvae.ops.power(np.array([1.0, 2.0, 3.0]), 2)
    array([1., 4., 9.])
    >>> gvae.gradient(lambda y: gvae.ops.power(np.array([0.0, 2.0]), y).sum(), np.array([2.0, 2.0])).round(4)
    array([0.    , 2.7726])
    """
    check(x=x, y=y)
    return x**y


@power.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    def y_bar() -> Array:
        log_x = np.log(np.where(x > 0, x, 1))
        return z_bar * z * log_x.astype(z.dtype)

    def x_bar() -> Array:  # x^0 has the derivative 0 at 0 as well
        if isinstance(y, (int, float)):
            return z_bar * y * x ** (y - 1 if y else 1)
        return z_bar * y * x ** np.where(y == 0, y + 1, y - 1)

    return pair(needs, x_bar, x, y_bar, y)


@primitive
def maximum(x: Array, y: Array) -> Array:
    """Elementwise maximum of x and y; NaN if either is NaN.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Where x and y are equal, x receives the cotangent.

    Examples
    --------
    >>> gvae.ops.maximum(np.array([-1.0, 0.5, np.nan]), 0)
    array([0. , 0.5, nan])
    >>> gvae.gradient(lambda x: gvae.ops.maximum(x, 0.0).sum(), np.array([-1.0, 0.0, 0.5]))
    array([0., 1., 1.])
    """
    check(x=x, y=y)
    return np.maximum(x, y)


@maximum.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: z_bar * (x >= y), x, lambda: z_bar * (x < y), y)


@primitive
def minimum(x: Array, y: Array) -> Array:
    """Elementwise minimum of x and y; NaN if either is NaN.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        In the shape that x and y broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Where x and y are equal, x receives the cotangent.

    Examples
    --------
    >>> gvae.ops.minimum(np.array([-1.0, 0.5, np.nan]), 0)
    array([-1.,  0., nan])
    >>> gvae.gradient(lambda x: gvae.ops.minimum(x, 0.0).sum(), np.array([-1.0, 0.0, 0.5]))
    array([1., 1., 0.])
    """
    check(x=x, y=y)
    return np.minimum(x, y)


@minimum.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return pair(needs, lambda: z_bar * (x <= y), x, lambda: z_bar * (x > y), y)


def where(mask: Array, x: Array, y: Array) -> Array:
    """Elementwise choice: x where `mask` is true, else y.

    Parameters
    ----------
    mask : array of bool
        A constant: no derivative passes.
    x, y : array or number

    Returns
    -------
    array
        In the shape that mask, x and y broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> x = np.array([-1.0, 2.0])
    >>> gvae.ops.where(x > 0, x, 0.1 * x)
    array([-0.1,  2. ])
    >>> gvae.gradient(lambda x: gvae.ops.where(x > 0, x, 0.1 * x).sum(), x)
    array([0.1, 1. ])
    """
    like = x if hasattr(x, "dtype") else y
    return _where(x, y, mask=device.beside(value_of(mask), getattr(like, "value", like)))


@primitive
def _where(x: Array, y: Array, *, mask: Array) -> Array:
    if getattr(mask, "dtype", None) != np.bool_:
        raise DTypeError(f"where: mask is {getattr(mask, 'dtype', type(mask).__name__)}, expected a boolean array")
    check(x=x, y=y)
    if not broadcast(mask.shape, np.shape(x), np.shape(y)):
        expected = f"one that broadcasts with {np.shape(x)} and {np.shape(y)}"
        raise ShapeError(f"where: mask has shape {mask.shape}, expected {expected}")
    return np.where(mask, x, y)


@_where.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs, mask: Array) -> Cotangents:
    zero = z_bar.dtype.type(0)
    return pair(needs, lambda: np.where(mask, z_bar, zero), x, lambda: np.where(mask, zero, z_bar), y)


@primitive
def negative(x: Array) -> Array:
    """Elementwise negation -x.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)
        For a Var, the operator `-` is the same.

    Raises
    ------
    DTypeError

    Examples
    --------
    >>> gvae.ops.negative(np.array([1.0, -2.0]))
    array([-1.,  2.])
    """
    check(x=x)
    return -x


@negative.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (-y_bar,)


@primitive
def abs(x: Array) -> Array:
    """Elementwise absolute value |x|; the subgradient at 0 is 0.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Examples
    --------
    >>> x = np.array([-2.0, 0.0, 3.0])
    >>> gvae.ops.abs(x)
    array([2., 0., 3.])
    >>> gvae.gradient(lambda x: gvae.ops.abs(x).sum(), x)
    array([-1.,  0.,  1.])
    """
    check(x=x)
    return np.abs(x)


@abs.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * np.sign(x),)


def _attach() -> None:
    """Give Var its arithmetic operators; `gvae.autodiff` imports this module for that purpose."""

    def forward(op: Callable[..., Array]) -> Callable[..., Array]:
        return lambda self, other: op(self, other)

    def swapped(op: Callable[..., Array]) -> Callable[..., Array]:
        return lambda self, other: op(other, self)

    def compared(op: Callable[..., Array]) -> Callable[..., Array]:  # comparisons are data: booleans carry no derivative
        return lambda self, other: op(value_of(self), value_of(other))

    methods: dict[str, Any] = {"__neg__": lambda self: negative(self)}
    for name, op in (
        ("add", add),
        ("sub", subtract),
        ("mul", multiply),
        ("truediv", divide),
        ("pow", power),
    ):
        methods |= {f"__{name}__": forward(op), f"__r{name}__": swapped(op)}
    comparisons = {
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
    }
    methods |= {f"__{name}__": compared(op) for name, op in comparisons.items()}
    for name, method in methods.items():
        method.__name__, method.__qualname__ = name, f"Var.{name}"
        setattr(Var, name, method)


_attach()
