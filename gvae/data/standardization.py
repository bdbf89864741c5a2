"""Location and scale of real-valued columns: a model sees mean 0 and deviation 1, and its output is in raw units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae.data.checks import check_finite
from gvae.errors import DataError

__all__ = ["Standardization", "mean_of_rows"]

BLOCK = 1 << 20  # numbers converted at once


@dataclass(frozen=True)
class Standardization:
    """The map x -> (x - location) / scale, by column.

    Densities of standardized rows become densities of x by the Jacobian: see `gvae.families.Rescaled`.

    Parameters
    ----------
    location, scale : float64 array (D,)
        scale > 0.

    Examples
    --------
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]])
    >>> units = gvae.data.Standardization.of(x)
    >>> units(x, np.float32)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> family = gvae.families.Rescaled(gvae.families.parse("gaussian", 2), units.scale)
    >>> model = gvae.models.VAE(2, latent=1, posterior="diagonal", observation=family)  # its densities are those of x
    """

    location: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(
        cls, x: np.ndarray, *, levels: int | None = None, one_scale: bool = False, weight: Any = None, name: str = "x"
    ) -> Standardization:
        """Mean and standard deviation of each column of rows; the scale of a constant column is 1.

        Parameters
        ----------
        x : array (N, D)
        levels : int, optional
            The number of grey levels, if x are grey levels in [0, 1] that are dequantized before they are standardized: see
            `Table`.
        one_scale : bool, default False
            The same scale for all columns, the root of their mean variance.
        weight : array (N,), optional
            How much each row counts; None: all equally.
        name : str, default "x"
            The error's message begins with it.

        Returns
        -------
        Standardization

        Raises
        ------
        DataError
            A column is too large for its mean or deviation to be finite.

        Examples
        --------
        >>> units = gvae.data.Standardization.of(np.array([[1.0, 5.0], [3.0, 5.0]]))
        >>> units.location, units.scale
        (array([2., 5.]), array([1., 1.]))
        """
        # sums of differences to the first row that counts do not cancel, and are 0 in a constant column
        begin = 0 if weight is None else int(np.argmax(np.asarray(weight) > 0))
        first = x[begin : begin + 1][0].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = mean_of_rows(x, weight, lambda block: block - first)
            square = mean_of_rows(x, weight, lambda block: np.square(block - first - mean))
        bad = np.flatnonzero(~np.isfinite(first + mean) | ~np.isfinite(square))
        if len(bad):
            largest = np.concatenate([np.abs(block[:, bad[0]]).max(keepdims=True) for block in _blocks(x)])
            number = int(largest.argmax())
            block = next(itertools.islice(_blocks(x), number, None))[:, bad[0]]
            row = int(np.abs(block).argmax())
            raise DataError(
                f"{name}: the mean and deviation of column {bad[0]} are not finite: its values are too large, "
                f"{block[row]:g}, at row {number * _rows_at_once(x) + row}, column {bad[0]} (counted from 0)"
            )
        location, variance = first + mean, square
        if levels is not None:  # (k + u) / L, with k / (L - 1) = x and u ~ U(0, 1)
            location = (location * (levels - 1) + 0.5) / levels
            variance = variance * ((levels - 1) / levels) ** 2 + 1 / (12 * levels**2)
        if one_scale:
            variance = np.full_like(variance, variance.mean())
        return cls(location, np.where(variance > 0, np.sqrt(variance), 1.0))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Standardization:
        """The standardization that `as_config` described.

        Parameters
        ----------
        config : mapping
            It has "location" and "scale".

        Returns
        -------
        Standardization

        Raises
        ------
        ValueError
            config does not hold finite locations and positive scales of the same shape (D,).

        Examples
        --------
        >>> config = {"location": [2.0], "scale": [0.5]}
        >>> gvae.data.Standardization.from_config(config).scale
        array([0.5])
        """
        location, scale = (np.array(config[name], np.float64) for name in ("location", "scale"))
        alike = location.ndim == 1 and location.shape == scale.shape
        if not alike or not np.isfinite(location + scale).all() or (scale <= 0).any():
            raise ValueError("no finite locations and positive scales")
        return cls(location, scale)

    def as_config(self) -> dict[str, list[float]]:
        """Location and scale as plain numbers, which JSON keeps exactly.

        Returns
        -------
        dict of str to list of float

        Examples
        --------
        >>> gvae.data.Standardization(np.array([2.0]), np.array([0.5])).as_config()
        {'location': [2.0], 'scale': [0.5]}
        """
        return {"location": self.location.tolist(), "scale": self.scale.tolist()}

    def __call__(self, x: np.ndarray, dtype: Any) -> np.ndarray:
        """Rows x (N, D) standardized in float64, then rounded to dtype."""
        result = np.empty(x.shape, dtype)
        start = 0
        with np.errstate(over="ignore"):
            for block in _blocks(x):  # a copy of its own
                block -= self.location
                block /= self.scale
                result[start : start + len(block)] = block
                start += len(block)
        return result

    def check(self, x: np.ndarray, dtype: Any, name: str = "x") -> None:
        """Raise an error if rows are beyond the range of a dtype when they are standardized.

        Parameters
        ----------
        x : array (N, D)
        dtype : dtype
        name : str, default "x"
            The error's message begins with it.

        Raises
        ------
        DataError
            The message has row and column.

        Examples
        --------
        >>> units = gvae.data.Standardization(np.zeros(1), np.array([1e-3]))
        >>> units.check(np.array([[1e30]]), np.float32)
        >>> units.check(np.array([[1e36]]), np.float32)
        Traceback (most recent call last):
            ...
        gvae.errors.DataError: x, standardized, as float32: NaN or infinite values: 1 in all, the first, inf, at row 0, ...
        """
        begin = 0
        for block in x.blocks(_rows_at_once(x)) if hasattr(x, "blocks") else [x]:  # a Column
            rows = np.arange(begin, begin + len(block))
            if len(block) and not np.isfinite(self(np.stack([block.min(axis=0), block.max(axis=0)]), dtype)).all():
                check_finite(self(block, dtype), f"{name}, standardized, as {np.dtype(dtype)}", rows=rows)
            begin += len(block)

    def inverse(self, x: Any) -> np.ndarray:
        """Standardized values in raw units.

        Parameters
        ----------
        x : array (..., D)

        Returns
        -------
        float64 array (..., D)
            In float64, because float32 may not distinguish the values.

        Examples
        --------
        >>> gvae.data.Standardization(np.array([2.0]), np.array([0.5])).inverse(np.array([[0.0], [2.0]], np.float32))
        array([[2.],
               [3.]])
        """
        return self.location + self.scale * np.asarray(x, np.float64)


def mean_of_rows(
    x: np.ndarray, weight: Any = None, of: Callable[[np.ndarray], np.ndarray] = lambda block: block
) -> np.ndarray:
    """The mean over rows, weighted if weights are given, of what `of` computes of each row, in float64."""
    if weight is None:
        return sum(of(block).sum(axis=0) for block in _blocks(x)) / len(x)
    w, total, start = np.asarray(weight, np.float64), np.zeros(x.shape[1]), 0
    for block in _blocks(x):
        total += w[start : start + len(block)] @ of(block)
        start += len(block)
    return total / w.sum()


def _rows_at_once(x: Any) -> int:
    return max(1, BLOCK // math.prod(x.shape[1:]))


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at a time, in float64."""
    rows = _rows_at_once(x)
    if hasattr(x, "blocks"):  # a Column
        return (block.astype(np.float64) for block in x.blocks(rows))
    return (x[start : start + rows].astype(np.float64) for start in range(0, len(x), rows))
