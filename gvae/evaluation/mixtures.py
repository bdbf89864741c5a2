"""The aggregated posterior q(z) = 1/N sum_m q(z | x_m), evaluated at a draw of each row, from blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

__all__ = ["Mixture", "blocks"]

PAIRS = 1 << 21  # values q(z_n | x_m) computed at once, times variables
LEAST = -1000.0  # e^LEAST is 0 in float64, and so is e^LEAST * LEAST, where e^-inf * -inf would be NaN


class Mixture:
    """The mixture q(z) = 1/N sum_m q(z | x_m) at N draws z_n, in float64, from blocks of log q(z_n | x_m) as they come.

    variables : axes of further quantities of each draw, each with a mixture of its own
    """

    def __init__(self, n: int, *variables: int):
        shape = (n, *variables)
        # sums over m relative to the largest log q: of r_m = e^(log q - top), and of r_m log r_m
        self.top, self.total, self.moment = np.full(shape, -np.inf), np.zeros(shape), np.zeros(shape)

    def add(self, block: slice, log_q: np.ndarray) -> None:
        """log_q (n, m, ..): log q(z_n | x_m) of the draws of a block, for some rows m."""
        higher = np.maximum(self.top[block], log_q.max(axis=1))
        finite = np.where(higher == -np.inf, 0.0, higher)  # -inf: no row so far has such a draw, as far as the dtype reaches
        moved = np.maximum(self.top[block] - finite, LEAST)
        ratio = np.maximum(log_q - finite[:, None], LEAST)
        with np.errstate(under="ignore"):
            self.moment[block] += moved * self.total[block]
            self.moment[block] *= np.exp(moved)
            self.total[block] *= np.exp(moved)
            share = np.exp(ratio)
            self.total[block] += share.sum(axis=1)
            self.moment[block] += (share * ratio).sum(axis=1)
        self.top[block] = higher

    @property
    def log_q(self) -> np.ndarray:
        """log q(z_n)."""
        return self.top + np.log(self.total) - math.log(len(self.top))

    @property
    def entropy(self) -> np.ndarray:
        """H(q(m | z_n)) of the responsibilities q(m | z_n) = q(z_n | x_m) / sum_m q(z_n | x_m)."""
        return np.log(self.total) - self.moment / self.total


def blocks(n: int, numbers: int) -> Iterator[slice]:
    """Slices of n draws, each as long as PAIRS allows if a draw takes `numbers` values."""
    at_once = max(1, PAIRS // numbers)
    for a in range(0, n, at_once):
        yield slice(a, min(a + at_once, n))
