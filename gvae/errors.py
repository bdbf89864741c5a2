"""Errors that gvae raises on purpose. Each is a GvaeError and also a related built-in class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "BoundsError",
    "ConfigError",
    "DTypeError",
    "DataError",
    "DependencyError",
    "DeviceError",
    "GvaeError",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "RankError",
    "RunError",
    "ShapeError",
    "StoppedError",
]


class GvaeError(Exception):
    """Base class of the errors of gvae.

    Examples
    --------
    >>> try:
    ...     gvae.ops.exp(np.array([1, 2]))
    ... except gvae.GvaeError as error:
    ...     print(type(error).__name__, error, sep=": ")
    DTypeError: exp: x is int64, expected a float32 or float64 array (or a Python number)
    """


class ShapeError(GvaeError, ValueError):
    """Array shapes do not fit the contract of a function, or each other.

    Examples
    --------
    >>> gvae.ops.add(np.zeros(2), np.zeros(3))
    Traceback (most recent call last):
        ...
    gvae.errors.ShapeError: add: y has shape (3,), expected one that broadcasts with (2,)
    """


class BoundsError(ShapeError, IndexError):
    """An index points outside of an array, or does not fit its axes.

    Examples
    --------
    >>> gvae.ops.scatter_last(np.array([1.0, 2.0]), index=[0, 9], size=5)
    Traceback (most recent call last):
        ...
    gvae.errors.BoundsError: scatter_last: index does not fit size 5, expected integers below it: ...
    """


class DTypeError(GvaeError, TypeError):
    """An array has another dtype than the contract allows, or dtypes are mixed.

    Examples
    --------
    >>> gvae.ops.add(np.zeros(2), np.zeros(2, np.float32))
    Traceback (most recent call last):
        ...
    gvae.errors.DTypeError: add: y is float32, expected a float64 array (or a Python number)
    """


class DeviceError(GvaeError, RuntimeError):
    """NumPy and CuPy arrays are mixed, or CUDA is asked for and cannot be used.

    Examples
    --------
    >>> issubclass(gvae.errors.DeviceError, RuntimeError)
    True
    """


class ConfigError(GvaeError, ValueError):
    """A setting is unknown, out of range, or contradicts another.

    Examples
    --------
    >>> gvae.random.key(-1)
    Traceback (most recent call last):
        ...
    gvae.errors.ConfigError: key: seed is -1, expected an integer in [0, 2^64)
    """


class DataError(GvaeError, ValueError):
    """A data set is missing, damaged, or holds values that the model cannot take.

    Examples
    --------
    >>> gvae.VAE().fit(np.full((4, 3), np.nan))
    Traceback (most recent call last):
        ...
    gvae.errors.DataError: X: NaN or infinite values: 12 in all, the first, nan, at row 0, column 0 (counted from 0)
    """


class RunError(GvaeError, OSError):
    """A run folder is missing, occupied, or not readable as one.

    Examples
    --------
    >>> gvae.load("absent")
    Traceback (most recent call last):
        ...
    gvae.errors.RunError: absent: no such run folder or saved model
    """


class RankError(GvaeError, RuntimeError):
    """Another rank of a run on several processes failed, or differs from the others.

    Parameters
    ----------
    message : str
    rank : int, optional
        The number of that rank, from 0.

    Attributes
    ----------
    rank : int or None

    Examples
    --------
    >>> gvae.errors.RankError("rank 3: not enough memory", 3).rank
    3
    """

    def __init__(self, message: str, rank: int | None = None):
        super().__init__(message)
        self.rank = rank


class DependencyError(GvaeError, ImportError):
    """An optional package is needed; the message names the extra that installs it.

    Examples
    --------
    >>> issubclass(gvae.errors.DependencyError, ImportError)
    True
    """


class NonFiniteError(GvaeError, ArithmeticError):
    """A loss, gradient or parameter became NaN or infinite.

    Parameters
    ----------
    message : str
    tensor : str, optional
        The name of the loss, gradient or parameter.
    step : int, optional
        The training step.
    rows : sequence of int, optional
        Indices of the rows that cause it on their own, if they were searched for.

    Attributes
    ----------
    tensor : str
    step : int or None
    rows : list of int

    Examples
    --------
    >>> error = gvae.errors.NonFiniteError("the gradient is NaN", "decoder.0.weight", step=7, rows=[3])
    >>> error.tensor, error.step, error.rows
    ('decoder.0.weight', 7, [3])
    """

    def __init__(self, message: str, tensor: str = "", step: int | None = None, rows: Sequence[int] = ()):
        super().__init__(message)
        self.tensor, self.step, self.rows = tensor, step, list(rows)


class StoppedError(GvaeError):
    """Training was asked to stop and stopped after a whole step; the run folder holds its state.

    Examples
    --------
    >>> issubclass(gvae.errors.StoppedError, gvae.GvaeError)
    True
    """


class NotPositiveDefiniteError(GvaeError, np.linalg.LinAlgError):
    """A factor or factorisation met a pivot that is not positive (NaN included).

    Parameters
    ----------
    message : str
    rows : sequence of tuple of int, optional
        Indices into the batch axes, one tuple per failing system.
    minors : sequence of int, optional
        For each, the 1-based order of the leading minor that failed, as LAPACK counts.

    Attributes
    ----------
    rows : list of tuple of int
    minors : list of int

    Examples
    --------
    >>> chol = np.array([[[1.0, 1.0, 1.0]], [[1.0, -1.0, 1.0]]])  # two factors, stored by diagonals
    >>> try:
    ...     gvae.ops.logdet_banded(chol)
    ... except gvae.errors.NotPositiveDefiniteError as error:
    ...     print(error.rows, error.minors)
    [(1,)] [2]
    """

    def __init__(self, message: str, rows: Sequence[tuple[int, ...]] = (), minors: Sequence[int] = ()):
        super().__init__(message)
        self.rows = list(rows)
        self.minors = list(minors)
