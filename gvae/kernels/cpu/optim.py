"""Optimisers on a flat buffer of parameters."""

from __future__ import annotations

import math

from gvae.kernels.cpu._jit import kernel

LINE = 64  # bytes, of the caches


@kernel
def adam(gradient, parameters, m, v, rate, beta1, beta2, eps, lo, hi):
    """One Adam step on elements lo <= i < hi, in one pass. `rate` and `eps` already hold the bias corrections.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - rate m / (sqrt(v) + eps)      (scalars in p's dtype)
    """
    one = parameters.dtype.type(1)
    lead = -parameters[lo:hi].ctypes.data % LINE // parameters.itemsize  # stores across lines take three times as long
    for first, last in ((lo, min(lo + lead, hi)), (min(lo + lead, hi), hi)):
        g, p, m_, v_ = gradient[first:last], parameters[first:last], m[first:last], v[first:last]
        for i in range(g.shape[0]):  # from 0: an index that might be negative keeps LLVM from using SIMD (3x here)
            m_[i] = beta1 * m_[i] + (one - beta1) * g[i]
            v_[i] = beta2 * v_[i] + (one - beta2) * g[i] * g[i]
            p[i] -= rate * m_[i] / (math.sqrt(v_[i]) + eps)


@kernel
def adamw(gradient, is_weight, parameters, m, v, rate, beta1, beta2, eps, decay, lo, hi):
    """As `adam`, with weight decay where `is_weight` is 1, and none where it is 0.

    p <- p - (rate m / (sqrt(v) + eps) + decay is_weight p)
    """
    one = parameters.dtype.type(1)
    lead = -parameters[lo:hi].ctypes.data % LINE // parameters.itemsize
    for first, last in ((lo, min(lo + lead, hi)), (min(lo + lead, hi), hi)):
        g, d, p = gradient[first:last], is_weight[first:last], parameters[first:last]
        m_, v_ = m[first:last], v[first:last]
        for i in range(g.shape[0]):
            m_[i] = beta1 * m_[i] + (one - beta1) * g[i]
            v_[i] = beta2 * v_[i] + (one - beta2) * g[i] * g[i]
            p[i] -= rate * m_[i] / (math.sqrt(v_[i]) + eps) + decay * d[i] * p[i]


@kernel
def sgd(gradient, parameters, rate, lo, hi):
    """One step down the gradient on elements lo <= i < hi: p <- p - rate g."""
    g, p = gradient[lo:hi], parameters[lo:hi]
    for i in range(g.shape[0]):
        p[i] -= rate * g[i]


@kernel
def momentum(gradient, parameters, m, rate, beta, lo, hi):
    """One step with momentum on elements lo <= i < hi: m <- beta m + g;  p <- p - rate m."""
    g, p, m_ = gradient[lo:hi], parameters[lo:hi], m[lo:hi]
    for i in range(g.shape[0]):
        m_[i] = beta * m_[i] + g[i]
        p[i] -= rate * m_[i]


@kernel
def square_sums(numbers, size, sums, lo, hi):
    """sums[i] = the sum of squares of the i-th piece of `size` numbers (the last one may be shorter), for lo <= i < hi."""
    for i in range(lo, hi):
        piece = numbers[i * size : (i + 1) * size]
        total = sums.dtype.type(0)
        for j in range(len(piece)):
            total += piece[j] * piece[j]
        sums[i] = total
