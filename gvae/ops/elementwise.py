"""Arithmetic and elementwise functions, with NumPy's broadcasting. Attaches Var's arithmetic operators.

Arrays are float32 or float64 and share one dtype within a call; Python numbers are weak (they take the array's dtype).
NumPy's functions dispatch to CuPy by themselves, so each formula is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.autodiff import Var, primitive, value_of
from gvae.checks import FLOATS, caller_name, check_device
from gvae.errors import DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.device import apply
from gvae.typing import Array, Cotangents, Needs

__all__ = [
    "abs",
    "add",
    "bounded",
    "digamma",
    "divide",
    "elu",
    "exp",
    "expm1",
    "langevin",
    "leaky_relu",
    "lgamma",
    "log",
    "log1p",
    "log_beta",
    "log_sinhc",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "power",
    "relu",
    "sigmoid",
    "softplus",
    "sqrt",
    "square",
    "stirling",
    "stirling_slope",
    "subtract",
    "tanh",
    "where",
]

_WEAK = (int, float, bool)  # exact types: a NumPy scalar of another dtype must not slip through


def _check(**operands: Array) -> None:
    """Check that floating operands have one dtype and one device and broadcast; Python numbers pass."""
    first: Any = None
    ordinary = True
    for name, x in operands.items():
        if type(x) in _WEAK:
            continue
        dtype = getattr(x, "dtype", None)
        if dtype not in FLOATS or (first is not None and dtype != first.dtype):
            given = dtype if dtype is not None else type(x).__name__
            wanted = f"{first.dtype} array" if first is not None else "float32 or float64 array"
            raise DTypeError(f"{caller_name()}: {name} is {given}, expected a {wanted} (or a Python number)")
        if first is None:
            first = x
        elif x.shape != first.shape and not _broadcast(x.shape, first.shape):
            raise ShapeError(f"{caller_name()}: {name} has shape {x.shape}, expected one that broadcasts with {first.shape}")
        ordinary = ordinary and type(x) is np.ndarray
    if not ordinary:
        check_device(**operands)


@lru_cache(maxsize=1024)
def _broadcast(*shapes: tuple[int, ...]) -> bool:
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


def _pair(needs: Needs, x_bar: Callable[[], Array], x: Array, y_bar: Callable[[], Array], y: Array) -> Cotangents:
    """Cotangents of a binary operation; each is a thunk, evaluated only where it is needed."""
    return (
        unbroadcast(x_bar(), x.shape) if needs[0] else None,
        unbroadcast(y_bar(), y.shape) if needs[1] else None,
    )


@primitive
def add(x: Array, y: Array) -> Array:
    """Elementwise sum x + y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to. For Vars, the operator `+` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.add(np.array([1.0, 2.0]), np.array([[10.0], [20.0]]))
    array([[11., 12.],
           [21., 22.]])
    """
    _check(x=x, y=y)
    return apply(np.add, x, y)


@add.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: z_bar, x, lambda: z_bar, y)


@primitive
def subtract(x: Array, y: Array) -> Array:
    """Elementwise difference x - y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to. For Vars, the operator `-` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.subtract(1, np.array([0.25, 0.5]))
    array([0.75, 0.5 ])
    """
    _check(x=x, y=y)
    return apply(np.subtract, x, y)


@subtract.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: z_bar, x, lambda: apply(np.multiply, z_bar, -1), y)


@primitive
def multiply(x: Array, y: Array) -> Array:
    """Elementwise product x * y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to. For Vars, the operator `*` is the same.

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
    _check(x=x, y=y)
    return apply(np.multiply, x, y)


@multiply.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: apply(np.multiply, z_bar, y), x, lambda: apply(np.multiply, z_bar, x), y)


@primitive
def divide(x: Array, y: Array) -> Array:
    """Elementwise quotient x / y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to. For Vars, the operator `/` is the same.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.ops.divide(np.array([1.0, 2.0, 3.0]), 4)
    array([0.25, 0.5 , 0.75])
    """
    _check(x=x, y=y)
    return x / y


@divide.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: z_bar / y, x, lambda: -z_bar * z / y, y)


@primitive
def power(x: Array, y: Array) -> Array:
    """Elementwise power x ** y.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to. For Vars, the operator `**` is the same.

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
    _check(x=x, y=y)
    return x**y


@power.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    def y_bar() -> Array:
        log_x = np.log(np.where(x > 0, x, 1))
        return z_bar * z * log_x.astype(z.dtype)

    return _pair(needs, lambda: z_bar * y * x ** (y - 1), x, y_bar, y)


@primitive
def maximum(x: Array, y: Array) -> Array:
    """Elementwise maximum of x and y; NaN if either is NaN.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to.

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
    _check(x=x, y=y)
    return np.maximum(x, y)


@maximum.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: z_bar * (x >= y), x, lambda: z_bar * (x < y), y)


@primitive
def minimum(x: Array, y: Array) -> Array:
    """Elementwise minimum of x and y; NaN if either is NaN.

    Parameters
    ----------
    x, y : array or number

    Returns
    -------
    array
        Of the shape that x and y broadcast to.

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
    _check(x=x, y=y)
    return np.minimum(x, y)


@minimum.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs) -> Cotangents:
    return _pair(needs, lambda: z_bar * (x <= y), x, lambda: z_bar * (x > y), y)


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
        Of the shape that mask, x and y broadcast to.

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
    _check(x=x, y=y)
    if not _broadcast(mask.shape, np.shape(x), np.shape(y)):
        expected = f"one that broadcasts with {np.shape(x)} and {np.shape(y)}"
        raise ShapeError(f"where: mask has shape {mask.shape}, expected {expected}")
    return np.where(mask, x, y)


@_where.vjp
def _(z_bar: Array, z: Array, x: Array, y: Array, *, needs: Needs, mask: Array) -> Cotangents:
    zero = z_bar.dtype.type(0)
    return _pair(needs, lambda: np.where(mask, z_bar, zero), x, lambda: np.where(mask, zero, z_bar), y)


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
    _check(x=x)
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
    _check(x=x)
    return np.abs(x)


@abs.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * np.sign(x),)


@primitive
def square(x: Array) -> Array:
    """Elementwise square x².

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
    >>> x = np.array([1.0, -2.0])
    >>> gvae.value_and_gradient(lambda x: gvae.ops.square(x).sum(), x)
    (np.float64(5.0), array([ 2., -4.]))
    """
    _check(x=x)
    return x * x


@square.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (2 * y_bar * x,)


@primitive
def sqrt(x: Array) -> Array:
    """Elementwise square root; NaN below 0.

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
    >>> gvae.ops.sqrt(np.array([0.0, 4.0, 9.0]))
    array([0., 2., 3.])
    """
    _check(x=x)
    return np.sqrt(x)


@sqrt.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar / (2 * y),)


@primitive
def exp(x: Array) -> Array:
    """Elementwise exponential e^x.

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
    >>> gvae.ops.exp(np.array([0.0, 1.0])).round(4)
    array([1.    , 2.7183])
    """
    _check(x=x)
    return np.exp(x)


@exp.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * y,)


@primitive
def expm1(x: Array) -> Array:
    """Elementwise e^x - 1, accurate near 0.

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
    >>> x = np.array([1e-12, 1.0])
    >>> gvae.ops.expm1(x)
    array([1.00000000e-12, 1.71828183e+00])
    >>> gvae.ops.exp(x) - 1
    array([1.00008890e-12, 1.71828183e+00])
    """
    _check(x=x)
    return np.expm1(x)


@expm1.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * (y + 1),)


@primitive
def log(x: Array) -> Array:
    """Elementwise natural logarithm; -inf at 0, NaN below.

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
    >>> gvae.ops.log(np.array([1.0, np.e, 10.0])).round(4)
    array([0.    , 1.    , 2.3026])
    """
    _check(x=x)
    return np.log(x)


@log.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar / x,)


@primitive
def log1p(x: Array) -> Array:
    """Elementwise log(1 + x), accurate near 0.

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
    >>> x = np.array([1e-12, 1.0])
    >>> gvae.ops.log1p(x)
    array([1.00000000e-12, 6.93147181e-01])
    >>> gvae.ops.log(1 + x)
    array([1.00008890e-12, 6.93147181e-01])
    """
    _check(x=x)
    return np.log1p(x)


@log1p.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar / (1 + x),)


@primitive
def bounded(x: Array, *, limit: float) -> Array:
    """Elementwise soft bound limit tanh(x / limit): the identity near 0, within (-limit, limit) everywhere.

    Parameters
    ----------
    x : array (...)
    limit : float

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Examples
    --------
    >>> gvae.ops.bounded(np.array([0.1, 1.0, 5.0, 50.0]), limit=5.0).round(4)
    array([0.1   , 0.9869, 3.808 , 5.    ])
    """
    _check(x=x, limit=limit)
    return np.tanh(x / limit) * limit


@bounded.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, limit: float) -> Cotangents:
    # 1 - tanh² = (1 - y / limit)(1 + y / limit)
    t = y / limit
    return (y_bar * ((1 - t) * (1 + t)),)


@primitive
def tanh(x: Array) -> Array:
    """Elementwise hyperbolic tangent.

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
    >>> gvae.ops.tanh(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.7616,  0.    ,  0.7616])
    """
    _check(x=x)
    return np.tanh(x)


@tanh.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * (1 - y * y),)


@primitive
def sigmoid(x: Array) -> Array:
    """Elementwise logistic function 1 / (1 + e^-x), accurate at both ends.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Notes
    -----
    It is never formed from an overflowing exponential.

    Examples
    --------
    >>> gvae.ops.sigmoid(np.array([-800.0, -1.0, 0.0, 1.0, 800.0])).round(4)
    array([0.    , 0.2689, 0.5   , 0.7311, 1.    ])
    """
    _check(x=x)
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1 / (1 + e), e / (1 + e)) if type(x) in _WEAK else _sigmoid(x, e)


def _sigmoid(x: Array, e: Array) -> Array:
    return np.where(x >= 0, x.dtype.type(1), e) / (1 + e)


@sigmoid.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * y * (1 - y),)


@primitive
def softplus(x: Array) -> Array:
    """Elementwise log(1 + e^x), accurate at both ends.

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
    >>> gvae.ops.softplus(np.array([-800.0, -1.0, 0.0, 1.0])).round(4)
    array([0.    , 0.3133, 0.6931, 1.3133])
    >>> gvae.ops.softplus(np.array(800.0))
    np.float64(800.0)
    """
    _check(x=x)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@softplus.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * _sigmoid(x, np.exp(-np.abs(x))),)


@primitive
def relu(x: Array) -> Array:
    """Elementwise rectifier max(x, 0); the subgradient at 0 is 0.

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
    >>> x = np.array([-1.0, 0.0, 2.0])
    >>> gvae.ops.relu(x)
    array([0., 0., 2.])
    >>> gvae.gradient(lambda x: gvae.ops.relu(x).sum(), x)
    array([0., 0., 1.])
    """
    _check(x=x)
    return np.maximum(x, 0)


@relu.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * (x > 0),)


@primitive
def leaky_relu(x: Array, *, slope: float = 0.01) -> Array:
    """Elementwise leaky rectifier: x for x > 0, else slope * x.

    Parameters
    ----------
    x : array (...)
    slope : float, default 0.01

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Examples
    --------
    >>> gvae.ops.leaky_relu(np.array([-1.0, 0.0, 2.0]), slope=0.1)
    array([-0.1,  0. ,  2. ])
    """
    _check(x=x, slope=slope)
    return np.where(x > 0, x, slope * x)


@leaky_relu.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs, slope: float = 0.01) -> Cotangents:
    return (np.where(x > 0, y_bar, slope * y_bar),)


@primitive
def elu(x: Array) -> Array:
    """Elementwise exponential linear unit: x for x > 0, else e^x - 1.

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
    >>> gvae.ops.elu(np.array([-5.0, -1.0, 0.0, 2.0])).round(4)
    array([-0.9933, -0.6321,  0.    ,  2.    ])
    """
    _check(x=x)
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@elu.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (np.where(x > 0, y_bar, y_bar * (y + 1)),)


@primitive
def lgamma(x: Array) -> Array:
    """Elementwise log-gamma function log |Γ(x)|.

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
    >>> gvae.ops.lgamma(np.array([1.0, 4.0, 5.0])).round(4)  # log 0!, log 3!, log 4!
    array([0.    , 1.7918, 3.1781])
    """
    _check(x=x)
    return device.special(x).gammaln(x)


@lgamma.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * device.special(x).digamma(x),)


@primitive
def digamma(x: Array) -> Array:
    """Elementwise digamma function, the derivative of `lgamma`.

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
    >>> x = np.array([1.0, 2.0])
    >>> gvae.ops.digamma(x).round(4)
    array([-0.5772,  0.4228])
    >>> gvae.gradient(lambda x: gvae.ops.lgamma(x).sum(), x).round(4)
    array([-0.5772,  0.4228])
    """
    _check(x=x)
    return device.special(x).digamma(x)


@digamma.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * device.special(x).zeta(2, x),)  # sum over n of 1 / (x + n)^2


@primitive
def stirling(x: Array) -> Array:
    """Elementwise log Γ(x) - (x log x - x) for x > 0, what the leading terms of Stirling's series leave.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Notes
    -----
    Near log(2π/x) / 2 for large x, where its terms would cancel. Computed in float64, to 1e-14 of 1 + |log x|.

    Examples
    --------
    >>> gvae.ops.stirling(np.array([1.0, 1e6])).round(4)  # 1, and log(2π/1e6) / 2
    array([ 1.    , -5.9888])
    """
    _check(x=x)
    return _stirling(x, 0)


@stirling.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * stirling_slope(x),)


@primitive
def stirling_slope(x: Array) -> Array:
    """Elementwise ψ(x) - log x for x > 0, the derivative of `stirling`; negative.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Notes
    -----
    The mean of log(z) for a gamma variable z of shape x and mean 1. Computed in float64, to a relative 1e-14.

    Examples
    --------
    >>> gvae.ops.stirling_slope(np.array([1.0, 1e6]))
    array([-5.77215665e-01, -5.00000083e-07])
    """
    _check(x=x)
    return _stirling(x, 1)


@stirling_slope.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * _stirling(x, 2),)  # ψ'(x) - 1/x


def _stirling(x: Array, order: int) -> Array:
    """`stirling`, or its derivative of order 1 or 2; for numbers too."""
    if type(x) in _WEAK:
        return _stirling(np.full(1, x, np.float64), order)[0]
    given = device.plain(x).ravel()
    y = device.empty(given.shape, given.dtype, given)
    device.launch("gamma", "stirling", given, order, y, n=len(given), work=given.size * STIRLING_WORK)
    return y.reshape(x.shape)


STIRLING_WORK = 16  # of an entry, in products


@primitive
def log_beta(a: Array, b: Array) -> Array:
    """Elementwise log-beta function log B(a, b) = log Γ(a) + log Γ(b) - log Γ(a + b).

    Parameters
    ----------
    a, b : array
        a, b > 0.

    Returns
    -------
    array
        Of the shape that a and b broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Computed without the cancellation of these terms.

    Examples
    --------
    >>> gvae.ops.log_beta(np.array([1.0, 2.0]), np.array([1.0, 3.0])).round(4)  # log 1, log 1/12
    array([ 0.    , -2.4849])
    """
    _check(a=a, b=b)
    return device.special(a).betaln(a, b)


@log_beta.vjp
def _(y_bar: Array, y: Array, a: Array, b: Array, *, needs: Needs) -> Cotangents:
    # digamma(a) - digamma(a + b), which nearly cancel where b is small compared with a: in float64
    digamma_, wide = device.special(a).digamma, [v.astype(np.float64) if hasattr(v, "astype") else float(v) for v in (a, b)]
    whole = digamma_(wide[0] + wide[1])
    bars = [lambda v=v: y_bar * (digamma_(v) - whole).astype(y.dtype) for v in wide]
    return _pair(needs, bars[0], a, bars[1], b)


@primitive
def log_sinhc(x: Array) -> Array:
    """Elementwise log(sinh(x) / x), continued by 0 at x = 0.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Notes
    -----
    The function is even, and |x| - log 2|x| for large |x|.

    Examples
    --------
    >>> gvae.ops.log_sinhc(np.array([0.0, 1.0, -1.0, 20.0])).round(4)
    array([ 0.    ,  0.1614,  0.1614, 16.3111])
    """
    _check(x=x)
    size = np.maximum(np.abs(x), np.finfo(getattr(x, "dtype", float)).tiny)
    return size + np.log(-np.expm1(-2 * size) / (2 * size))


@log_sinhc.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * langevin(x),)


@primitive
def langevin(x: Array) -> Array:
    """Elementwise Langevin function coth(x) - 1 / x, the derivative of `log_sinhc`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    array (...)

    Raises
    ------
    DTypeError

    Notes
    -----
    The function is odd, x / 3 near 0, and between -1 and 1.

    Examples
    --------
    >>> gvae.ops.langevin(np.array([-1.0, 0.0, 0.3, 1000.0])).round(4)
    array([-0.313 ,  0.    ,  0.0994,  0.999 ])
    """
    _check(x=x)
    x = x if hasattr(x, "dtype") else np.float64(x)
    near = np.abs(x) < LANGEVIN_NEAR
    low, far = np.where(near, x, x.dtype.type(0)), np.where(near, x.dtype.type(1), x)
    return np.where(near, _series(low, LANGEVIN) * low, 1 / np.tanh(far) - 1 / far)


@langevin.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * langevin_slope(x),)


LANGEVIN_NEAR = 0.3
# the Taylor coefficients of coth(x) - 1 / x at x, x³, ..
LANGEVIN = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225, -3617 / 162820783125)


def langevin_slope(x: Array) -> Array:
    """1 / x² - 1 / sinh²(x), the derivative of `langevin`, for a plain array."""
    near = np.abs(x) < LANGEVIN_NEAR
    low, far = np.where(near, x, x.dtype.type(0)), np.where(near, x.dtype.type(1), np.abs(x))
    e = np.exp(-2 * far)
    slopes = [(2 * k + 1) * c for k, c in enumerate(LANGEVIN)]
    return np.where(near, _series(low, slopes), 1 / far**2 - 4 * e / (1 - e) ** 2)


def _series(x: Array, coefficients: Sequence[float]) -> Array:
    """sum_k c_k x^(2 k)."""
    total = 0.0
    for c in reversed(coefficients):
        total = total * (x * x) + c
    return total


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
