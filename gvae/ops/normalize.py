"""Batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.autodiff import primitive, value_of
from gvae.checks import check_arrays
from gvae.errors import ConfigError, ShapeError
from gvae.ops.dense import ACTIVATIONS, COLUMNS, activation_vjp, rows_of
from gvae.runtime import device
from gvae.typing import Array, Cotangents, Needs

__all__ = ["batch_norm"]


def batch_norm(x: Array, scale: Array, shift: Any, *, activation: str = "identity") -> Array:
    """Batch normalisation, activation(scale (x - mean) / sqrt(variance + 1e-5) + shift), by the moments of the rows of x.

    Parameters
    ----------
    x : array (..., O)
        All leading axes count as rows; at least two.
    scale, shift : array (O,)
    activation : str, default "identity"
        One of `ACTIVATIONS`; "leaky_relu" has slope 0.01.

    Returns
    -------
    array (..., O)
        Each column has mean `shift` and variance `scale`² before the activation, up to the 1e-5.

    Raises
    ------
    ConfigError
        The activation is unknown.
    ShapeError
        Shapes do not fit, or x has fewer than two rows.
    DTypeError, DeviceError

    Notes
    -----
    The variance is that of the rows themselves (divided by their number R, not by R - 1). Sums over rows are of float64, or
    of parts of 64 rows in float32; their order does not depend on the number of threads. Source: Ioffe and Szegedy (2015).

    Examples
    --------
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> gvae.ops.batch_norm(x, np.ones(2), np.array([0.0, 5.0])).round(3)
    array([[-1.,  4.],
           [ 1.,  6.]])
    >>> gvae.gradient(lambda x: (gvae.ops.batch_norm(x, np.ones(2), np.zeros(2)) ** 3).sum(), x).round(3)
    array([[0., 0.],
           [0., 0.]])
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(f"batch_norm: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    shape = np.shape(value_of(x))
    rows = math.prod(shape[:-1])
    if shape and rows < 2:  # here, because the primitive is compiled with one row as well
        said = "1 row" if rows else "no rows"
        raise ShapeError(f"batch_norm: x has {said}, expected at least 2, whose moments they are normalised by")
    return _batch_norm(x, scale, shift, activation=activation)


@primitive(saves=True, contract="x: ... O, scale: O, shift: O", settings={"activation": ACTIVATIONS[:2]})
def _batch_norm(x: Array, scale: Array, shift: Array, *, activation: str, save: bool = False) -> Any:
    check_arrays(_batch_norm.contract, where="batch_norm", x=x, scale=scale, shift=shift)
    rows, scale, shift = (device.plain(v) for v in (rows_of(x), scale, shift))
    mean, variance = _moments(rows)
    y = device.empty(x.shape, x.dtype, x)
    arrays = rows, mean, variance, scale, shift, ACTIVATIONS.index(activation), rows_of(y)
    device.launch("normalize", "normalize", *arrays, n=len(rows), work=8 * y.size)
    return (y, (mean, variance)) if save else y


@_batch_norm.vjp(owned=True, may_overwrite=True)
def _(
    y_bar: Array,
    y: Array,
    x: Array,
    scale: Array,
    shift: Array,
    *,
    needs: Needs,
    may_overwrite: bool,
    saved: Any,
    activation: str,
) -> Cotangents:
    # Y = f(s ĥ + t), ĥ = (X - μ) / σ of R rows, with B = Ȳ f':
    # t̄ = Σ_r B,  s̄ = Σ_r B ĥ,  X̄ = s / σ (B - t̄ / R - ĥ s̄ / R)
    mean, variance = saved
    rows, scale = device.plain(rows_of(x)), device.plain(scale)
    b = device.plain(rows_of(y_bar))
    if activation != "identity":
        b = b if may_overwrite else device.copy(b)
        activation_vjp(y, activation, b)
    scale_bar, shift_bar = (device.empty(scale.shape, x.dtype, x) for _ in range(2))
    device.launch(
        "normalize", "sums", rows, mean, variance, b, scale_bar, shift_bar, n=len(mean), work=2 * rows.size, step=COLUMNS
    )
    x_bar = None
    if needs[0]:
        x_bar = device.empty(x.shape, x.dtype, x)
        arrays = rows, mean, variance, scale, b, scale_bar, shift_bar, rows_of(x_bar)
        device.launch("normalize", "input_vjp", *arrays, n=len(rows), work=4 * rows.size)
    return x_bar, scale_bar, shift_bar


def _moments(rows: Any) -> tuple[Any, Any]:
    mean, variance = (device.empty((rows.shape[1],), rows.dtype, rows) for _ in range(2))
    device.launch("normalize", "moments", rows, mean, variance, n=rows.shape[1], work=4 * rows.size, step=COLUMNS)
    return mean, variance
