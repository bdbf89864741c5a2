"""Fused log-densities of data."""

from __future__ import annotations

import numpy as np

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import exp, log1p

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
def bernoulli(x, x_rows, logits, log_prob, residual, lo, hi):
    """log_prob[r] = sum_j x_j a_j - softplus(a_j), and residual[r, j] = x_j - sigmoid(a_j), its gradient in the logits.

    x (Q, N), x_rows (R,): the row of x that belongs to row r; logits (R, N); residual (R, N), or (0, N) if not wanted.
    One exponential serves both: with e = e^-|a|, softplus(a) = max(a, 0) + log(1 + e), sigmoid(a) = (1 or e) / (1 + e).
    """
    N = logits.shape[1]
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    x, logits, residual = borrowed(x), borrowed(logits), borrowed(residual)
    e = np.empty(N, logits.dtype)
    for r in range(lo, hi):
        data, a = x[x_rows[r]], logits[r]
        total = zero
        if residual.shape[0] == 0:
            for j in range(N):
                e[j] = exp(-abs(a[j]))
                total += data[j] * a[j] - max(a[j], zero)
        else:
            gradient = residual[r]
            for j in range(N):
                e[j] = exp(-abs(a[j]))
                total += data[j] * a[j] - max(a[j], zero)
                gradient[j] = data[j] - (one if a[j] >= zero else e[j]) / (one + e[j])
        log_prob[r] = total - sum_of_log1p(e)
