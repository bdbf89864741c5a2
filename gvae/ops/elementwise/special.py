"""Functions of the gamma family, and the normaliser of the continuous Bernoulli with its derivative."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gvae.autodiff import primitive
from gvae.ops.elementwise._operands import WEAK, check, pair
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["digamma", "langevin", "lgamma", "log_beta", "log_poisson", "log_sinhc", "stirling", "stirling_slope"]


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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
    return _stirling(x, 1)


@stirling_slope.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (y_bar * _stirling(x, 2),)  # ψ'(x) - 1/x


def _stirling(x: Array, order: int) -> Array:
    """`stirling`, or its derivative of order 1 or 2; for numbers too."""
    if type(x) in WEAK:
        return _stirling(np.full(1, x, np.float64), order)[0]
    given = device.plain(x).ravel()
    y = device.empty(given.shape, given.dtype, given)
    device.launch("gamma", "stirling", given, order, y, n=len(given), work=given.size * STIRLING_WORK)
    return y.reshape(x.shape)


STIRLING_WORK = 16  # the work for an entry, in products


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
        In the shape that a and b broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    By SciPy's `betaln`: where the terms cancel, the error is up to some 1e-16 of the largest of them.

    Examples
    --------
    >>> gvae.ops.log_beta(np.array([1.0, 2.0]), np.array([1.0, 3.0])).round(4)  # log 1, log 1/12
    array([ 0.    , -2.4849])
    """
    check(a=a, b=b)
    if isinstance(a, (int, float)):  # a number has the dtype of the other argument, which SciPy would widen
        a = b.dtype.type(a)
    elif isinstance(b, (int, float)):
        b = a.dtype.type(b)
    return device.special(a if hasattr(a, "shape") and a.shape else b).betaln(a, b)


@log_beta.vjp
def _(y_bar: Array, y: Array, a: Array, b: Array, *, needs: Needs) -> Cotangents:
    # digamma(a) - digamma(a + b), which nearly cancel where b is small compared with a: in float64
    digamma_, wide = device.special(a).digamma, [_float64(v) for v in (a, b)]
    whole = digamma_(wide[0] + wide[1])
    bars = [lambda v=v: y_bar * (digamma_(v) - whole).astype(y.dtype) for v in wide]
    return pair(needs, bars[0], a, bars[1], b)


@primitive
def log_poisson(x: Array, log_rate: Array) -> Array:
    """Elementwise log-probability x log r - r - log x! of a count x under Poisson's distribution of rate r.

    Parameters
    ----------
    x : array
        Counts, at least 0. They need not be whole: x! is Γ(x + 1).
    log_rate : array
        log r. -inf is the distribution of which all mass is at 0.

    Returns
    -------
    array
        Nats, in the shape that x and log_rate broadcast to.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    In float64 for float32, too: where x is large and near r, the three terms agree in most of their digits.

    Examples
    --------
    >>> gvae.ops.log_poisson(np.array([0.0, 2.0]), np.log(3.0)).round(4)  # -3, and log(9/2) - 3
    array([-3.    , -1.4959])
    """
    check(x=x, log_rate=log_rate)
    counts, log_r = _float64(x), _float64(log_rate)
    log_p = counts * np.where(counts == 0, 0.0, log_r) - np.exp(log_r) - device.special(counts).gammaln(counts + 1)
    return log_p.astype(getattr(x, "dtype", None) or log_rate.dtype, copy=False)


@log_poisson.vjp
def _(y_bar: Array, y: Array, x: Array, log_rate: Array, *, needs: Needs) -> Cotangents:
    # d/d log r = x - r,  d/dx = log r - digamma(x + 1)
    digamma_ = device.special(x).digamma
    return pair(needs, lambda: y_bar * (log_rate - digamma_(x + 1)), x, lambda: y_bar * (x - np.exp(log_rate)), log_rate)


def _float64(x: Array) -> Array:
    return x.astype(np.float64) if hasattr(x, "astype") else float(x)


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
    check(x=x)
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
    check(x=x)
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
