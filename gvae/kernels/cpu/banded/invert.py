"""Selected inverses of L Lᵀ, and their reverse."""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import LANES, lanes, neighbours, pack_systems, unpack_systems, zero
from gvae.kernels.cpu.banded.systems import FEW, first_bad_pivot, scratch_width


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
            t = zero(chol)
            for k in range(1, M):
                m = j + offsets[k]
                if m >= N:
                    break
                t += chol[k, j] * s[abs(m - i), min(m, i)]
            s[d, j] = -t / chol[0, j]
        s[0, j] += 1 / (chol[0, j] * chol[0, j])
        for d in range(N - j, W):
            s[d, j] = zero(chol)


@kernel
def inverse_vjp_one(chol, offsets, s, s_bar, chol_bar):
    """Reverse of `inverse_one`: the same recursion, first column to last. s_bar (W, N) is overwritten; chol_bar (M, N)."""
    M, N = chol.shape
    W = s.shape[0]
    for j in range(N):
        a = chol[0, j]
        for k in range(M):
            chol_bar[k, j] = zero(chol)
        chol_bar[0, j] -= s_bar[0, j] / a / (a * a)
        for d in range(min(W, N - j)):
            i = j + d
            g = s_bar[d, j] / a
            chol_bar[0, j] -= g * s[d, j]
            for k in range(1, M):
                m = j + offsets[k]
                if m >= N:
                    break
                chol_bar[k, j] -= g * s[abs(m - i), min(m, i)]
                s_bar[abs(m - i), min(m, i)] -= g * chol[k, j]


@kernel
def inverse(chol, offsets, s, info, lo, hi):
    """s[f] = the selected inverse of factor f for lo <= f < hi; chol (F, M, N), s (F, W, N), info (F,)."""
    _, M, N = chol.shape
    W = s.shape[1]
    width = scratch_width(hi - lo)
    factors, results = np.empty((M, N, width), chol.dtype), np.empty((W, N, width), chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for f in range(first, hi):
                inverse_one(chol[f], offsets, s[f])
        else:
            neighbours(first, n, owners)
            pack_systems(chol, owners, starts, factors)
            inverse_one(lanes(factors), offsets, lanes(results))
            unpack_systems(results, owners, starts, s)
        for f in range(first, first + n):
            info[f] = first_bad_pivot(chol[f])
            if info[f] != 0:
                s[f, :, :] = math.nan


@kernel
def inverse_vjp(chol, offsets, s, s_bar, chol_bar, lo, hi):
    """chol_bar[f] from s_bar[f] (overwritten) for lo <= f < hi."""
    _, M, N = chol.shape
    W = s.shape[1]
    width = scratch_width(hi - lo)
    factors, results = np.empty((M, N, width), chol.dtype), np.empty((M, N, width), chol.dtype)
    inverses, bars = np.empty((W, N, width), chol.dtype), np.empty((W, N, width), chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for f in range(first, hi):
                inverse_vjp_one(chol[f], offsets, s[f], s_bar[f], chol_bar[f])
        else:
            neighbours(first, n, owners)
            pack_systems(chol, owners, starts, factors)
            pack_systems(s, owners, starts, inverses)
            pack_systems(s_bar, owners, starts, bars)
            inverse_vjp_one(lanes(factors), offsets, lanes(inverses), lanes(bars), lanes(results))
            unpack_systems(results, owners, starts, chol_bar)
