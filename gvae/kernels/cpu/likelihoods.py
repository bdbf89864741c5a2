"""Fused log-densities of data."""

from __future__ import annotations

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._math import exp, log1p


@kernel
def bernoulli(x, x_rows, logits, log_prob, residual, lo, hi):
    """log_prob[r] = sum_j x_j a_j - softplus(a_j), and residual[r, j] = x_j - sigmoid(a_j), its gradient in the logits.

    x (Q, N), x_rows (R,): the row of x that belongs to row r; logits (R, N); residual (R, N), or (0, N) if not wanted.
    One exponential serves both: with e = e^-|a|, softplus(a) = max(a, 0) + log(1 + e), sigmoid(a) = (1 or e) / (1 + e).
    """
    N = logits.shape[1]
    zero, one = logits.dtype.type(0), logits.dtype.type(1)
    if residual.shape[0] == 0:
        for r in range(lo, hi):
            q = x_rows[r]
            total = zero
            for j in range(N):
                a = logits[r, j]
                total += x[q, j] * a - max(a, zero) - log1p(exp(-abs(a)))
            log_prob[r] = total
    else:
        for r in range(lo, hi):
            q = x_rows[r]
            total = zero
            for j in range(N):
                a = logits[r, j]
                e = exp(-abs(a))
                total += x[q, j] * a - max(a, zero) - log1p(e)
                residual[r, j] = x[q, j] - (one if a >= zero else e) / (one + e)
            log_prob[r] = total
