"""Powers, exponentials, logarithms, and the activations of layers."""

from __future__ import annotations

import numpy as np

from gvae.autodiff import primitive
from gvae.ops.elementwise._operands import WEAK, check
from gvae.typing import Array, Cotangents, Needs

__all__ = [
    "bounded",
    "elu",
    "exp",
    "expm1",
    "leaky_relu",
    "log",
    "log1p",
    "relu",
    "sigmoid",
    "softplus",
    "sqrt",
    "square",
    "tanh",
]


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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
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
    check(x=x)
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
    check(x=x, limit=limit)
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
    check(x=x)
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
    check(x=x)
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1 / (1 + e), e / (1 + e)) if type(x) in WEAK else _sigmoid(x, e)


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
    check(x=x)
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
    check(x=x)
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
    check(x=x, slope=slope)
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
    check(x=x)
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


@elu.vjp
def _(y_bar: Array, y: Array, x: Array, *, needs: Needs) -> Cotangents:
    return (np.where(x > 0, y_bar, y_bar * (y + 1)),)
