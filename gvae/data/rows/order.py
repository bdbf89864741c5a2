"""The order in which the rows of a table are presented: a function of a key, so that a pass may begin at any position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gvae import random, texts
from gvae.errors import ConfigError

__all__ = ["Order", "Shuffle"]

ROWS = texts.Number("a whole number of at least 1", lambda x: x >= 1, int)
KNOWN = {"auto": {}, "full": {}, "window": {"rows": ROWS, "chunk": ROWS}}


@dataclass(frozen=True)
class Shuffle:
    """How the rows of an epoch are shuffled.

    Parameters
    ----------
    rows : int, optional
        Rows of a window: its chunks are chosen at random among all, and its rows are shuffled. None: all rows are shuffled.
    chunk : int, optional
        Consecutive rows that are read together. None: see `gvae.data.rows.chunk_of`.

    Examples
    --------
    >>> gvae.data.Shuffle.of("window:8192")
    Shuffle(rows=8192, chunk=None)
    >>> str(gvae.data.Shuffle(8192, 1024)), str(gvae.data.Shuffle())
    ('window:rows=8192,chunk=1024', 'full')
    """

    rows: int | None = None
    chunk: int | None = None

    @classmethod
    def of(cls, text: str) -> Shuffle | None:
        """The shuffle that a text describes.

        Parameters
        ----------
        text : str
            "full", "window:W", "window:rows=W,chunk=C", or "auto".

        Returns
        -------
        Shuffle, or None
            None for "auto".

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> gvae.data.Shuffle.of("full")
        Shuffle(rows=None, chunk=None)
        """
        name, found = texts.parse("shuffle", text, KNOWN, {"window": "rows"})
        if name == "auto":
            return None
        if name == "window" and "rows" not in found:
            raise ConfigError(f"shuffle {text!r}: it lacks the rows of a window, expected window:W or window:rows=W,chunk=C")
        return cls(**found)

    def __str__(self) -> str:
        if self.rows is None:
            return "full"
        return f"window:rows={self.rows}" + ("" if self.chunk is None else f",chunk={self.chunk}")


class Order:
    """The order of one pass in two levels: chunks of consecutive rows, and the rows of a window of chunks.

    All chunks are permuted, and each `n_chunks` of them are a window, whose rows are permuted. Without a key, rows come as
    they are stored.

    Parameters
    ----------
    bounds : int array (C + 1,)
        The row at which each chunk begins, and the number of all rows.
    n_chunks : int
        The number of chunks of a window; the last window may have fewer.
    key : array (4,), optional

    Notes
    -----
    Every part is a function of (key, bounds, n_chunks) only. One integer for each chunk and one for each row of a window
    are in memory.

    Examples
    --------
    >>> order = gvae.data.rows.Order(np.array([0, 3, 6, 8]), 2, gvae.random.key(0))
    >>> order.index(0, 8)
    array([6, 1, 2, 7, 0, 3, 5, 4])
    >>> order.index(4, 6)
    array([0, 3])
    >>> gvae.data.rows.Order(np.array([0, 3, 6, 8]), 2).index(2, 5)
    array([2, 3, 4])
    """

    def __init__(self, bounds: np.ndarray, n_chunks: int, key: np.ndarray | None = None):
        self.bounds, self.n_chunks, self.key = np.asarray(bounds, np.int64), n_chunks, key

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @cached_property
    def chunks(self) -> np.ndarray:
        """The chunks in order."""
        n = len(self.bounds) - 1
        return np.arange(n) if self.key is None else random.permutation(random.fold_in(self.key, 0), n)

    @cached_property
    def begins(self) -> np.ndarray:
        """The position at which each window begins, and the number of all rows."""
        ends = np.cumsum(np.diff(self.bounds)[self.chunks])
        return np.concatenate([[0], ends[self.n_chunks - 1 :: self.n_chunks], ends[-1:]])[: self.n_windows + 1]

    @property
    def n_windows(self) -> int:
        return -(-(len(self.bounds) - 1) // self.n_chunks)

    def window_at(self, position: int) -> int:
        """The window that has the row at a position."""
        return int(np.searchsorted(self.begins, position, side="right")) - 1

    def ranges(self, window: int) -> list[tuple[int, int]]:
        """The chunks of a window, as ranges of rows in ascending order."""
        chunks = np.sort(self.chunks[window * self.n_chunks : (window + 1) * self.n_chunks])
        return [(int(self.bounds[c]), int(self.bounds[c + 1])) for c in chunks]

    def within(self, window: int) -> np.ndarray | None:
        """The order of the rows of a window, as positions in its concatenated chunks; None: as they are stored."""
        if self.key is None:
            return None
        n = int(self.begins[window + 1] - self.begins[window])
        return random.permutation(random.fold_in(self.key, 1, window), n)

    def rows(self, window: int) -> np.ndarray:
        """The rows of a window, in order."""
        there = np.concatenate([np.arange(*chunk) for chunk in self.ranges(window)])
        within = self.within(window)
        return there if within is None else there[within]

    def index(self, begin: int, end: int) -> np.ndarray:
        """The rows at positions begin .. end - 1.

        Parameters
        ----------
        begin, end : int

        Returns
        -------
        int array (end - begin,)

        Examples
        --------
        >>> gvae.data.rows.Order(np.array([0, 2, 4]), 1).index(1, 3)
        array([1, 2])
        """
        parts: list[Any] = [np.zeros(0, np.int64)]
        while begin < end:
            window = self.window_at(begin)
            first = int(self.begins[window])
            last = min(end, int(self.begins[window + 1]))
            parts.append(self.rows(window)[begin - first : last - first])
            begin = last
        return np.concatenate(parts)
