"""Recurrences on a sparse lower-triangular factor L in diagonal storage.

chol[k, j] = L[j + offsets[k], j], shape (M, N), offsets increasing from 0. Entries with j + offsets[k] >= N do not exist:
they are never read, and written as zero. Letters: i row, j column, k diagonal, f factor, r right-hand side.

A batch is F factors and R right-hand sides. The t-th solve takes factor owner[t] and right-hand side row[t], in an order
that keeps those of one factor together, so that K samples which share a factor read it once and never copy it.

The `_one` functions are the recurrences, for one system. Where LANES systems stand side by side (see `_lanes`) the same text
runs on vectors; fewer than FEW are done one by one. `lo` is then a multiple of LANES, so that every split of the range
makes the same groups and hence the same bits. A failing lane computes nonsense, is found by its pivots and becomes NaN.
"""

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
    unpack_sums,
    unpack_systems,
    zero,
)
from gvae.kernels.cpu._math import log, scaled

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
LN2 = math.log(2)
FACTORS = 128  # numbers of [sqrt(1/2), sqrt(2)) whose product cannot leave float32's range: it is at most 2^64
CHUNK = 1024  # numbers added in their own precision, before they are added in float64
LONG = 64  # columns from which loops along a system are faster than lanes, where nothing is recursive
FEW = 8  # a group of fewer systems than this is faster one by one (docs/layout.md)


@kernel
def scratch_width(systems):
    """LANES, or 1 where no group is large enough for lanes: one long system must not pay for 32."""
    return LANES if systems >= FEW else 1


@kernel
def first_bad_pivot(chol):
    """0, or the 1-based column of the first diagonal entry of chol (M, N) that is not positive."""
    N = chol.shape[1]
    good = 0
    for j in range(N):  # a count, unlike a search, runs on vectors
        good += chol[0, j] > 0
    if good == N:
        return 0
    j = 0
    while chol[0, j] > 0:
        j += 1
    return j + 1


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
def move(x, y):
    """y = x, both (N,); an assignment of slices takes three times as long, and two seconds more to compile."""
    for j in range(len(y)):
        y[j] = x[j]


@kernel
def add(x, y):
    """y += x, both (N,)."""
    for j in range(len(y)):
        y[j] += x[j]


@kernel
def outer_one(u, v, offsets, band):
    """band[k, j] -= u[j + offsets[k]] v[j]; u, v (N,), band (M, N)."""
    M, N = band.shape
    for j in range(N):
        for k in range(M):
            i = j + offsets[k]
            if i >= N:
                break
            band[k, j] -= u[i] * v[j]


@kernel
def first_outer_one(chol, total, u, v, offsets, band):
    """As `outer_one`, of a band that held total / L_jj on the diagonal and zeros; chol has 1 / L_jj, and may be the band."""
    M, N = band.shape
    for j in range(N):
        band[0, j] = total * chol[0, j] - u[j] * v[j]
        for k in range(1, M):
            i = j + offsets[k]
            band[k, j] = -(u[i] * v[j]) if i < N else zero(band)


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


@kernel
def vjp_scratch(batch, K):
    """Lanes for a factor, for its cotangent, which takes the factor's place if there is one right-hand side, for two
    vectors, and for the summary of the pivots."""
    _, M, N = batch.shape
    factors = np.empty((M, N, LANES), batch.dtype)
    bars = factors if K == 1 else np.empty((M, N, LANES), batch.dtype)
    return factors, bars, np.empty((2, N, LANES), batch.dtype), np.empty((3, LANES), batch.dtype)


@kernel
def starts_of(rows, owners, k, N, starts):
    """starts[l] = where the row rows[owners[l], k] begins in an array (R, N)."""
    for l in range(LANES):
        starts[l] = rows[owners[l], k] * N


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


@kernel
def subtract_multiple(x, scale, y):
    """y -= scale x, x and y (N,)."""
    for j in range(len(y)):
        y[j] -= scale * x[j]


@kernel
def multiply_triangular_one(chol, offsets, x, y):
    """y = L x; x, y (N,), not the same array."""
    M, N = chol.shape
    for i in range(N):
        y[i] = chol[0, i] * x[i]
    for k in range(1, M):
        n = max(N - offsets[k], 0)
        band, later = chol[k], y[N - n :]  # a slice of its own: an index that might be negative would not vectorise
        for j in range(n):
            later[j] += band[j] * x[j]


@kernel
def multiply_triangular_transposed_one(chol, offsets, x, y):
    """y = Lᵀ x; x, y (N,), not the same array."""
    M, N = chol.shape
    for j in range(N):
        y[j] = chol[0, j] * x[j]
    for k in range(1, M):
        n = max(N - offsets[k], 0)
        band, later = chol[k], x[N - n :]
        for j in range(n):
            y[j] += band[j] * later[j]


@kernel
def multiply_triangular(chol, offsets, owner, row, x, y, trans, lo, hi):
    """y[row[t]] = L x[row[t]] (or Lᵀ) with the factor owner[t], for lo <= t < hi; x, y (R, N), not the same array."""
    chol, x, y = borrowed(chol), borrowed(x), borrowed(y)
    for t in range(lo, hi):
        f, r = owner[t], row[t]
        if trans:
            multiply_triangular_transposed_one(chol[f], offsets, x[r], y[r])
        else:
            multiply_triangular_one(chol[f], offsets, x[r], y[r])


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
def subtract(x, y, d):
    """d = x - y, all (N,)."""
    for j in range(len(d)):
        d[j] = x[j] - y[j]


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


@kernel
def multiply_columns(chol, offsets, x, y, trans, lo, hi):
    """y[lo:hi] of y = L x (or Lᵀ x) for one long system: chol (M, N), x, y (N,), not the same array."""
    M, N = chol.shape
    chol, x, y = borrowed(chol), borrowed(x), borrowed(y)
    pivots, vector, part = chol[0, lo:hi], x[lo:hi], y[lo:hi]
    for j in range(len(part)):
        part[j] = pivots[j] * vector[j]
    for k in range(1, M):
        o = offsets[k]
        if trans:
            n = max(min(hi, N - o) - lo, 0)
            band, vector, part = chol[k, lo : lo + n], x[lo + o : lo + o + n], y[lo : lo + n]
        else:
            first = max(lo, o)
            n = max(hi - first, 0)
            band, vector, part = chol[k, first - o : first - o + n], x[first - o : first - o + n], y[first : first + n]
        for j in range(n):
            part[j] += band[j] * vector[j]


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


@kernel
def outer(u, v, rows, offsets, sign, band, lo, hi):
    """band[f, k, j] = sign * sum over r in rows[f] of u[r, j + offsets[k]] v[r, j]: what L's pattern holds of sum u vᵀ."""
    _, M, N = band.shape
    u, v, band, rows = borrowed(u), borrowed(v), borrowed(band), borrowed(rows)
    for f in range(lo, hi):
        for k in range(M):
            n = max(N - offsets[k], 0)
            total = band[f, k]
            total[:] = 0
            for r in rows[f]:
                a, b = u[r, N - n :], v[r, :n]
                for j in range(n):
                    total[j] += sign * a[j] * b[j]


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
