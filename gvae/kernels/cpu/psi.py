"""The RBF kernel k(x, z) = v exp(-1/2 sum_q a_q (x_q - z_q)^2) and its first two moments under Gaussian inputs.

Rows x_n ~ N(mean_n, diag variance_n), n < N, and z (M, Q). With c = 1 / (f a S + 1) and u = a c, where f = 1 for the first
moment and f = 2 for the second, and with w = (a - u) / 4 = a S u / 2, the terms of row n are

    psi1:  v prod_q sqrt(c) exp(-h_m),                                         h_m = sum_q u_q/2 (mean_q - z_mq)^2
    psi2:  v^2 prod_q sqrt(c) exp(-h_m - h_m' - sum_q w_q (z_mq - z_m'q)^2)

All terms of an exponent have one sign, so none cancels. BLOCK rows are in SIMD lanes. Sums over rows are of P parts, which
shapes decide, in float64; the kernels leave the factor v or v^2 of sums and derivatives to their caller.
"""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import decay

BLOCK = 64  # rows


@kernel(inner=True)
def load_rows(mean, variance, z, precision, f, first, last, x, u, w, k, h):
    """Rows first .. last - 1 in lanes: their means x, u and w (Q, BLOCK), k = prod_q sqrt(c) (BLOCK,) and h (M, BLOCK). The
    lanes that are left repeat the last row, with k = 0: where its terms are finite, theirs are 0."""
    M, Q = z.shape
    zero, one, half = z.dtype.type(0), z.dtype.type(1), z.dtype.type(0.5)
    k[:], h[:] = zero, zero
    k[: last - first] = one
    for q in range(Q):
        a = precision[q]
        for n in range(last - first):
            s = a * variance[first + n, q]
            c = one / (z.dtype.type(f) * s + one)
            x[q, n], u[q, n], w[q, n] = mean[first + n, q], a * c, half * s * (a * c)
            k[n] *= math.sqrt(c)
        for n in range(last - first, BLOCK):
            x[q, n], u[q, n], w[q, n] = x[q, last - first - 1], u[q, last - first - 1], w[q, last - first - 1]
    for m in range(M):
        row = h[m]
        for q in range(Q):
            xs, us, center = x[q], u[q], z[m, q]
            for n in range(BLOCK):
                gap = xs[n] - center
                row[n] += half * us[n] * (gap * gap)


@kernel(inner=True)
def move_bars(variance, precision, z, f, first, last, x, u, k, r, d, mean_bar, variance_bar, z_bar, sums):
    """From r (M, BLOCK), the cotangents of log-terms that -h_m enters, and d (Q, BLOCK), those of -w, both before the factor
    k, the cotangents of rows first .. last - 1, and what they add to z_bar (M, Q) and to sums (Q + 1,): the cotangents of
    the precisions, and the sum of all terms."""
    M, Q = z.shape
    one, zero, half = z.dtype.type(1), z.dtype.type(0), z.dtype.type(0.5)
    factor = z.dtype.type(f)
    total, linear, square = np.zeros(BLOCK, z.dtype), np.empty(BLOCK, z.dtype), np.empty(BLOCK, z.dtype)
    for m in range(M):
        row = r[m]
        for n in range(BLOCK):
            row[n] *= k[n]
            total[n] += row[n]
    for n in range(last - first):
        sums[Q] += np.float64(total[n])
    for q in range(Q):
        xs, us, between, a = x[q], u[q], d[q], precision[q]
        linear[:] = zero
        square[:] = zero
        for m in range(M):
            row, center, of_z = r[m], z[m, q], zero
            for n in range(BLOCK):
                gap = xs[n] - center
                moved = row[n] * gap
                linear[n] += moved
                square[n] += moved * gap
                of_z += us[n] * moved
            z_bar[m, q] += np.float64(factor * of_z)
        of_a = zero
        for n in range(last - first):
            s = variance[first + n, q]
            c, e = one / (factor * a * s + one), k[n] * between[n]
            mean_bar[first + n, q] = -factor * us[n] * linear[n]
            variance_bar[first + n, q] = half * factor * us[n] * (factor * us[n] * (square[n] - half * half * e) - total[n])
            of_a += half * factor * c * (c * square[n] + total[n] * s) + half * e * us[n] * s * (one + c)
        sums[q] -= np.float64(of_a)


@kernel
def psi1(mean, variance, z, precision, scale, y, lo, hi):
    """y[n, m] = E k(x_n, z_m), for rows lo <= n < hi; scale (1,): v; y (N, M)."""
    wide_vectors()
    M, Q = z.shape
    mean, variance, z, y = borrowed(mean), borrowed(variance), borrowed(z), borrowed(y)
    x, u, w = np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype)
    k, h = np.empty(BLOCK, z.dtype), np.empty((M, BLOCK), z.dtype)
    for first in range(lo, hi, BLOCK):
        last = min(first + BLOCK, hi)
        load_rows(mean, variance, z, precision, 1, first, last, x, u, w, k, h)
        for m in range(M):
            row = h[m]
            for n in range(BLOCK):
                row[n] = scale[0] * k[n] * decay(row[n])
            for n in range(last - first):
                y[first + n, m] = row[n]


@kernel
def psi1_vjp(mean, variance, z, precision, y_bar, mean_bar, variance_bar, z_bar, sums, lo, hi):
    """Cotangents of the arguments of psi1 / v, of the parts lo <= p < hi of the rows.

    y_bar (N, M); mean_bar, variance_bar (N, Q); z_bar (P, M, Q) and sums (P, Q + 1), by parts: the last sum is that of
    y_bar psi1 / v, the others are the cotangents of the precisions.
    """
    wide_vectors()
    N, (M, Q), P = len(mean), z.shape, len(sums)
    mean, variance, z, y_bar = borrowed(mean), borrowed(variance), borrowed(z), borrowed(y_bar)
    mean_bar, variance_bar = borrowed(mean_bar), borrowed(variance_bar)
    x, u, w = np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype)
    k, h, d = np.empty(BLOCK, z.dtype), np.empty((M, BLOCK), z.dtype), np.zeros((Q, BLOCK), z.dtype)
    rows = -(-N // P)
    for p in range(lo, hi):
        z_bar[p], sums[p] = 0.0, 0.0
        for first in range(p * rows, min((p + 1) * rows, N), BLOCK):
            last = min(first + BLOCK, min((p + 1) * rows, N))
            load_rows(mean, variance, z, precision, 1, first, last, x, u, w, k, h)
            for m in range(M):
                row = h[m]
                for n in range(BLOCK):
                    row[n] = decay(row[n])
                for n in range(last - first):
                    row[n] *= y_bar[first + n, m]
            move_bars(variance, precision, z, 1, first, last, x, u, k, h, d, mean_bar, variance_bar, z_bar[p], sums[p])


@kernel(inner=True)
def exponents(z, w, m, j, h, e):
    """e[n] = h_m + h_j + sum_q w_q (z_mq - z_jq)^2 in the lanes n."""
    of_m, of_j = h[m], h[j]
    for n in range(BLOCK):
        e[n] = of_m[n] + of_j[n]
    for q in range(z.shape[1]):
        weight, square = w[q], (z[m, q] - z[j, q]) * (z[m, q] - z[j, q])
        for n in range(BLOCK):
            e[n] += weight[n] * square


@kernel
def psi2(mean, variance, z, precision, y, lo, hi):
    """y[p] = sum_n E k(z_m, x_n) k(x_n, z_m') / v^2 over the rows of part p, for parts lo <= p < hi; y (P, M, M)."""
    wide_vectors()
    N, (M, Q), P = len(mean), z.shape, len(y)
    mean, variance, z, y = borrowed(mean), borrowed(variance), borrowed(z), borrowed(y)
    x, u, w = np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype)
    k, h, e = np.empty(BLOCK, z.dtype), np.empty((M, BLOCK), z.dtype), np.empty(BLOCK, z.dtype)
    rows, zero = -(-N // P), z.dtype.type(0)
    for p in range(lo, hi):
        y[p] = 0.0
        for first in range(p * rows, min((p + 1) * rows, N), BLOCK):
            last = min(first + BLOCK, min((p + 1) * rows, N))
            load_rows(mean, variance, z, precision, 2, first, last, x, u, w, k, h)
            for m in range(M):
                for j in range(m + 1):
                    exponents(z, w, m, j, h, e)
                    total = zero
                    for n in range(BLOCK):
                        total += k[n] * decay(e[n])
                    y[p, m, j] += np.float64(total)
        for m in range(M):
            for j in range(m):
                y[p, j, m] = y[p, m, j]


@kernel
def psi2_vjp(mean, variance, z, precision, y_bar, mean_bar, variance_bar, z_bar, sums, lo, hi):
    """Cotangents of the arguments of psi2 / v^2, of the parts lo <= p < hi of the rows.

    y_bar (M, M), symmetric; the results as in `psi1_vjp`.
    """
    wide_vectors()
    N, (M, Q), P = len(mean), z.shape, len(sums)
    mean, variance, z, y_bar = borrowed(mean), borrowed(variance), borrowed(z), borrowed(y_bar)
    mean_bar, variance_bar = borrowed(mean_bar), borrowed(variance_bar)
    x, u, w = np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype)
    k, h, e = np.empty(BLOCK, z.dtype), np.empty((M, BLOCK), z.dtype), np.empty(BLOCK, z.dtype)
    r, d = np.empty((M, BLOCK), z.dtype), np.empty((Q, BLOCK), z.dtype)
    rows, zero, two = -(-N // P), z.dtype.type(0), z.dtype.type(2)
    largest = np.finfo(z.dtype).max
    for p in range(lo, hi):
        z_bar[p], sums[p] = 0.0, 0.0
        for first in range(p * rows, min((p + 1) * rows, N), BLOCK):
            last = min(first + BLOCK, min((p + 1) * rows, N))
            load_rows(mean, variance, z, precision, 2, first, last, x, u, w, k, h)
            r[:], d[:] = zero, zero
            for m in range(M):
                of_m = r[m]
                for j in range(m):
                    exponents(z, w, m, j, h, e)
                    of_j, bar = r[j], y_bar[m, j]
                    for n in range(BLOCK):
                        e[n] = bar * decay(e[n])
                        of_m[n] += e[n]
                        of_j[n] += e[n]
                        e[n] *= two
                    for q in range(Q):
                        gap, weight, between, of_z = z[m, q] - z[j, q], w[q], d[q], zero
                        squared = min(gap * gap, largest)  # where it would overflow, e is 0
                        for n in range(BLOCK):
                            between[n] += e[n] * squared
                            of_z += k[n] * weight[n] * e[n]
                        z_bar[p, m, q] -= np.float64(two * of_z * gap)
                        z_bar[p, j, q] += np.float64(two * of_z * gap)
                exponents(z, w, m, m, h, e)
                for n in range(BLOCK):
                    of_m[n] += y_bar[m, m] * decay(e[n])
            move_bars(variance, precision, z, 2, first, last, x, u, k, r, d, mean_bar, variance_bar, z_bar[p], sums[p])
