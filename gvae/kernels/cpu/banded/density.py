"""Log-densities of N(mean, (L Lᵀ)⁻¹): nothing is recursive."""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import LANES, borrowed, lanes, neighbours, pack, pack_systems, unpack, unpack_systems, zero
from gvae.kernels.cpu._math import log, scaled
from gvae.kernels.cpu.banded.multiply import multiply_triangular_one, multiply_triangular_transposed_one
from gvae.kernels.cpu.banded.systems import CHUNK, FACTORS, LONG, first_bad_pivot, subtract

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
LN2 = math.log(2)


@kernel
def sum_of_logs(x):
    """sum log x_j of positive x (N,). With x_j = m_j 2^n_j and m_j near 1: the log of their product + ln 2 sum n_j."""
    total = 0.0
    for first in range(0, len(x), FACTORS):
        chunk = x[first : first + FACTORS]
        product, exponent = x.dtype.type(1), zero(x)
        for j in range(len(chunk)):
            m, n = scaled(chunk[j])
            product *= m
            exponent += n
        total += log(product) + LN2 * exponent
    return total


@kernel
def sums_of_squares(x, part, sums):
    """sums[l] = the sum of the squares in lane l of x, an array (N,) of vectors; part (1, LANES) is scratch."""
    sums[:] = 0
    for first in range(0, len(x), LONG):
        total = zero(x)
        for j in range(first, min(first + LONG, len(x))):
            total += x[j] * x[j]
        lanes(part)[0] = total
        for l in range(LANES):
            sums[l] += part[0, l]


@kernel
def sum_of_squares(x):
    """|x|²; x (N,)."""
    total = 0.0
    for first in range(0, len(x), CHUNK):
        chunk, part = x[first : first + CHUNK], zero(x)
        for j in range(len(chunk)):
            part += chunk[j] * chunk[j]
        total += part
    return total


@kernel
def quadratic_along(chol, offsets, d, w):
    """As `quadratic_one`, with loops over j inside those over k, which vectorise along a long system; leaves w = Lᵀ d."""
    multiply_triangular_transposed_one(chol, offsets, d, w)
    return sum_of_squares(w)


@kernel
def quadratic_along_vjp(chol, offsets, d, bar, s, d_bar, chol_bar):
    """As `quadratic_vjp_one`, along a long system; s (N,) is scratch."""
    M, N = chol.shape
    multiply_triangular_transposed_one(chol, offsets, d, s)
    for j in range(N):
        s[j] *= -bar
    multiply_triangular_one(chol, offsets, s, d_bar)
    for k in range(M):
        n = max(N - offsets[k], 0)
        later, band = d[N - n :], chol_bar[k]
        for j in range(n):
            band[j] += later[j] * s[j]


@kernel
def quadratic_one(chol, offsets, d):
    """|Lᵀ d|², summed in blocks; d (N,)."""
    M, N = chol.shape
    total = zero(chol)
    for first in range(0, N, CHUNK):
        part = zero(chol)
        for j in range(first, min(first + CHUNK, N)):
            w = chol[0, j] * d[j]
            for k in range(1, M):
                i = j + offsets[k]
                if i >= N:
                    break
                w += chol[k, j] * d[i]
            part += w * w
        total += part
    return total


@kernel
def quadratic_vjp_one(chol, offsets, d, bar, d_bar, chol_bar):
    """Reverse of -1/2 `quadratic_one`: with w = Lᵀ d and s = -bar w, d_bar = L s and chol_bar += d sᵀ on the pattern."""
    M, N = chol.shape
    for j in range(N):
        d_bar[j] = zero(chol)
    for j in range(N):
        s = chol[0, j] * d[j]
        for k in range(1, M):
            i = j + offsets[k]
            if i >= N:
                break
            s += chol[k, j] * d[i]
        s *= -bar
        d_bar[j] += chol[0, j] * s
        chol_bar[0, j] += d[j] * s
        for k in range(1, M):
            i = j + offsets[k]
            if i >= N:
                break
            d_bar[i] += chol[k, j] * s
            chol_bar[k, j] += d[i] * s


@kernel
def log_prob_of_draw(chol, rows, eps_rows, eps, value, info, lo, hi):
    """value[rows[f, k]] = log N(L⁻ᵀ eps; 0, (L Lᵀ)⁻¹), eps[eps_rows[f, k]], for lo <= f < hi; NaN where a pivot fails."""
    N = chol.shape[2]
    chol, eps = borrowed(chol), borrowed(eps)
    for f in range(lo, hi):
        info[f] = first_bad_pivot(chol[f])
        constant = sum_of_logs(chol[f, 0]) - N * HALF_LOG_2PI if info[f] == 0 else math.nan
        for k in range(rows.shape[1]):
            value[rows[f, k]] = constant - 0.5 * sum_of_squares(eps[eps_rows[f, k]])


@kernel
def log_prob(chol, offsets, rows, x_rows, mean_rows, x, mean, value, info, lo, hi):
    """value[rows[f, k]] = log N(x; mean, (L Lᵀ)⁻¹) with x[x_rows[f, k]], mean[mean_rows[f, k]], for lo <= f < hi.

    chol (F, M, N), rows, x_rows, mean_rows (F, K), value (R,), info (F,). NaN where a pivot fails.
    """
    _, M, N = chol.shape
    K = rows.shape[1]
    chol, x, mean = borrowed(chol), borrowed(x), borrowed(mean)
    width = LANES if N < LONG else 1
    factors, vectors = np.empty((M, N, width), chol.dtype), np.empty((3, N, width), chol.dtype)
    d, w = np.empty(N, chol.dtype), np.empty(N, chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    quadratic = np.empty((1, LANES), chol.dtype)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        for f in range(first, first + n):
            info[f] = first_bad_pivot(chol[f])
            constant = sum_of_logs(chol[f, 0]) - N * HALF_LOG_2PI if info[f] == 0 else math.nan
            for k in range(K):
                value[rows[f, k]] = constant
        neighbours(first, n, owners)
        if N < LONG:
            pack_systems(chol, owners, starts, factors)
        for k in range(K):
            if N >= LONG:
                for f in range(first, first + n):
                    subtract(x[x_rows[f, k]], mean[mean_rows[f, k]], d)
                    value[rows[f, k]] -= 0.5 * quadratic_along(chol[f], offsets, d, w)
            else:
                pack_differences(x, x_rows, mean, mean_rows, k, owners, starts, vectors)
                lanes(quadratic)[0] = quadratic_one(lanes(factors), offsets, lanes(vectors[0]))
                for l in range(n):
                    value[rows[first + l, k]] -= 0.5 * quadratic[0, l]


@kernel
def log_prob_vjp(chol, offsets, rows, x_rows, mean_rows, x, mean, bar, x_bar, chol_bar, lo, hi):
    """Reverse of `log_prob`: x_bar[rows[f, k]], which is -mean_bar too, and chol_bar[f]; bar (R,), x_bar (R, N)."""
    _, M, N = chol.shape
    K = rows.shape[1]
    chol, x, mean = borrowed(chol), borrowed(x), borrowed(mean)
    x_bar, chol_bar = borrowed(x_bar), borrowed(chol_bar)
    width = LANES if N < LONG else 1
    factors, factor_bars = np.empty((M, N, width), chol.dtype), np.empty((M, N, width), chol.dtype)
    vectors, bars = np.empty((3, N, width), chol.dtype), np.empty((1, LANES), chol.dtype)
    d, s = np.empty(N, chol.dtype), np.empty(N, chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        neighbours(first, n, owners)
        if N >= LONG:
            for f in range(first, first + n):
                chol_bar[f, :, :] = 0
                for k in range(K):
                    r = rows[f, k]
                    subtract(x[x_rows[f, k]], mean[mean_rows[f, k]], d)
                    quadratic_along_vjp(chol[f], offsets, d, bar[r], s, x_bar[r], chol_bar[f])
        else:
            pack_systems(chol, owners, starts, factors)
            factor_bars[:, :, :] = 0
            for k in range(K):
                pack_differences(x, x_rows, mean, mean_rows, k, owners, starts, vectors)
                for l in range(LANES):
                    bars[0, l] = bar[rows[owners[l], k]]
                quadratic_vjp_one(
                    lanes(factors), offsets, lanes(vectors[0]), lanes(bars)[0], lanes(vectors[2]), lanes(factor_bars)
                )
                for l in range(LANES):
                    starts[l] = rows[owners[l], k] * N
                unpack(vectors[2], starts, x_bar.reshape(-1))
            unpack_systems(factor_bars, owners, starts, chol_bar)
        for f in range(first, first + n):
            total = zero(chol)
            for k in range(K):
                total += bar[rows[f, k]]
            pivots, band = chol[f, 0], chol_bar[f, 0]
            for j in range(N):
                band[j] += total / pivots[j]


@kernel
def pack_differences(x, x_rows, y, y_rows, k, owners, starts, block):
    """block[0, j, l] = x[x_rows[f, k], j] - y[y_rows[f, k], j] with f = owners[l]; block (3, N, LANES).

    block[1] holds the rows of y, which are packed again only if they are others than for k - 1.
    """
    N = x.shape[1]
    fresh = k == 0
    for l in range(LANES):
        f = owners[l]
        fresh |= y_rows[f, k] != y_rows[f, k - 1]
        starts[l] = y_rows[f, k] * N
    if fresh:
        pack(y.reshape(-1), starts, block[1])
    for l in range(LANES):
        starts[l] = x_rows[owners[l], k] * N
    pack(x.reshape(-1), starts, block[0])
    difference, other = lanes(block[0]), lanes(block[1])
    for j in range(N):
        difference[j] -= other[j]
