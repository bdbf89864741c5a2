"""The norm of a gradient, and its bound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gvae.runtime import device
from gvae.typing import Array


def norm(*arrays: Array) -> Array:
    """Euclidean norm of arrays taken together as one vector.

    Parameters
    ----------
    *arrays : array

    Returns
    -------
    float
        Not finite if an element is not. For arrays on a device a scalar on that device, without synchronisation.

    Examples
    --------
    >>> gvae.optim.norm(np.array([3.0]), np.array([[4.0, 12.0]]))
    13.0
    """
    if device.is_cuda(arrays[0]):
        return np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays))
    with np.errstate(all="ignore"):
        total = sum(_square(array.reshape(-1)) for array in arrays)
        if not TINY <= total < math.inf:  # squares of finite numbers may overflow float32, or underflow
            total = sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)
    return math.sqrt(total) if total >= 0 else math.nan


def shorten(arrays: Sequence[Array], length: Array, limit: float) -> None:
    """Scale arrays in place so that their norm is at most a limit: gradient clipping.

    Parameters
    ----------
    arrays : sequence of array
    length : float or array ()
        Their norm, as `norm` computes it.
    limit : float

    Examples
    --------
    >>> gradient = np.array([3.0, 4.0])
    >>> gvae.optim.shorten([gradient], gvae.optim.norm(gradient), limit=1.0)
    >>> gradient
    array([0.6, 0.8])
    """
    if device.is_cuda(length) or length > limit:
        factor = np.minimum(limit / length, 1.0)
        for array in arrays:
            array *= factor.astype(array.dtype)


def _square(flat: np.ndarray) -> float:
    """The sum of squares, summed by pieces of fixed size, so that the bits depend only on the values."""
    sums = np.empty(-(-len(flat) // PIECE), flat.dtype)
    device.launch("optim", "square_sums", device.plain(flat), PIECE, sums, n=len(sums), work=len(flat))
    return float(sums.sum(dtype=np.float64))


PIECE = 4096
TINY = float(np.finfo(np.float32).tiny)
