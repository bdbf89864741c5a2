"""Gaussian processes: the RBF kernel with a precision for each input, and its statistics under Gaussian inputs."""

from __future__ import annotations

import numpy as np

from gvae.autodiff import primitive
from gvae.checks import check_arrays
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["psi1", "psi2", "rbf"]

# Sums over rows are cut into parts that depend on shapes only: the fewest rows of a part, and the most parts
PARTS, PARTS_ON_DEVICE = (64, 32), (4, 512)
COST = 8  # the cost of an exponential, relative to a term of its exponent


def rbf(x: Array, z: Array, precision: Array, scale: Array) -> Array:
    """The RBF kernel, k(x, z) = v exp(-1/2 Σ_q a_q (x_q - z_q)²), of each row of x with each row of z.

    Parameters
    ----------
    x : array (N, Q)
    z : array (M, Q)
        Rows are inputs.
    precision : array (Q,)
        a, at least 0: inverse squares of the lengths over which functions vary. Not checked.
    scale : array ()
        v, the variance of functions.

    Returns
    -------
    array (N, M)
        k(x_n, z_m); for x = z with the diagonal v.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> z = np.array([[0.0], [1.0]])
    >>> gvae.ops.rbf(z, z, np.array([2.0]), np.array(3.0)).round(4)
    array([[3.    , 1.1036],
           [1.1036, 3.    ]])
    >>> gvae.gradient(lambda x: gvae.ops.rbf(x, z, np.array([2.0]), np.array(3.0)).sum(), z).round(4)
    array([[ 2.2073],
           [-2.2073]])
    """
    return _rbf(x, z, precision, scale)


@primitive(contract="x: N Q, z: M Q, precision: Q, scale:")
def _rbf(x: Array, z: Array, precision: Array, scale: Array) -> Array:
    check_arrays(_rbf.contract, where="rbf", x=x, z=z, precision=precision, scale=scale)
    return _psi1_of(x, device.zeros(x.shape, x.dtype, x), z, precision, scale)


@_rbf.vjp(owned=True)
def _(y_bar: Array, y: Array, x: Array, z: Array, precision: Array, scale: Array, *, needs: Needs) -> Cotangents:
    x_bar, _, *others = _bars("psi1_vjp", y_bar, x, device.zeros(x.shape, x.dtype, x), z, precision, scale)
    return x_bar, *others


def psi1(mean: Array, variance: Array, z: Array, precision: Array, scale: Array) -> Array:
    """The RBF kernel's mean under Gaussian inputs: E k(x_n, z_m) over x_n ~ N(mean_n, diag variance_n).

    Parameters
    ----------
    mean, variance : array (N, Q)
        Variances are at least 0, where psi1 is the kernel itself. Not checked.
    z : array (M, Q)
        Rows are inputs.
    precision : array (Q,)
        a of `rbf`.
    scale : array ()
        v of `rbf`.

    Returns
    -------
    array (N, M)
        v Π_q (a_q S_nq + 1)^-1/2 exp(-1/2 a_q (μ_nq - z_mq)² / (a_q S_nq + 1)).

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Source: Titsias and Lawrence (2010), with the kernel of Damianou and Lawrence (2013).

    Examples
    --------
    >>> mean, z, a, v = np.array([[0.0]]), np.array([[0.0], [1.0]]), np.array([2.0]), np.array(3.0)
    >>> gvae.ops.psi1(mean, np.array([[0.5]]), z, a, v).round(4)
    array([[2.1213, 1.2866]])
    >>> np.array_equal(gvae.ops.psi1(mean, 0 * mean, z, a, v), gvae.ops.rbf(mean, z, a, v))
    True
    """
    return _psi1(mean, variance, z, precision, scale)


@primitive(contract="mean: N Q, variance: N Q, z: M Q, precision: Q, scale:")
def _psi1(mean: Array, variance: Array, z: Array, precision: Array, scale: Array) -> Array:
    check_arrays(_psi1.contract, where="psi1", mean=mean, variance=variance, z=z, precision=precision, scale=scale)
    return _psi1_of(mean, variance, z, precision, scale)


def _psi1_of(mean: Array, variance: Array, z: Array, precision: Array, scale: Array) -> Array:
    y = device.empty((len(mean), len(z)), mean.dtype, mean)
    given = [device.plain(v) for v in (mean, variance, z, precision, scale.reshape(1))]
    device.launch("psi", "psi1", *given, y, n=len(y), work=y.size * (z.shape[1] + COST), step=PARTS[0])
    return y


@_psi1.vjp(owned=True)
def _(
    y_bar: Array, y: Array, mean: Array, variance: Array, z: Array, precision: Array, scale: Array, *, needs: Needs
) -> Cotangents:
    return _bars("psi1_vjp", y_bar, mean, variance, z, precision, scale)


def psi2(mean: Array, variance: Array, z: Array, precision: Array, scale: Array) -> Array:
    """The RBF kernel's second moment under Gaussian inputs: Σ_n E k(z_m, x_n) k(x_n, z_m') over x_n ~ N(mean_n, diag
    variance_n).

    Parameters
    ----------
    mean, variance : array (N, Q)
        Variances are at least 0. Not checked.
    z : array (M, Q)
        Rows are inputs.
    precision : array (Q,)
        a of `rbf`.
    scale : array ()
        v of `rbf`.

    Returns
    -------
    array (M, M)
        v² Σ_n Π_q (2 a_q S_nq + 1)^-1/2 exp(-a_q (z_mq - z_m'q)² / 4 - a_q (μ_nq - (z_mq + z_m'q) / 2)² / (2 a_q S_nq + 1)):
        symmetric. Only the symmetric part of its cotangent counts.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    Source: Titsias and Lawrence (2010), with the kernel of Damianou and Lawrence (2013).

    Examples
    --------
    >>> mean, z, a, v = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]), np.array([2.0]), np.array(3.0)
    >>> gvae.ops.psi2(mean, np.full((2, 1), 0.5), z, a, v).round(4)
    array([[5.5572, 3.371 ],
           [3.371 , 5.3356]])
    >>> k = gvae.ops.rbf(mean, z, a, v)
    >>> np.allclose(gvae.ops.psi2(mean, 0 * mean, z, a, v), k.T @ k)
    True
    """
    return _psi2(mean, variance, z, precision, scale)


@primitive(contract="mean: N Q, variance: N Q, z: M Q, precision: Q, scale:")
def _psi2(mean: Array, variance: Array, z: Array, precision: Array, scale: Array) -> Array:
    check_arrays(_psi2.contract, where="psi2", mean=mean, variance=variance, z=z, precision=precision, scale=scale)
    (N, Q), M = mean.shape, len(z)
    parts = device.empty((_parts(mean), M, M), np.float64, mean)
    given = [device.plain(v) for v in (mean, variance, z, precision)]
    device.launch("psi", "psi2", *given, parts, n=len(parts), work=N * M * M * (Q + COST) // 2)
    return (parts.sum(axis=0) * np.square(scale.reshape(1).astype(np.float64))).astype(mean.dtype)


@_psi2.vjp(owned=True)
def _(
    y_bar: Array, y: Array, mean: Array, variance: Array, z: Array, precision: Array, scale: Array, *, needs: Needs
) -> Cotangents:
    return _bars("psi2_vjp", 0.5 * (y_bar + y_bar.T), mean, variance, z, precision, scale)


def _bars(
    kernel: str, y_bar: Array, mean: Array, variance: Array, z: Array, precision: Array, scale: Array
) -> tuple[Array, ...]:
    """The cotangents of all arguments of psi1 or psi2."""
    # With f = 1 for psi1 and 2 for psi2, c = 1 / (f a S + 1), u = a c and w = (a - u) / 4, the exponent of a term is
    #   -1/2 u (μ - z_m)²  or  -1/2 u ((μ - z_m)² + (μ - z_m')²) - w (z_m - z_m')²,  and  du/da = c²,  du/dS = -f u².
    (N, Q), M, dtype = mean.shape, len(z), mean.dtype
    mean_bar, variance_bar = (device.empty(mean.shape, dtype, mean) for _ in range(2))
    z_bar, sums = (device.empty((_parts(mean), *shape), np.float64, mean) for shape in ((M, Q), (Q + 1,)))
    given = [device.plain(v) for v in (mean, variance, z, precision, y_bar)]
    work = y_bar.size * (2 * Q + COST) * (N // 2 if kernel == "psi2_vjp" else 1)
    device.launch("psi", kernel, *given, mean_bar, variance_bar, z_bar, sums, n=len(sums), work=work)
    v = scale.reshape(1)
    power, slope = (v * v, 2 * v) if kernel == "psi2_vjp" else (v, 1)  # the power of v, which the kernels leave out
    mean_bar *= power
    variance_bar *= power
    z_bar, sums = z_bar.sum(axis=0), sums.sum(axis=0)
    scale_bar = (slope * sums[Q:]).reshape(())
    return mean_bar, variance_bar, *(x.astype(dtype) for x in (power * z_bar, power * sums[:Q], scale_bar))


def _parts(mean: Array) -> int:
    least, most = PARTS_ON_DEVICE if device.is_cuda(mean) else PARTS
    return min(max(-(-len(mean) // least), 1), most)
