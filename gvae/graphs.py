"""Graphs over n variables. A graph is a sparsity pattern and nothing else.

Variables are numbered 0 .. n-1; those of a grid row by row. A pattern is a set of diagonals `offsets` of a lower-triangular
matrix, plus a `mask` that says which of their entries exist: entry (k, j) is the pair (j + offsets[k], j).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gvae.errors import ConfigError

__all__ = ["Graph", "band", "chain", "extended_grid", "grid", "independent"]


@dataclass(frozen=True)
class Graph:
    """Sparsity pattern: a set of pairs of variables.

    Parameters
    ----------
    name : str
        As written in text, "chain" or "extended_grid:4x4".
    n : int
        The number of variables.
    offsets : tuple of int
        The diagonals on which a network emits entries, increasing from 0.
    factor_offsets : tuple of int
        The diagonals of the Cholesky factor: 0 .. cols for a grid, since it fills in, else `offsets`.
    columns : int, optional
        For grids, the length of a row: no edge leads from the end of one row to the start of the next.

    Examples
    --------
    >>> graph = gvae.graphs.extended_grid(4, 4)
    >>> graph.name, graph.n, graph.offsets
    ('extended_grid:4x4', 16, (0, 1, 4))
    """

    name: str
    n: int
    offsets: tuple[int, ...]
    factor_offsets: tuple[int, ...]
    columns: int | None = None

    @cached_property
    def mask(self) -> np.ndarray:
        """Array (M, n) of booleans: which entries of the emitted diagonals are edges (or, in row 0, variables).

        Examples
        --------
        >>> gvae.graphs.grid(2, 3).mask.astype(int)
        array([[1, 1, 1, 1, 1, 1],
               [1, 1, 0, 1, 1, 0],
               [1, 1, 1, 0, 0, 0]])
        """
        j = np.arange(self.n)
        rows = [j + o < self.n for o in self.offsets]
        if self.columns is not None:
            for k, o in enumerate(self.offsets):
                if 0 < o < self.columns:
                    rows[k] &= j % self.columns < self.columns - o
        mask = np.stack(rows)
        mask.flags.writeable = False
        return mask

    def __str__(self) -> str:
        return self.name


def independent(n: int) -> Graph:
    """Graph without edges.

    Parameters
    ----------
    n : int
        The number of variables.

    Returns
    -------
    Graph
        Its only diagonal is the main one, offset 0.

    Raises
    ------
    ConfigError
        `n` is not an integer of at least 1.

    Examples
    --------
    >>> gvae.graphs.independent(3).offsets
    (0,)
    """
    _positive(independent, n=n)
    return Graph("independent", n, (0,), (0,))


def chain(n: int) -> Graph:
    """Chain: an edge between each variable and the next.

    Parameters
    ----------
    n : int
        The number of variables.

    Returns
    -------
    Graph
        Its diagonals are 0 and 1.

    Raises
    ------
    ConfigError
        `n` is not an integer of at least 1.

    Examples
    --------
    >>> gvae.graphs.chain(3).mask
    array([[ True,  True,  True],
           [ True,  True, False]])
    """
    _positive(chain, n=n)
    return Graph("chain", n, (0, 1), (0, 1))


def band(n: int, bandwidth: int) -> Graph:
    """Band: edges between each variable and the next `bandwidth` ones, which are `bandwidth` sub-diagonals.

    Parameters
    ----------
    n : int
        The number of variables.
    bandwidth : int
        0 or more.

    Returns
    -------
    Graph
        Its diagonals are 0 .. bandwidth.

    Raises
    ------
    ConfigError
        `n` is not an integer of at least 1, or `bandwidth` not one of at least 0.

    Examples
    --------
    >>> gvae.graphs.band(4, 2).offsets
    (0, 1, 2)
    """
    _positive(band, n=n)
    if not isinstance(bandwidth, int) or isinstance(bandwidth, bool) or bandwidth < 0:
        raise ConfigError(f"band: bandwidth is {bandwidth!r}, expected an integer of at least 0")
    offsets = tuple(range(bandwidth + 1))
    return Graph(f"band:{bandwidth}", n, offsets, offsets)


def grid(rows: int, cols: int) -> Graph:
    """Lattice of rows x cols variables, with edges from each variable to its right and lower neighbours.

    Parameters
    ----------
    rows, cols : int

    Returns
    -------
    Graph
        These edges are entries of the precision; its Cholesky factor fills in up to bandwidth `cols`.

    Raises
    ------
    ConfigError
        `rows` or `cols` is not an integer of at least 1.

    Examples
    --------
    >>> graph = gvae.graphs.grid(2, 3)
    >>> graph.offsets, graph.factor_offsets
    ((0, 1, 3), (0, 1, 2, 3))
    """
    _positive(grid, rows=rows, cols=cols)
    offsets = _lattice(rows, cols)
    filled = tuple(range(cols + 1)) if rows > 1 else offsets
    return Graph(f"grid:{rows}x{cols}", rows * cols, offsets, filled, cols)


def extended_grid(rows: int, cols: int) -> Graph:
    """Extended grid: a lattice whose edges are entries of the Cholesky factor itself.

    Parameters
    ----------
    rows, cols : int

    Returns
    -------
    Graph
        The precision then has one more diagonal per cell, (+1, -1), and no factorisation is ever needed.

    Raises
    ------
    ConfigError
        `rows` or `cols` is not an integer of at least 1.

    Notes
    -----
    Peste and Malagò's extended grid.

    Examples
    --------
    >>> graph = gvae.graphs.extended_grid(2, 3)
    >>> graph.offsets, graph.factor_offsets
    ((0, 1, 3), (0, 1, 3))
    """
    _positive(extended_grid, rows=rows, cols=cols)
    offsets = _lattice(rows, cols)
    return Graph(f"extended_grid:{rows}x{cols}", rows * cols, offsets, offsets, cols)


def _lattice(rows: int, cols: int) -> tuple[int, ...]:
    if rows == 1 or cols == 1:
        return (0, 1)  # a chain, horizontal or vertical
    return (0, 1, cols)


def _positive(function: Callable[..., Graph], **sizes: Any) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"{function.__name__}: {name} is {size!r}, expected an integer of at least 1")
