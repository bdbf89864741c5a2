"""Recurrences on a sparse lower-triangular factor L in diagonal storage.

chol[k, j] = L[j + offsets[k], j], shape (M, N), offsets increasing from 0. Entries with j + offsets[k] >= N do not exist:
they are never read, and written as zero. Letters: i row, j column, k diagonal, f factor, r right-hand side.

A batch is F factors and R right-hand sides; rows[f] lists the right-hand sides of factor f, so that K samples which share
a factor read it once and never copy it.
"""

from __future__ import annotations

import math

from gvae.kernels.cpu._jit import kernel


@kernel
def first_bad_pivot(chol):
    """0, or the 1-based column of the first diagonal entry of chol (M, N) that is not positive."""
    for j in range(chol.shape[1]):
        if not chol[0, j] > 0:
            return j + 1
    return 0


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
def solve_triangular(chol, offsets, rows, x, trans, info, lo, hi):
    """x[rows[f]] <- L_f⁻¹ x[rows[f]] (or L_f⁻ᵀ) for lo <= f < hi; chol (F, M, N), rows (F, K), x (R, N), info (F,)."""
    for f in range(lo, hi):
        info[f] = first_bad_pivot(chol[f])
        for r in rows[f]:
            if info[f] != 0:
                x[r, :] = math.nan
            elif trans:
                solve_triangular_transposed_one(chol[f], offsets, x[r])
            else:
                solve_triangular_one(chol[f], offsets, x[r])


@kernel
def multiply_triangular_one(chol, offsets, x, y):
    """y = L x; x, y (N,), not the same array."""
    M, N = chol.shape
    for i in range(N):
        y[i] = chol[0, i] * x[i]
    for k in range(1, M):
        for j in range(N - offsets[k]):
            y[j + offsets[k]] += chol[k, j] * x[j]


@kernel
def multiply_triangular_transposed_one(chol, offsets, x, y):
    """y = Lᵀ x; x, y (N,), not the same array."""
    M, N = chol.shape
    for j in range(N):
        y[j] = chol[0, j] * x[j]
    for k in range(1, M):
        for j in range(N - offsets[k]):
            y[j] += chol[k, j] * x[j + offsets[k]]


@kernel
def multiply_triangular(chol, offsets, rows, x, y, trans, lo, hi):
    """y[rows[f]] = L_f x[rows[f]] (or L_fᵀ) for lo <= f < hi; chol (F, M, N), rows (F, K), x, y (R, N)."""
    for f in range(lo, hi):
        for r in rows[f]:
            if trans:
                multiply_triangular_transposed_one(chol[f], offsets, x[r], y[r])
            else:
                multiply_triangular_one(chol[f], offsets, x[r], y[r])


@kernel
def cholesky_one(ab, chol):
    """Factor A = L Lᵀ of a symmetric band: ab, chol (M, N), all diagonals 0..M-1. Returns 0, or the minor that failed.

    L_jj = sqrt(A_jj - sum_d L_j,j-d²),  L_ij = (A_ij - sum_d L_i,j-d L_j,j-d) / L_jj, column by column.
    """
    M, N = ab.shape
    for j in range(N):
        s = ab[0, j]
        for d in range(1, min(M, j + 1)):
            s -= chol[d, j - d] * chol[d, j - d]
        if not s > 0:
            return j + 1
        chol[0, j] = math.sqrt(s)
        for o in range(1, M):
            t = chol.dtype.type(0)
            if j + o < N:
                t = ab[o, j]
                for d in range(1, min(M - o, j + 1)):
                    t -= chol[o + d, j - d] * chol[d, j - d]
                t /= chol[0, j]
            chol[o, j] = t
    return 0


@kernel
def cholesky_vjp_one(chol, chol_bar, ab_bar):
    """Reverse of `cholesky_one`, last column to first. chol_bar (M, N) is overwritten; ab_bar (M, N)."""
    M, N = chol.shape
    ab_bar[:, :] = 0
    for j in range(N - 1, -1, -1):
        for o in range(min(M, N - j) - 1, 0, -1):
            t_bar = chol_bar[o, j] / chol[0, j]
            chol_bar[0, j] -= t_bar * chol[o, j]
            for d in range(1, min(M - o, j + 1)):
                chol_bar[o + d, j - d] -= t_bar * chol[d, j - d]
                chol_bar[d, j - d] -= t_bar * chol[o + d, j - d]
            ab_bar[o, j] = t_bar
        s_bar = chol_bar[0, j] / (2 * chol[0, j])
        for d in range(1, min(M, j + 1)):
            chol_bar[d, j - d] -= 2 * s_bar * chol[d, j - d]
        ab_bar[0, j] = s_bar


@kernel
def cholesky(ab, chol, info, lo, hi):
    """chol[f] = the factor of ab[f] for lo <= f < hi; ab, chol (F, M, N), info (F,)."""
    for f in range(lo, hi):
        info[f] = cholesky_one(ab[f], chol[f])
        if info[f] != 0:
            chol[f, :, :] = math.nan


@kernel
def cholesky_vjp(chol, chol_bar, ab_bar, lo, hi):
    """ab_bar[f] from chol_bar[f] (overwritten) for lo <= f < hi."""
    for f in range(lo, hi):
        cholesky_vjp_one(chol[f], chol_bar[f], ab_bar[f])


@kernel
def outer(u, v, rows, offsets, band, lo, hi):
    """band[f, k, j] = sum over r in rows[f] of u[r, j + offsets[k]] v[r, j]: the part of sum u vᵀ that L's pattern holds."""
    _, M, N = band.shape
    for f in range(lo, hi):
        band[f, :, :] = 0
        for r in rows[f]:
            for k in range(M):
                for j in range(N - offsets[k]):
                    band[f, k, j] += u[r, j + offsets[k]] * v[r, j]


@kernel
def inverse_one(chol, offsets, s):
    """Selected inverse of P = L Lᵀ (Takahashi): s[d, j] = (P⁻¹)[j + d, j] for every 0 <= d <= offsets[-1]; s is (W, N).

    S_ij = δ_ij / L_jj² - (1 / L_jj) sum_k L_mj S_mi  with m = j + offsets[k], k >= 1, from the last column to the first.
    """
    M, N = chol.shape
    W = s.shape[0]
    for j in range(N - 1, -1, -1):
        for d in range(min(W, N - j) - 1, -1, -1):  # d = 0 last: it uses the column's own entries
            i = j + d
            t = chol.dtype.type(0)
            for k in range(1, M):
                m = j + offsets[k]
                if m >= N:
                    break
                t += chol[k, j] * s[abs(m - i), min(m, i)]
            s[d, j] = -t / chol[0, j]
        s[0, j] += 1 / (chol[0, j] * chol[0, j])
        for d in range(N - j, W):
            s[d, j] = 0


@kernel
def inverse_vjp_one(chol, offsets, s, s_bar, chol_bar):
    """Reverse of `inverse_one`: the same recursion, first column to last. s_bar (W, N) is overwritten; chol_bar (M, N)."""
    M, N = chol.shape
    W = s.shape[0]
    chol_bar[:, :] = 0
    for j in range(N):
        a = chol[0, j]
        for d in range(min(W, N - j)):
            i = j + d
            g = s_bar[d, j] / a
            chol_bar[0, j] -= g * s[d, j]
            if d == 0:
                chol_bar[0, j] -= g / (a * a)
            for k in range(1, M):
                m = j + offsets[k]
                if m >= N:
                    break
                chol_bar[k, j] -= g * s[abs(m - i), min(m, i)]
                s_bar[abs(m - i), min(m, i)] -= g * chol[k, j]


@kernel
def inverse(chol, offsets, s, info, lo, hi):
    """s[f] = the selected inverse of factor f for lo <= f < hi; chol (F, M, N), s (F, W, N), info (F,)."""
    for f in range(lo, hi):
        info[f] = first_bad_pivot(chol[f])
        if info[f] != 0:
            s[f, :, :] = math.nan
        else:
            inverse_one(chol[f], offsets, s[f])


@kernel
def inverse_vjp(chol, offsets, s, s_bar, chol_bar, lo, hi):
    """chol_bar[f] from s_bar[f] (overwritten) for lo <= f < hi."""
    for f in range(lo, hi):
        inverse_vjp_one(chol[f], offsets, s[f], s_bar[f], chol_bar[f])
