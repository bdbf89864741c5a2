"""Draws from N(mean, (L Lᵀ)⁻¹), with or without their log-density, and their reverse."""

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
    unpack,
    unpack_sums,
    unpack_systems,
)
from gvae.kernels.cpu._math import log
from gvae.kernels.cpu.banded.density import HALF_LOG_2PI, LN2, sum_of_logs, sum_of_squares, sums_of_squares
from gvae.kernels.cpu.banded.multiply import first_outer_one, outer_one
from gvae.kernels.cpu.banded.solve import (
    invert_and_substitute_transposed,
    judge,
    load_factors,
    mark_failed,
    solve_one,
    solve_scratch,
    starts_from,
    substitute,
    substitute_transposed,
    vjp_scratch,
)
from gvae.kernels.cpu.banded.systems import FEW, add, move, starts_of, subtract_multiple


@kernel
def sample(chol, offsets, owner, row, mean_row, eps_row, mean, eps, z, log_q, info, lo, hi):
    """z[row[t]] = mean + L⁻ᵀ eps and log_q[row[t]], its log-density, with the factor owner[t], for lo <= t < hi.

    mean[mean_row[t]] and eps[eps_row[t]]: owner, row, mean_row, eps_row (R,), z (R, N), which may be eps if the rows are
    the same and no density is wanted; log_q (R,), or (0,) if it is not.
    """
    N = chol.shape[2]
    chol, mean, eps, z = borrowed(chol), borrowed(mean), borrowed(eps), borrowed(z)
    scratch = solve_scratch(chol, hi - lo)
    factors, vectors, summary, indices = scratch
    starts, mean_starts = indices[1], indices[2]
    constants, squares, part = np.empty(LANES), np.empty(LANES), np.empty((1, LANES), chol.dtype)
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        if n < FEW:
            for t in range(first, first + n):
                f = owner[t]
                if len(log_q):
                    log_q[row[t]] = sum_of_logs(chol[f, 0]) - N * HALF_LOG_2PI - 0.5 * sum_of_squares(eps[eps_row[t]])
                move(eps[eps_row[t]], z[row[t]])
                solve_one(chol[f], offsets, z[row[t]], True, info, f)
                add(mean[mean_row[t]], z[row[t]])
        else:
            fresh = load_factors(chol, owner, first, n, scratch)
            starts_from(eps_row, first, n, N, starts)
            pack(eps.reshape(-1), starts, vectors)
            if len(log_q):
                sums_of_squares(lanes(vectors), part, squares)
            if fresh:
                invert_and_substitute_transposed(lanes(factors), offsets, lanes(vectors), lanes(summary))
                judge(chol, n, scratch, info)
                for l in range(LANES):
                    constants[l] = log(summary[1, l]) + LN2 * summary[2, l] - N * HALF_LOG_2PI
            else:
                substitute_transposed(lanes(factors), offsets, lanes(vectors))
            for l in range(n if len(log_q) else 0):
                log_q[row[first + l]] = constants[l] - 0.5 * squares[l]
            starts_from(row, first, n, N, starts)
            starts_from(mean_row, first, n, N, mean_starts)
            unpack_sums(vectors, starts, z.reshape(-1), mean_starts, mean.reshape(-1))
        for t in range(first, first + n):
            if info[owner[t]] != 0:
                z[row[t], :] = math.nan
                if len(log_q):
                    log_q[row[t]] = math.nan


@kernel
def sample_vjp(chol, offsets, rows, eps_rows, eps, z_bar, log_q_bar, eps_bar, mean_bar, chol_bar, lo, hi):
    """Reverse of `sample` for lo <= f < hi: chol_bar[f], eps_bar[r] = L⁻¹ z_bar[r] - log_q_bar[r] eps, r = rows[f, k], and
    mean_bar[f] = sum over k of z_bar[r], of means that are each factor's own.

    eps[eps_rows[f, k]]: rows, eps_rows (F, K), z_bar (R, N), log_q_bar (R,), eps_bar (R, N), mean_bar (F, N); of length 0
    if not wanted. The solution L⁻ᵀ eps is found once more: that takes less time than writing it and reading it again.
    """
    N = chol.shape[2]
    K = rows.shape[1]
    chol, chol_bar, mean_bar = borrowed(chol), borrowed(chol_bar), borrowed(mean_bar)
    eps, z_bar, eps_bar = borrowed(eps), borrowed(z_bar), borrowed(eps_bar)
    if K == 0:
        chol_bar[lo:hi] = 0
        mean_bar[lo : min(hi, len(mean_bar))] = 0
        return
    factors, bars, vectors, _ = vjp_scratch(chol, K)
    owners, starts = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    totals = np.zeros((1, LANES), chol.dtype)
    u, v = lanes(vectors[0]), lanes(vectors[1])
    for first in range(lo, hi, LANES):
        n = min(LANES, hi - first)
        neighbours(first, n, owners)
        pack_systems(chol, owners, starts, factors)
        if len(log_q_bar):
            for l in range(LANES):
                totals[0, l] = 0
                for k in range(K):
                    totals[0, l] += log_q_bar[rows[owners[l], k]]
        for k in range(K):
            starts_of(eps_rows, owners, k, N, starts)
            pack(eps.reshape(-1), starts, vectors[0])
            starts_of(rows, owners, k, N, starts)
            pack(z_bar.reshape(-1), starts, vectors[1])
            if k == 0:
                invert_and_substitute_transposed(lanes(factors), offsets, u, None)
            else:
                substitute_transposed(lanes(factors), offsets, u)
            substitute(lanes(factors), offsets, v)
            if len(eps_bar):
                unpack(vectors[1], starts, eps_bar.reshape(-1))
                for f in range(first, first + n if len(log_q_bar) else 0):
                    subtract_multiple(eps[eps_rows[f, k]], log_q_bar[rows[f, k]], eps_bar[rows[f, k]])
            for f in range(first, first + n if len(mean_bar) else 0):
                if k == 0:
                    move(z_bar[rows[f, k]], mean_bar[f])
                else:
                    add(z_bar[rows[f, k]], mean_bar[f])
            if k == 0:
                first_outer_one(lanes(factors), lanes(totals)[0], u, v, offsets, lanes(bars))
            else:
                outer_one(u, v, offsets, lanes(bars))
        unpack_systems(bars, owners, starts, chol_bar)
        mark_failed(chol, offsets, rows, first, first + n, eps_bar, chol_bar)
