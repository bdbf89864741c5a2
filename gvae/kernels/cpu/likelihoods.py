"""Fused log-densities of data."""

from __future__ import annotations

import numpy as np

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import decay, inverse1p, log1p
from gvae.kernels.cpu._products import packed_whole, parts, product_of_packed, product_part
from gvae.kernels.cpu.affine import affine_input_vjp

HALVINGS = 6  # after which a number stands for 64 factors of at most 2: far from float32's end


@kernel
def joined(e):
    """Numbers e (N,) in [0, 1] <- fewer of them, with the same sum of log(1 + e_j). Returns how many.

    (1 + p)(1 + q) = 1 + (p + q + p q): factors join, with all their relative accuracy, before 64 share one logarithm.
    """
    n = len(e)
    for _ in range(HALVINGS):
        half = n // 2
        first, last = e[:half], e[n - half : n]
        for j in range(half):
            first[j] += last[j] + first[j] * last[j]
        n -= half
    return n


@kernel
def bernoulli_row(x, a, e, residual):
    """sum_j x_j a_j - max(a_j, 0) and e_j = e^-|a_j|; with `residual` a_j becomes x_j - sigmoid(a_j).

    One exponential serves both: softplus(a) = max(a, 0) + log(1 + e), sigmoid(a) = (1 or e) / (1 + e).
    """
    wide_vectors()
    zero, one = a.dtype.type(0), a.dtype.type(1)
    total = zero
    if residual:
        for j in range(len(e)):
            e[j] = decay(abs(a[j]))
            total += x[j] * a[j] - max(a[j], zero)
            a[j] = x[j] - (one if a[j] >= zero else e[j]) * inverse1p(e[j])
    else:
        for j in range(len(e)):
            e[j] = decay(abs(a[j]))
            total += x[j] * a[j] - max(a[j], zero)
    return total


@kernel
def bernoulli_rows(x, x_rows, logits, log_prob, residual, e, rest):
    """log_prob[r] = sum_j x_j a_j - softplus(a_j) of rows r of the logits; with `residual` they become its gradient in a.

    e (N,), rest (rows, most that `joined` leaves of N): scratch. What `joined` leaves of a row is shorter than a loop in
    SIMD lanes should be: the logarithms are of all rows together.
    """
    wide_vectors()
    R, width = rest.shape
    for r in range(R):
        log_prob[r] = bernoulli_row(x[x_rows[r]], logits[r], e, residual)
        for j in range(joined(e)):
            rest[r, j] = e[j]
    flat = rest.reshape(-1)
    for j in range(R * width):
        flat[j] = log1p(flat[j])
    for r in range(R):
        for j in range(width):
            log_prob[r] -= rest[r, j]


@kernel
def left(n):
    """How many numbers `joined` leaves of n."""
    for _ in range(HALVINGS):
        n -= n // 2
    return n


CHUNK = 96  # rows whose logits stay in a second-level cache


@kernel
def bernoulli(x, x_rows, logits, log_prob, residual, lo, hi):
    """log_prob[r] = sum_j x_j a_j - softplus(a_j), and residual[r, j] = x_j - sigmoid(a_j), its gradient in the logits.

    x (Q, N), x_rows (R,): the row of x that belongs to row r; logits (R, N); residual (R, N), or (0, N) if not wanted.
    """
    N = logits.shape[1]
    wanted = residual.shape[0] > 0
    x, logits, residual = borrowed(x), borrowed(logits), borrowed(residual)
    e, rest = np.empty(N, logits.dtype), np.empty((min(CHUNK, hi - lo), left(N)), logits.dtype)
    for top in range(lo, hi, CHUNK):
        end = min(top + CHUNK, hi)
        a = logits[top:end]
        if wanted:
            a = residual[top:end]
            for r in range(end - top):
                for j in range(N):  # an assignment of slices takes two seconds to compile
                    a[r, j] = logits[top + r, j]
        bernoulli_rows(x, x_rows[top:end], a, log_prob[top:end], wanted, e, rest[: end - top])


@kernel
def bernoulli_affine(x, x_rows, h, weight, bias, log_prob, residual, lo, hi):
    """`bernoulli` of logits H W + b, which are never kept: h (R, I), weight (I, N), bias (N,)."""
    I, N = weight.shape
    wanted = residual.shape[0] > 0
    x, residual = borrowed(x), borrowed(residual)
    most = min(CHUNK, hi - lo)
    logits = residual if wanted else np.empty((most, N), bias.dtype)
    e, rest = np.empty(N, bias.dtype), np.empty((most, left(N)), bias.dtype)
    packed = packed_whole(weight.reshape(-1), N, 1, I, (0, N), bias)
    for top in range(lo, hi, CHUNK):
        end = min(top + CHUNK, hi)
        a = logits[top:end] if wanted else logits[: end - top]
        product_of_packed(h.reshape(-1)[top * I :], I, 1, packed, bias, a.reshape(-1), N, I, (0, end - top), (0, N))
        bernoulli_rows(x, x_rows[top:end], a, log_prob[top:end], wanted, e, rest[: end - top])


@kernel
def bernoulli_affine_input_vjp(log_prob_bar, residual, weight, h_bar, by_rows, lo, hi):
    """h_bar = diag(s) R Wᵀ for rows lo <= r < hi or, unless by_rows, for columns; s (rows,) are the cotangents."""
    affine_input_vjp(residual, weight, h_bar, by_rows, lo, hi)
    R, I = h_bar.shape
    rows, columns = ((lo, hi), (0, I)) if by_rows else ((0, R), (lo, hi))
    for r in range(rows[0], rows[1]):
        s, row = log_prob_bar[r], h_bar[r, columns[0] : columns[1]]
        for i in range(len(row)):
            row[i] *= s


@kernel
def bernoulli_affine_weight_vjp(log_prob_bar, residual, h, weight_bar, bias_bar, lo, hi):
    """weight_bar = Hᵀ diag(s) R and bias_bar = sᵀ R for columns lo <= j < hi; s (rows,) are the cotangents, R residuals."""
    wide_vectors()
    (R, N), I = residual.shape, len(weight_bar)
    b, c, zeros = residual.reshape(-1), weight_bar.reshape(-1), np.zeros(N, residual.dtype)
    scaled = np.empty((-(-R // parts(R)), I), residual.dtype)  # diag(s) H
    sums = bias_bar[lo:hi]
    sums[:] = 0
    for part in range(parts(R)):
        first, last = part * R // parts(R), (part + 1) * R // parts(R)
        for r in range(first, last):
            s, row, x, y = log_prob_bar[r], residual[r, lo:hi], h[r], scaled[r - first]
            for j in range(len(row)):
                sums[j] += s * row[j]
            for i in range(I):
                y[i] = s * x[i]
        product_part(scaled.reshape(-1), 1, I, b[first * N :], N, 1, zeros, part, c, N, last - first, (0, I), (lo, hi))
