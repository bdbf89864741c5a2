"""Graphs over n variables. A graph knows its sparsity pattern, nothing else.

Variables are numbered 0 .. n-1; those of a grid row by row. A pattern is a set of diagonals `offsets` of a lower-triangular
matrix, plus a `mask` that says which of their entries exist: entry (k, j) is the pair (j + offsets[k], j).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gvae.errors import ConfigError

__all__ = ["Graph", "band", "chain", "extended_grid", "grid", "independent"]


@dataclass(frozen=True)
class Graph:
    """A pattern of pairs of variables.

    name           : as written in text, "chain" or "extended_grid:4x4"
    n              : number of variables
    offsets        : the diagonals on which a network emits entries, increasing from 0
    factor_offsets : the diagonals of the Cholesky factor (for a grid 0 .. cols: it fills in; else `offsets`)
    columns        : for grids, the length of a row: no edge leads from the end of one row to the start of the next
    """

    name: str
    n: int
    offsets: tuple[int, ...]
    factor_offsets: tuple[int, ...]
    columns: int | None = None

    @cached_property
    def mask(self) -> np.ndarray:
        """(M, n) booleans: which entries of the emitted diagonals are edges (or, in row 0, variables)."""
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
    """No edges."""
    _positive(independent, n=n)
    return Graph("independent", n, (0,), (0,))


def chain(n: int) -> Graph:
    """Each variable and the next."""
    _positive(chain, n=n)
    return Graph("chain", n, (0, 1), (0, 1))


def band(n: int, bandwidth: int) -> Graph:
    """Each variable and the next `bandwidth` ones: bandwidth sub-diagonals."""
    _positive(band, n=n)
    if not isinstance(bandwidth, int) or isinstance(bandwidth, bool) or bandwidth < 0:
        raise ConfigError(f"band: bandwidth is {bandwidth!r}, expected an integer of at least 0")
    offsets = tuple(range(bandwidth + 1))
    return Graph(f"band:{bandwidth}", n, offsets, offsets)


def grid(rows: int, cols: int) -> Graph:
    """A lattice of rows x cols variables, each tied to its right and lower neighbour. The precision has these edges;
    its Cholesky factor fills in up to bandwidth `cols`."""
    _positive(grid, rows=rows, cols=cols)
    offsets = _lattice(rows, cols)
    filled = tuple(range(cols + 1)) if rows > 1 else offsets
    return Graph(f"grid:{rows}x{cols}", rows * cols, offsets, filled, cols)


def extended_grid(rows: int, cols: int) -> Graph:
    """The lattice's edges as entries of the Cholesky factor itself: the precision then has one more diagonal per cell,
    (+1, -1), and no factorisation is ever needed. Peste and Malagò's extended grid."""
    _positive(extended_grid, rows=rows, cols=cols)
    offsets = _lattice(rows, cols)
    return Graph(f"extended_grid:{rows}x{cols}", rows * cols, offsets, offsets, cols)


def _lattice(rows: int, cols: int) -> tuple[int, ...]:
    if rows == 1 or cols == 1:
        return (0, 1)  # a chain, whichever way it lies
    return (0, 1, cols)


def _positive(function, **sizes) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"{function.__name__}: {name} is {size!r}, expected an integer of at least 1")
