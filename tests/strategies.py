"""What Hypothesis draws: small shapes with every awkward feature, and a seed for the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st


@dataclass(frozen=True)
class Sizes:
    """One draw: batch axes, per argument the part of them that it has, and the sizes N, M (with offsets), K, R."""

    batch: tuple[int, ...]
    leads: tuple[tuple[int, ...], ...]
    N: int
    offsets: tuple[int, ...]
    K: int
    R: int

    @property
    def M(self) -> int:
        return len(self.offsets)

    def lead(self, i: int) -> tuple[int, ...]:
        """Batch axes of argument i: those of the batch, some of size 1, some leading ones missing."""
        return self.leads[i]


@st.composite
def sizes(draw, arguments=4, empty=True):
    batch = tuple(draw(st.lists(st.integers(0 if empty else 1, 3), max_size=2)))
    leads = []
    for _ in range(arguments):
        missing = draw(st.integers(0, len(batch)))
        leads.append(tuple(1 if draw(st.booleans()) else n for n in batch[missing:]))
    N = draw(st.integers(1, 7))
    steps = draw(st.lists(st.integers(1, 3), max_size=N + 1))  # up to M = N + 2, with gaps
    offsets = (0, *np.cumsum(steps).tolist())
    return Sizes(batch, tuple(leads), N, offsets, draw(st.integers(1, 4)), draw(st.integers(1, 3)))


seeds = st.integers(0, 2**32 - 1)
