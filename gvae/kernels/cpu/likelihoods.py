"""Fused log-densities of data."""

from __future__ import annotations

import numpy as np

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import decay, inverse1p, log1p
from gvae.kernels.cpu._products import packed_whole, product, product_of_packed

HALVINGS = 6  # after which a number stands for 64 factors of at most 2: far from float32's end


@kernel
def sum_of_log1p(e):
    """sum log(1 + e_j) of numbers e (N,) in [0, 1], which are overwritten.

    (1 + p)(1 + q) = 1 + (p + q + p q): factors join, with all their relative accuracy, before 64 share one logarithm.
    """
    n = len(e)
    for _ in range(HALVINGS):
        half = n // 2
        first, last = e[:half], e[n - half : n]
        for j in range(half):
            first[j] += last[j] + first[j] * last[j]
        n -= half
    total = e.dtype.type(0)
    for j in range(n):
        total += log1p(e[j])
    return total


@kernel
def bernoulli_row(x, a, e, residual):
    """sum_j x_j a_j - softplus(a_j); with `residual` a_j becomes x_j - sigmoid(a_j), its gradient in the logits a.

    One exponential serves both: with e = e^-|a|, softplus(a) = max(a, 0) + log(1 + e), sigmoid(a) = (1 or e) / (1 + e).
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
    return total - sum_of_log1p(e)


@kernel
def bernoulli(x, x_rows, logits, log_prob, residual, lo, hi):
    """log_prob[r] = sum_j x_j a_j - softplus(a_j), and residual[r, j] = x_j - sigmoid(a_j), its gradient in the logits.

    x (Q, N), x_rows (R,): the row of x that belongs to row r; logits (R, N); residual (R, N), or (0, N) if not wanted.
    """
    wanted = residual.shape[0] > 0
    x, logits, residual = borrowed(x), borrowed(logits), borrowed(residual)
    e = np.empty(logits.shape[1], logits.dtype)
    for r in range(lo, hi):
        a = logits[r]
        if wanted:
            residual[r] = a
            a = residual[r]
        log_prob[r] = bernoulli_row(x[x_rows[r]], a, e, wanted)


CHUNK = 96  # rows whose logits stay in a second-level cache


@kernel
def bernoulli_affine(x, x_rows, h, weight, bias, log_prob, residual, lo, hi):
    """`bernoulli` of logits H W + b, which are never kept: h (R, I), weight (I, N), bias (N,)."""
    I, N = weight.shape
    wanted = residual.shape[0] > 0
    x, residual = borrowed(x), borrowed(residual)
    logits = residual if wanted else np.empty((min(CHUNK, hi - lo), N), bias.dtype)
    e = np.empty(N, bias.dtype)
    packed = packed_whole(weight.reshape(-1), N, 1, I, (0, N), bias)
    for top in range(lo, hi, CHUNK):
        first, rows = top if wanted else 0, min(CHUNK, hi - top)
        a, c = h.reshape(-1)[top * I :], logits.reshape(-1)[first * N :]
        product_of_packed(a, I, 1, packed, bias, c, N, I, (0, rows), (0, N))
        for r in range(rows):
            log_prob[top + r] = bernoulli_row(x[x_rows[top + r]], logits[first + r], e, wanted)


@kernel
def bernoulli_affine_weight_vjp(log_prob_bar, residual, scaled, weight_bar, bias_bar, lo, hi):
    """weight_bar = (diag(s) H)ᵀ R and bias_bar = sᵀ R for columns lo <= j < hi; s (rows,) are the cotangents, R the
    residuals and `scaled` diag(s) H."""
    (R, N), I = residual.shape, len(weight_bar)
    sums = bias_bar[lo:hi]
    sums[:] = 0
    for r in range(R):
        s, row = log_prob_bar[r], residual[r, lo:hi]
        for j in range(len(row)):
            sums[j] += s * row[j]
    a, b, zeros = scaled.reshape(-1), residual.reshape(-1), np.zeros(N, residual.dtype)
    product(a, 1, I, b, N, 1, zeros, weight_bar.reshape(-1), N, R, (0, I), (lo, hi))
