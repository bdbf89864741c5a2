"""Solves with dense lower-triangular matrices: LANES right-hand sides at a time, in vectors.

Two unknowns are found together, so that each known one is loaded once for both.
"""

from __future__ import annotations

import numpy as np

from gvae.kernels import LANES
from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed, lanes


@kernel(inner=True)
def substitute(l, x):
    """x = L⁻¹ x: x (N,), of numbers or vectors. Of two rows, the second follows when the first is known."""
    N = len(x)
    for i in range(0, N - 1, 2):
        s, t = x[i], x[i + 1]
        first, second = l[i], l[i + 1]
        for j in range(i):
            s = s - first[j] * x[j]
            t = t - second[j] * x[j]
        s = s / first[i]
        x[i] = s
        x[i + 1] = (t - second[i] * s) / second[i + 1]
    if N % 2:
        s, last = x[N - 1], l[N - 1]
        for j in range(N - 1):
            s = s - last[j] * x[j]
        x[N - 1] = s / last[N - 1]


@kernel(inner=True)
def substitute_transposed(l, x):
    """x = L⁻ᵀ x."""
    N = len(x)
    for i in range(N - 1, 0, -2):
        s, t = x[i], x[i - 1]
        for j in range(i + 1, N):
            s = s - l[j, i] * x[j]
            t = t - l[j, i - 1] * x[j]
        s = s / l[i, i]
        x[i] = s
        x[i - 1] = (t - l[i, i - 1] * s) / l[i - 1, i - 1]
    if N % 2:
        s = x[0]
        for j in range(1, N):
            s = s - l[j, 0] * x[j]
        x[0] = s / l[0, 0]


@kernel
def solve(l, l_of, trans, x, lo, hi):
    """x[r] = L⁻¹ x[r], or L⁻ᵀ x[r], in place, with L = l[l_of[r]]: l (F, N, N), x (R, N, K).

    The systems lo <= s < hi are panels of LANES columns, ceil(K / LANES) for each r.
    """
    wide_vectors()
    _, N, K = x.shape
    panels = -(-K // LANES)
    l, x = borrowed(l), borrowed(x)
    columns = np.zeros((N, LANES), x.dtype)
    for s in range(lo, hi):
        r, first = s // panels, s % panels * LANES
        width, system = min(LANES, K - first), x[r]
        for i in range(N):
            for k in range(width):
                columns[i, k] = system[i, first + k]
        if trans:
            substitute_transposed(l[l_of[r]], lanes(columns))
        else:
            substitute(l[l_of[r]], lanes(columns))
        for i in range(N):
            for k in range(width):
                system[i, first + k] = columns[i, k]
