"""Arithmetic and functions of one element, with NumPy's broadcasting. Attaches Var's arithmetic operators.

Arrays are float32 or float64 and of one dtype in a call; Python numbers are weak (they take the array's dtype). NumPy's
functions dispatch to CuPy by themselves, so each formula is written once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gvae.autodiff import Var, primitive, value_of
from gvae.checks import FLOATS, caller_name, check_device
from gvae.errors import DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.device import apply

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
    "subtract",
    "tanh",
    "where",
]

_WEAK = (int, float, bool)  # exact types: a NumPy scalar of another dtype must not slip through


def _check(**operands: Any) -> None:
    """Floating operands of one dtype and one device that broadcast; Python numbers pass."""
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


def unbroadcast(bar: Any, shape: tuple[int, ...]) -> Any:
    """The cotangent of an operand that was broadcast: sum over the axes that broadcasting added or stretched."""
    if bar.shape == shape:
        return bar
    extra = bar.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and bar.shape[extra + i] != 1)
    return bar.sum(axis=axes, keepdims=True).reshape(shape)


def _pair(needs, x_bar, x, y_bar, y):
    """Cotangents of a binary operation; each is a thunk, evaluated only where it is needed."""
    return (
        unbroadcast(x_bar(), x.shape) if needs[0] else None,
        unbroadcast(y_bar(), y.shape) if needs[1] else None,
    )


@primitive
def add(x, y):
    """x + y."""
    _check(x=x, y=y)
    return apply(np.add, x, y)


@add.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: z_bar, x, lambda: z_bar, y)


@primitive
def subtract(x, y):
    """x - y."""
    _check(x=x, y=y)
    return apply(np.subtract, x, y)


@subtract.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: z_bar, x, lambda: apply(np.multiply, z_bar, -1), y)


@primitive
def multiply(x, y):
    """x * y."""
    _check(x=x, y=y)
    return apply(np.multiply, x, y)


@multiply.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: apply(np.multiply, z_bar, y), x, lambda: apply(np.multiply, z_bar, x), y)


@primitive
def divide(x, y):
    """x / y."""
    _check(x=x, y=y)
    return x / y


@divide.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: z_bar / y, x, lambda: -z_bar * z / y, y)


@primitive
def power(x, y):
    """x ** y. The derivative in y takes 0 ** y as constant, as its limit for y > 0."""
    _check(x=x, y=y)
    return x**y


@power.vjp
def _(z_bar, z, x, y, *, needs):
    def y_bar():
        log_x = np.log(np.where(x > 0, x, 1))
        return z_bar * z * log_x.astype(z.dtype)

    return _pair(needs, lambda: z_bar * y * x ** (y - 1), x, y_bar, y)


@primitive
def maximum(x, y):
    """The larger of x and y (NaN wins). Where they are equal, x receives the cotangent."""
    _check(x=x, y=y)
    return np.maximum(x, y)


@maximum.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: z_bar * (x >= y), x, lambda: z_bar * (x < y), y)


@primitive
def minimum(x, y):
    """The smaller of x and y (NaN wins). Where they are equal, x receives the cotangent."""
    _check(x=x, y=y)
    return np.minimum(x, y)


@minimum.vjp
def _(z_bar, z, x, y, *, needs):
    return _pair(needs, lambda: z_bar * (x <= y), x, lambda: z_bar * (x > y), y)


def where(mask: Any, x: Any, y: Any) -> Any:
    """x where the boolean `mask` holds, else y. The mask is a constant."""
    like = x if hasattr(x, "dtype") else y
    return _where(x, y, mask=device.beside(value_of(mask), getattr(like, "value", like)))


@primitive
def _where(x, y, *, mask):
    if getattr(mask, "dtype", None) != np.bool_:
        raise DTypeError(f"where: mask is {getattr(mask, 'dtype', type(mask).__name__)}, expected a boolean array")
    _check(x=x, y=y)
    if not _broadcast(mask.shape, np.shape(x), np.shape(y)):
        expected = f"one that broadcasts with {np.shape(x)} and {np.shape(y)}"
        raise ShapeError(f"where: mask has shape {mask.shape}, expected {expected}")
    return np.where(mask, x, y)


@_where.vjp
def _(z_bar, z, x, y, *, needs, mask):
    zero = z_bar.dtype.type(0)
    return _pair(needs, lambda: np.where(mask, z_bar, zero), x, lambda: np.where(mask, zero, z_bar), y)


@primitive
def negative(x):
    """-x."""
    _check(x=x)
    return -x


@negative.vjp
def _(y_bar, y, x, *, needs):
    return (-y_bar,)


@primitive
def abs(x):
    """|x|; the subgradient at 0 is 0."""
    _check(x=x)
    return np.abs(x)


@abs.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * np.sign(x),)


@primitive
def square(x):
    """x squared."""
    _check(x=x)
    return x * x


@square.vjp
def _(y_bar, y, x, *, needs):
    return (2 * y_bar * x,)


@primitive
def sqrt(x):
    """Square root; NaN below 0."""
    _check(x=x)
    return np.sqrt(x)


@sqrt.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar / (2 * y),)


@primitive
def exp(x):
    """e to the x."""
    _check(x=x)
    return np.exp(x)


@exp.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * y,)


@primitive
def expm1(x):
    """e to the x, minus 1, accurate near 0."""
    _check(x=x)
    return np.expm1(x)


@expm1.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * (y + 1),)


@primitive
def log(x):
    """Natural logarithm; -inf at 0, NaN below."""
    _check(x=x)
    return np.log(x)


@log.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar / x,)


@primitive
def log1p(x):
    """log(1 + x), accurate near 0."""
    _check(x=x)
    return np.log1p(x)


@log1p.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar / (1 + x),)


@primitive
def bounded(x, *, limit):
    """limit * tanh(x / limit): the identity near 0, within (-limit, limit) everywhere."""
    _check(x=x, limit=limit)
    return np.tanh(x / limit) * limit


@bounded.vjp
def _(y_bar, y, x, *, needs, limit):
    # 1 - tanh² = (1 - y / limit)(1 + y / limit)
    t = y / limit
    return (y_bar * ((1 - t) * (1 + t)),)


@primitive
def tanh(x):
    """Hyperbolic tangent."""
    _check(x=x)
    return np.tanh(x)


@tanh.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * (1 - y * y),)


@primitive
def sigmoid(x):
    """1 / (1 + e^-x), accurate at both ends: it is never formed from an overflowing exponential."""
    _check(x=x)
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1 / (1 + e), e / (1 + e)) if type(x) in _WEAK else _sigmoid(x, e)


def _sigmoid(x, e):
    return np.where(x >= 0, x.dtype.type(1), e) / (1 + e)


@sigmoid.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * y * (1 - y),)


@primitive
def softplus(x):
    """log(1 + e^x), accurate at both ends."""
    _check(x=x)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@softplus.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * _sigmoid(x, np.exp(-np.abs(x))),)


@primitive
def relu(x):
    """max(x, 0); the subgradient at 0 is 0."""
    _check(x=x)
    return np.maximum(x, 0)


@relu.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * (x > 0),)


@primitive
def leaky_relu(x, *, slope=0.01):
    """x for x > 0, else slope * x."""
    _check(x=x, slope=slope)
    return np.where(x > 0, x, slope * x)


@leaky_relu.vjp
def _(y_bar, y, x, *, needs, slope=0.01):
    return (np.where(x > 0, y_bar, slope * y_bar),)


@primitive
def elu(x):
    """x for x > 0, else e^x - 1."""
    _check(x=x)
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@elu.vjp
def _(y_bar, y, x, *, needs):
    return (np.where(x > 0, y_bar, y_bar * (y + 1)),)


@primitive
def lgamma(x):
    """log |Gamma(x)|."""
    _check(x=x)
    return device.special(x).gammaln(x)


@lgamma.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * device.special(x).digamma(x),)


@primitive
def digamma(x):
    """The derivative of lgamma."""
    _check(x=x)
    return device.special(x).digamma(x)


@digamma.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * device.special(x).zeta(2, x),)  # sum over n of 1 / (x + n)^2


@primitive
def log_beta(a, b):
    """log B(a, b) = log Gamma(a) + log Gamma(b) - log Gamma(a + b) for a, b > 0, without their cancellation."""
    _check(a=a, b=b)
    return device.special(a).betaln(a, b)


@log_beta.vjp
def _(y_bar, y, a, b, *, needs):
    # digamma(a) - digamma(a + b), which nearly cancel where b is small beside a: in float64
    digamma_, wide = device.special(a).digamma, [v.astype(np.float64) for v in (a, b)]
    whole = digamma_(wide[0] + wide[1])
    bars = [lambda v=v: y_bar * (digamma_(v) - whole).astype(y.dtype) for v in wide]
    return _pair(needs, bars[0], a, bars[1], b)


@primitive
def log_sinhc(x):
    """log(sinh(x) / x), 0 at 0; even, and |x| - log 2|x| far out."""
    _check(x=x)
    size = np.maximum(np.abs(x), np.finfo(x.dtype).tiny)
    return size + np.log(-np.expm1(-2 * size) / (2 * size))


@log_sinhc.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * langevin(x),)


@primitive
def langevin(x):
    """coth(x) - 1 / x, the derivative of `log_sinhc`: odd, x / 3 near 0, between -1 and 1."""
    _check(x=x)
    near = np.abs(x) < LANGEVIN_NEAR
    low, far = np.where(near, x, x.dtype.type(0)), np.where(near, x.dtype.type(1), x)
    return np.where(near, _series(low, LANGEVIN) * low, 1 / np.tanh(far) - 1 / far)


@langevin.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * langevin_slope(x),)


LANGEVIN_NEAR = 0.3
# the Taylor coefficients of coth(x) - 1 / x at x, x³, ..
LANGEVIN = (1 / 3, -1 / 45, 2 / 945, -1 / 4725, 2 / 93555, -1382 / 638512875, 4 / 18243225, -3617 / 162820783125)


def langevin_slope(x):
    """1 / x² - 1 / sinh²(x), the derivative of `langevin`, of a plain array."""
    near = np.abs(x) < LANGEVIN_NEAR
    low, far = np.where(near, x, x.dtype.type(0)), np.where(near, x.dtype.type(1), np.abs(x))
    e = np.exp(-2 * far)
    slopes = [(2 * k + 1) * c for k, c in enumerate(LANGEVIN)]
    return np.where(near, _series(low, slopes), 1 / far**2 - 4 * e / (1 - e) ** 2)


def _series(x, coefficients):
    """sum_k c_k x^(2 k)."""
    total = 0.0
    for c in reversed(coefficients):
        total = total * (x * x) + c
    return total


def _attach() -> None:
    """Give Var its arithmetic operators; `gvae.autodiff` imports this module for that purpose."""

    def swapped(op):
        return lambda self, other: op(other, self)

    for name, op in (
        ("add", add),
        ("sub", subtract),
        ("mul", multiply),
        ("truediv", divide),
        ("pow", power),
    ):
        setattr(Var, f"__{name}__", lambda self, other, op=op: op(self, other))
        setattr(Var, f"__r{name}__", swapped(op))
    Var.__neg__ = lambda self: negative(self)  # type: ignore[method-assign]

    comparisons = {
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
        "eq": np.equal,
        "ne": np.not_equal,
    }
    for name, op in comparisons.items():  # comparisons are data: booleans carry no derivative
        setattr(Var, f"__{name}__", lambda self, other, op=op: op(value_of(self), value_of(other)))


_attach()
