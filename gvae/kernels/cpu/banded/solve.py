"""Triangular solves, and their reverse."""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import (
    LANES,
    borrowed,
    lanes,
    neighbours,
    pack,
    pack_systems,
    positive,
    unpack,
    unpack_systems,
    zero,
)
from gvae.kernels.cpu._math import scaled
from gvae.kernels.cpu.banded.multiply import first_outer_one, outer_one
from gvae.kernels.cpu.banded.systems import FACTORS, FEW, first_bad_pivot, move, scratch_width, starts_of


@kernel
def solve_triangular_one(chol, offsets, x):
    """Solve L x = b in place: x (N,) holds b on entry."""
    M, N = chol.shape
    for i in range(N):
        s = x[i]
        for k in range(1, M):
            j = i - offsets[k]
            if j < 0:
                break
            s -= chol[k, j] * x[j]
        x[i] = s / chol[0, i]


@kernel
def solve_triangular_transposed_one(chol, offsets, x):
    """Solve Lᵀ x = b in place: x (N,) holds b on entry."""
    M, N = chol.shape
    for j in range(N - 1, -1, -1):
        s = x[j]
        for k in range(1, M):
            i = j + offsets[k]
            if i >= N:
                break
            s -= chol[k, j] * x[i]
        x[j] = s / chol[0, j]


@kernel
def substitute(chol, offsets, x):
    """As `solve_triangular_one`, from a factor that holds 1 / L_jj (see `invert_pivots`)."""
    M, N = chol.shape
    for i in range(N):
        s = x[i]
        for k in range(1, M):
            j = i - offsets[k]
            if j < 0:
                break
            s -= chol[k, j] * x[j]
        x[i] = chol[0, i] * s


@kernel
def substitute_transposed(chol, offsets, x):
    """As `solve_triangular_transposed_one`, from a factor that holds 1 / L_jj."""
    M, N = chol.shape
    for j in range(N - 1, -1, -1):
        s = x[j]
        for k in range(1, M):
            i = j + offsets[k]
            if i >= N:
                break
            s -= chol[k, j] * x[i]
        x[j] = chol[0, j] * s


@kernel
def invert_pivots(pivots, summary):
    """1 / L_jj in place of L_jj: a division takes as long as ten products, and a pivot is used again and again.

    summary (3,): 1 or 0, whether all are positive; m and n, with which m 2^n is their product. The division hides the rest.
    """
    good = zero(pivots) + 1
    product, exponent = zero(pivots) + 1, zero(pivots)
    for first in range(0, len(pivots), FACTORS):
        for j in range(first, min(first + FACTORS, len(pivots))):
            a = pivots[j]
            good *= positive(a)
            m, n = scaled(a)
            product *= m
            exponent += n
            pivots[j] = 1 / a
        product, n = scaled(product)
        exponent += n
    summary[0], summary[1], summary[2] = good, product, exponent


@kernel
def invert_and_substitute_transposed(chol, offsets, x, summary):
    """`invert_pivots` and `substitute_transposed` in one: a column waits for the one before it, which leaves time for the
    division of another. No summary is made if it is None."""
    M, N = chol.shape
    good = zero(x) + 1
    product, exponent = zero(x) + 1, zero(x)
    for j in range(N - 1, -1, -1):
        a, s = chol[0, j], x[j]
        if summary is not None:
            good *= positive(a)
            m, n = scaled(a)
            product *= m
            exponent += n
            if j % FACTORS == 0:
                product, n = scaled(product)
                exponent += n
        for k in range(1, M):
            i = j + offsets[k]
            if i >= N:
                break
            s -= chol[k, j] * x[i]
        chol[0, j] = 1 / a
        x[j] = chol[0, j] * s
    if summary is not None:
        summary[0], summary[1], summary[2] = good, product, exponent


@kernel
def solve_scratch(batch, systems):
    """What `load_factors` and its callers work in, for factors like those of batch (F, M, N): lanes for a factor and for a
    right-hand side, the summary of the pivots; owners, starts and other starts."""
    _, M, N = batch.shape
    width = scratch_width(systems)
    factors, vectors = np.empty((M, N, width), batch.dtype), np.empty((N, width), batch.dtype)
    summary, indices = np.empty((3, LANES), batch.dtype), np.empty((3, LANES), np.int64)
    indices[0] = -1
    return factors, vectors, summary, indices


@kernel
def load_factors(chol, owner, first, n, scratch):
    """The factors owner[first : first + n], n <= LANES, into lanes. Returns whether that was necessary: else they are there,
    with 1 / L_jj."""
    factors, _, _, indices = scratch
    owners, starts = indices[0], indices[1]
    fresh = False
    for l in range(LANES):
        f = owner[first + min(l, n - 1)]
        fresh |= owners[l] != f
        owners[l] = f
    if fresh:
        pack_systems(chol, owners, starts, factors)
    return fresh


@kernel
def judge(chol, n, scratch, info):
    """info of the first n factors in the lanes, by the summary of their pivots."""
    _, _, summary, indices = scratch
    for l in range(n):
        info[indices[0, l]] = 0 if summary[0, l] == 1 else first_bad_pivot(chol[indices[0, l]])


@kernel
def starts_from(row, first, n, N, starts):
    """starts[l] = where row[first + l] begins in an array (R, N); lanes from n on repeat the last one."""
    for l in range(LANES):
        starts[l] = row[first + min(l, n - 1)] * N


@kernel
def solve_triangular(chol, offsets, owner, row, b_row, b, x, trans, info, lo, hi):
    """x[row[t]] = L⁻¹ b[b_row[t]] (or L⁻ᵀ) with the factor owner[t], for lo <= t < hi.

    chol (F, M, N), owner, row, b_row (R,), b (Q, N), x (R, N) which may be b if the rows are the same, info (F,).
    """
    N = chol.shape[2]
    chol, b, x = borrowed(chol), borrowed(b), borrowed(x)
    scratch = solve_scratch(chol, hi - lo)
    factors, vectors, summary, indices = scratch
    starts = indices[1]
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for t in range(first, first + n):
                move(b[b_row[t]], x[row[t]])
                solve_one(chol[owner[t]], offsets, x[row[t]], trans, info, owner[t])
        else:
            if load_factors(chol, owner, first, n, scratch):
                invert_pivots(lanes(factors[0]), lanes(summary))
                judge(chol, n, scratch, info)
            starts_from(b_row, first, n, N, starts)
            pack(b.reshape(-1), starts, vectors)
            if trans:
                substitute_transposed(lanes(factors), offsets, lanes(vectors))
            else:
                substitute(lanes(factors), offsets, lanes(vectors))
            starts_from(row, first, n, N, starts)
            unpack(vectors, starts, x.reshape(-1))
        for t in range(first, first + n):
            if info[owner[t]] != 0:
                x[row[t], :] = math.nan


@kernel
def solve_one(chol, offsets, x, trans, info, f):
    """L x = b (or Lᵀ x = b) in place, and info[f]."""
    info[f] = first_bad_pivot(chol)
    if trans:
        solve_triangular_transposed_one(chol, offsets, x)
    else:
        solve_triangular_one(chol, offsets, x)


@kernel
def solve_triangular_vjp(chol, offsets, rows, x, x_bar, trans, b_bar, chol_bar, lo, hi):
    """Reverse of `solve_triangular` for lo <= f < hi: b_bar = L⁻ᵀ x_bar and chol_bar = -sum over k of b_bar xᵀ on the
    pattern (trans: L⁻¹, x b_barᵀ), the right-hand sides rows[f, k].

    chol, chol_bar (F, M, N), rows (F, K), x, x_bar (R, N), b_bar (R, N), or (0, N) if not wanted.
    """
    N = chol.shape[2]
    K = rows.shape[1]
    chol, chol_bar = borrowed(chol), borrowed(chol_bar)
    x, x_bar, b_bar = borrowed(x), borrowed(x_bar), borrowed(b_bar)
    if K == 0:
        chol_bar[lo:hi] = 0
        return
    factors, bars, vectors, summary = vjp_scratch(chol, K)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    u, v = lanes(vectors[0]), lanes(vectors[1])
    for first in range(lo, hi, LANES):
        neighbours(first, min(LANES, hi - first), owners)
        pack_systems(chol, owners, starts, factors)
        invert_pivots(lanes(factors[0]), lanes(summary))
        for k in range(K):
            starts_of(rows, owners, k, N, starts)
            pack(x.reshape(-1), starts, vectors[0])
            pack(x_bar.reshape(-1), starts, vectors[1])
            if trans:
                substitute(lanes(factors), offsets, v)
            else:
                substitute_transposed(lanes(factors), offsets, v)
            if len(b_bar):
                unpack(vectors[1], starts, b_bar.reshape(-1))
            left, right = (u, v) if trans else (v, u)
            if k == 0:
                first_outer_one(lanes(factors), zero(v), left, right, offsets, lanes(bars))
            else:
                outer_one(left, right, offsets, lanes(bars))
        unpack_systems(bars, owners, starts, chol_bar)
        mark_failed(chol, offsets, rows, first, min(first + LANES, hi), b_bar, chol_bar)


@kernel
def mark_failed(chol, offsets, rows, lo, hi, bar, chol_bar):
    """NaN for the cotangents of the factors lo <= f < hi with a pivot that fails, on the pattern, and of their right-hand
    sides (bar is of length 0 if not wanted): as for their values."""
    N = chol.shape[2]
    for f in range(lo, hi):
        if first_bad_pivot(chol[f]) != 0:
            for k in range(len(offsets)):
                chol_bar[f, k, : max(N - offsets[k], 0)] = math.nan
            for k in range(rows.shape[1] if len(bar) else 0):
                bar[rows[f, k], :] = math.nan


@kernel
def vjp_scratch(batch, K):
    """Lanes for a factor, for its cotangent, which takes the factor's place if there is one right-hand side, for two
    vectors, and for the summary of the pivots."""
    _, M, N = batch.shape
    factors = np.empty((M, N, LANES), batch.dtype)
    bars = factors if K == 1 else np.empty((M, N, LANES), batch.dtype)
    return factors, bars, np.empty((2, N, LANES), batch.dtype), np.empty((3, LANES), batch.dtype)
