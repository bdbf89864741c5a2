"""Every error that gvae raises on purpose. Each is a GvaeError and also the built-in class a caller would guess."""

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
    "RunError",
    "ShapeError",
    "StoppedError",
]


class GvaeError(Exception):
    """Base class."""


class ShapeError(GvaeError, ValueError):
    """Array shapes do not fit the contract of a function, or each other."""


class BoundsError(ShapeError, IndexError):
    """An index points outside of an array, or does not fit its axes."""


class DTypeError(GvaeError, TypeError):
    """An array has another dtype than the contract allows, or dtypes are mixed."""


class DeviceError(GvaeError, RuntimeError):
    """NumPy and CuPy arrays are mixed, or CUDA is asked for and cannot be used."""


class ConfigError(GvaeError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(GvaeError, ValueError):
    """A data set is missing, damaged, or holds values that the model cannot take."""


class RunError(GvaeError, OSError):
    """A run folder is missing, occupied, or not readable as one."""


class DependencyError(GvaeError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class NonFiniteError(GvaeError, ArithmeticError):
    """A loss, gradient or parameter became NaN or infinite.

    tensor : which, by name               step : the training step, or None
    rows   : numbers of the rows that cause it on their own, as far as they were looked for
    """

    def __init__(self, message: str, tensor: str = "", step: int | None = None, rows: Sequence[int] = ()):
        super().__init__(message)
        self.tensor, self.step, self.rows = tensor, step, list(rows)


class StoppedError(GvaeError):
    """Training was asked to stop, and did so after a whole step; a run folder holds what it had."""


class NotPositiveDefiniteError(GvaeError, np.linalg.LinAlgError):
    """A factor or factorisation met a pivot that is not positive (NaN included).

    rows   : indices into the batch axes, one tuple per failing system
    minors : for each, the 1-based order of the leading minor that failed, as LAPACK counts
    """

    def __init__(self, message: str, rows: Sequence[tuple[int, ...]] = (), minors: Sequence[int] = ()):
        super().__init__(message)
        self.rows = list(rows)
        self.minors = list(minors)
