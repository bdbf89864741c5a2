"""Optimisers on a flat buffer of parameters."""

from __future__ import annotations

import math

from gvae.kernels.cpu._jit import kernel


@kernel
def adam(gradient, parameters, m, v, rate, beta1, beta2, eps, lo, hi):
    """One Adam step on elements lo <= i < hi, in one pass. `rate` and `eps` already hold the bias corrections.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - rate m / (sqrt(v) + eps)      (scalars in p's dtype)
    """
    one = parameters.dtype.type(1)
    gradient, parameters, m, v = gradient[lo:hi], parameters[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(gradient.shape[0]):  # from 0: an index that might be negative keeps LLVM from using SIMD (3x here)
        g = gradient[i]
        m[i] = beta1 * m[i] + (one - beta1) * g
        v[i] = beta2 * v[i] + (one - beta2) * g * g
        parameters[i] -= rate * m[i] / (math.sqrt(v[i]) + eps)


@kernel
def square_sums(numbers, size, sums, lo, hi):
    """sums[i] = the sum of squares of the i-th piece of so many numbers (the last one may be shorter), for lo <= i < hi."""
    for i in range(lo, hi):
        piece = numbers[i * size : (i + 1) * size]
        total = sums.dtype.type(0)
        for j in range(len(piece)):
            total += piece[j] * piece[j]
        sums[i] = total
