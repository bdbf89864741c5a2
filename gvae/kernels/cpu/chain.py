"""Long chains (offsets 0, 1): one system cut into segments that run side by side, on SIMD lanes and on several cores.

Every recurrence of a chain is y_j = β_j + μ_j y_next, with y_next the neighbour that was computed before:

    FORWARD   L x = b       β = b_j / a_j       μ = -q_j      q_j = c_{j-1} / a_j
    BACKWARD  Lᵀ x = b      β = b_j / a_j       μ = -q_j      q_j = c_j / a_j
    INVERSE   S_jj          β = 1 / a_j²        μ = q_j²      q_j = c_j / a_j      and S_{j+1,j} = -q_j S_{j+1,j+1}

with a = chol[0] and c = chol[1]. `ends` runs each segment from 0 and finds how its last y depends on the one before the
segment: y = offset + gain * incoming. `connect` goes from segment to segment. `fill` runs each segment again, from its true
start, so that within segments the rounding errors are those of the serial recurrence.

Where two segments meet, the value that `connect` found and the one that `fill` ends with differ by the rounding errors of a
whole segment, each multiplied by the product of all μ after it. `growth` is the largest such product. Where it is large, as
when the homogeneous solution grows (|c/a| > 1), the residual would not be small there: such a system is left to the serial
recurrence. For INVERSE all terms are positive and nothing cancels; only overflow is guarded.

Segments have T columns and start at column `head`. Letters: j column within a segment, l lane.
"""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels._chain import BACKWARD, FORWARD, INVERSE, MAX_GROWTH, MAX_GROWTH_INVERSE  # noqa: F401 (ops read them)
from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import LANES, borrowed, flushed, lanes, larger, neighbours, pack, unpack, zero
from gvae.kernels.cpu.banded.invert import inverse_one
from gvae.kernels.cpu.banded.solve import solve_triangular_one, solve_triangular_transposed_one
from gvae.kernels.cpu.banded.systems import first_bad_pivot, move

SEGMENT = 1024  # columns: the blocks of LANES segments fit in the second-level cache


@kernel
def coefficients(chol, b, kind, head, owners, starts, block):
    """block[0] = β and block[1] = q of LANES segments; block (3, T, LANES)."""
    N, T = chol.shape[1], block.shape[1]
    for l in range(LANES):
        starts[l] = head + owners[l] * T
    pack(chol.reshape(-1), starts, block[0])
    if kind != INVERSE:
        pack(b, starts, block[2])
    for l in range(LANES):
        starts[l] += N - 1 if kind == FORWARD else N
    pack(chol.reshape(-1), starts, block[1])
    a, c, right = lanes(block[0]), lanes(block[1]), lanes(block[2])
    for j in range(T):
        r = 1 / a[j]
        c[j] = c[j] * r
        a[j] = r * r if kind == INVERSE else right[j] / a[j]


@kernel
def ends(chol, b, kind, head, T, offset, gain, growth, lo, hi):
    """The segments lo <= s < hi: y at the end is offset[s] + gain[s] * incoming; growth[s] as above."""
    chol, b = borrowed(chol), borrowed(b)
    block, result = np.empty((3, T, LANES), chol.dtype), np.empty((3, LANES), chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        neighbours(first, n, owners)
        coefficients(chol, b, kind, head, owners, starts, block)
        end_one(lanes(block[0]), lanes(block[1]), kind, lanes(result))
        for l in range(n):
            offset[first + l], gain[first + l], growth[first + l] = result[0, l], result[1, l], result[2, l]


@kernel
def end_one(beta, q, kind, result):
    """result = (offset, gain, growth) of one segment. Subnormal products are zero: arithmetic on them is slow."""
    T = len(beta)
    one = zero(beta) + 1
    y, product, growth = zero(beta), one, zero(beta)
    for t in range(T):
        j = t if kind == FORWARD else T - 1 - t
        factor = q[j] * q[j] if kind == INVERSE else -q[j]
        y = beta[j] + factor * y
        product = flushed(factor * product)
        growth = larger(one, growth) * math.fabs(factor)
    result[0], result[1], result[2] = y, product, growth


@kernel
def connect(offset, gain, kind, start, incoming):
    """incoming[s], the y before segment s, from the one before the first; returns the y after the last."""
    S = len(offset)
    y = start
    for t in range(S):
        s = t if kind == FORWARD else S - 1 - t
        incoming[s] = y
        y = offset[s] + gain[s] * y
    return y


@kernel
def fill(chol, b, kind, head, T, incoming, y, lo, hi):
    """y[0, j] (and S_{j+1,j} in y[1, j] for INVERSE) in the segments lo <= s < hi; y (1 or 2, N)."""
    N = chol.shape[1]
    chol, b, y = borrowed(chol), borrowed(b), borrowed(y)
    block, start = np.empty((3, T, LANES), chol.dtype), np.empty((1, LANES), chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        neighbours(first, min(LANES, hi - first), owners)
        coefficients(chol, b, kind, head, owners, starts, block)
        for l in range(LANES):
            start[0, l] = incoming[owners[l]]
        fill_one(lanes(block[0]), lanes(block[1]), kind, lanes(start)[0])
        for k in range(len(y)):
            for l in range(LANES):
                starts[l] = k * N + head + owners[l] * T
            unpack(block[k], starts, y.reshape(-1))


@kernel
def fill_one(beta, q, kind, y):
    """β becomes y; for INVERSE q becomes S_{j+1,j} = -q y_next."""
    T = len(beta)
    for t in range(T):
        j = t if kind == FORWARD else T - 1 - t
        if kind == INVERSE:
            below = -(q[j] * y)
            y = beta[j] - q[j] * below
            q[j] = below
        else:
            y = beta[j] - q[j] * y
        beta[j] = y


@kernel
def rest(chol, b, kind, lo, hi, y):
    """The serial recurrence over columns lo .. hi - 1; y (1 or 2, N) holds the neighbour outside them, if there is one."""
    N = chol.shape[1]
    for t in range(hi - lo):
        j = lo + t if kind == FORWARD else hi - 1 - t
        a = chol[0, j]
        if kind == FORWARD:
            y[0, j] = (b[j] - chol[1, j - 1] * y[0, j - 1]) / a if j > 0 else b[j] / a
        elif kind == BACKWARD:
            y[0, j] = (b[j] - chol[1, j] * y[0, j + 1]) / a if j + 1 < N else b[j] / a
        else:
            y[1, j] = -chol[1, j] / a * y[0, j + 1] if j + 1 < N else zero(y)
            y[0, j] = (1 / a - chol[1, j] * y[1, j]) / a if j + 1 < N else 1 / (a * a)


@kernel
def serial(chol, b, kind, offsets, y):
    """The plain recurrence over the whole system, by the one-system functions of `banded`."""
    if kind == INVERSE:
        inverse_one(chol, offsets, y)
    else:
        move(b, y[0])
        if kind == BACKWARD:
            solve_triangular_transposed_one(chol, offsets, y[0])
        else:
            solve_triangular_one(chol, offsets, y[0])


@kernel
def status(chol):
    """As `systems.first_bad_pivot` of `banded`."""
    return first_bad_pivot(chol)
