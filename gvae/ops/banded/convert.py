"""Dense matrices of what is stored by diagonals, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gvae.checks import check_arrays, check_offsets
from gvae.ops.banded._storage import _check_factor
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["band_to_dense", "dense_to_band"]


def band_to_dense(
    band: Array, *, offsets: Sequence[int] | None = None, symmetric: bool = False, upper: bool = False
) -> np.ndarray:
    """Dense matrix of a stored factor or, with symmetric=True, of a stored symmetric band: for inspection.

    Parameters
    ----------
    band : array (..., M, N)
        As this module stores it.
    offsets : sequence of int, optional
        The diagonals of `band`; by default 0, 1, .., M-1.
    symmetric : bool, default False
        Mirror the entries.
    upper : bool, default False
        `band` is in LAPACK's upper form instead, band[..., M - 1 - d, j] = A[j - d, j]; the matrix is upper triangular.

    Returns
    -------
    array (..., N, N)
        The matrices, zero outside of the pattern.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.band_to_dense(np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]]))
    array([[ 2.,  0.,  0.],
           [-1.,  2.,  0.],
           [ 0., -1.,  2.]])
    """
    offsets = _check_factor("band: ... M N", offsets, band=band)
    N = band.shape[-1]
    dense = device.zeros((*band.shape[:-2], N, N), band.dtype, band)
    for below, above, entries in _entries(dense, band, offsets, upper):
        below[...] = entries
        if symmetric:
            above[...] = entries
    return dense


def dense_to_band(dense: Array, *, offsets: Sequence[int], upper: bool = False) -> np.ndarray:
    """Diagonals `offsets` of dense matrices, stored by diagonals, zero where an entry does not exist.

    Parameters
    ----------
    dense : array (..., N, N)
    offsets : sequence of int
        The diagonals to store, strictly increasing from 0.
    upper : bool, default False
        The upper diagonals, in LAPACK's form (see `band_to_dense`), instead of the lower ones as this module stores them.

    Returns
    -------
    array (..., M, N)
        The diagonals.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> precision = np.array([[4.0, -2.0, 0.0], [-2.0, 5.0, -2.0], [0.0, -2.0, 5.0]])
    >>> gvae.ops.dense_to_band(precision, offsets=(0, 1))
    array([[ 4.,  5.,  5.],
           [-2., -2.,  0.]])
    """
    check_arrays("dense: ... N N", dense=dense)
    offsets = check_offsets(offsets)
    N = dense.shape[-1]
    band = device.zeros((*dense.shape[:-2], len(offsets), N), dense.dtype, dense)
    for below, _, entries in _entries(device.plain(dense), band, offsets, upper):
        entries[...] = below
    return band


def _entries(dense: Array, band: Array, offsets: tuple[int, ...], upper: bool) -> Iterator[tuple[Array, Array, Array]]:
    """Views of each diagonal: in the dense matrices, its mirror image there, and as stored. With upper=True the first is the
    upper one."""
    N = band.shape[-1]
    flat = dense.reshape(*dense.shape[:-2], N * N)
    for k, o in enumerate(offsets):
        n = max(N - o, 0)
        below, above = flat[..., o * N :: N + 1], flat[..., min(o, N * N) : n * N : N + 1]
        if upper:
            yield above, below, band[..., len(offsets) - 1 - k, N - n :]
        else:
            yield below, above, band[..., k, :n]
