"""Cholesky factors of symmetric bands, and their reverse."""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import LANES, lanes, neighbours, pack_systems, unpack_systems, zero
from gvae.kernels.cpu.banded.systems import FEW, first_bad_pivot, scratch_width


@kernel
def cholesky_one(ab, chol):
    """Factor A = L Lᵀ of a symmetric band: ab, chol (M, N), all diagonals 0..M-1. A pivot that fails is 0 or NaN in chol.

    L_jj = sqrt(A_jj - sum_d L_j,j-d²),  L_ij = (A_ij - sum_d L_i,j-d L_j,j-d) / L_jj, column by column.
    """
    M, N = ab.shape
    for j in range(N):
        s = ab[0, j]
        for d in range(1, min(M, j + 1)):
            s -= chol[d, j - d] * chol[d, j - d]
        chol[0, j] = math.sqrt(s)
        for o in range(1, min(M, N - j)):
            s = ab[o, j]
            for d in range(1, min(M - o, j + 1)):
                s -= chol[o + d, j - d] * chol[d, j - d]
            chol[o, j] = s / chol[0, j]
        for o in range(min(M, N - j), M):
            chol[o, j] = zero(chol)


@kernel
def cholesky_vjp_one(chol, chol_bar, ab_bar):
    """Reverse of `cholesky_one`, last column to first. chol_bar (M, N) is overwritten; ab_bar (M, N)."""
    M, N = chol.shape
    for j in range(N - 1, -1, -1):
        for o in range(min(M, N - j), M):
            ab_bar[o, j] = zero(chol)
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
    _, M, N = ab.shape
    width = scratch_width(hi - lo)
    bands, factors = np.empty((M, N, width), ab.dtype), np.empty((M, N, width), ab.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for f in range(first, hi):
                cholesky_one(ab[f], chol[f])
        else:
            neighbours(first, n, owners)
            pack_systems(ab, owners, starts, bands)
            cholesky_one(lanes(bands), lanes(factors))
            unpack_systems(factors, owners, starts, chol)
        for f in range(first, first + n):
            info[f] = first_bad_pivot(chol[f])
            if info[f] != 0:
                chol[f, :, :] = math.nan


@kernel
def cholesky_vjp(chol, chol_bar, ab_bar, lo, hi):
    """ab_bar[f] from chol_bar[f] (overwritten) for lo <= f < hi."""
    _, M, N = chol.shape
    width = scratch_width(hi - lo)
    factors, bars = np.empty((M, N, width), chol.dtype), np.empty((M, N, width), chol.dtype)
    results = np.empty((M, N, width), chol.dtype)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for f in range(first, hi):
                cholesky_vjp_one(chol[f], chol_bar[f], ab_bar[f])
        else:
            neighbours(first, n, owners)
            pack_systems(chol, owners, starts, factors)
            pack_systems(chol_bar, owners, starts, bars)
            cholesky_vjp_one(lanes(factors), lanes(bars), lanes(results))
            unpack_systems(results, owners, starts, ab_bar)
