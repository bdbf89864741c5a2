"""Bias and activation in one pass over a matrix product, and the activation's derivative from its output."""

from __future__ import annotations

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._math import exp, expm1, log1p

# codes: the position in gvae.ops.dense.ACTIVATIONS
IDENTITY, RELU, LEAKY_RELU, ELU, TANH, SIGMOID, SOFTPLUS = range(7)


@kernel
def bias_activation(a, bias, activation, lo, hi):
    """a[i] <- f(a[i] + bias) for rows lo <= i < hi; a is (rows, O), bias (O,)."""
    O = bias.shape[0]
    zero, one, two = bias.dtype.type(0), bias.dtype.type(1), bias.dtype.type(2)
    slope = bias.dtype.type(0.01)
    for i in range(lo, hi):
        if activation == IDENTITY:
            for j in range(O):
                a[i, j] += bias[j]
        elif activation == RELU:
            for j in range(O):
                t = a[i, j] + bias[j]
                a[i, j] = zero if t <= zero else t  # so that NaN passes
        elif activation == LEAKY_RELU:
            for j in range(O):
                t = a[i, j] + bias[j]
                a[i, j] = slope * t if t <= zero else t
        elif activation == ELU:
            for j in range(O):
                t = a[i, j] + bias[j]
                e = expm1(min(t, zero))
                a[i, j] = t if t > zero else e
        elif activation == TANH:
            for j in range(O):
                t = a[i, j] + bias[j]
                e = expm1(-two * abs(t))  # tanh |t| = -e / (2 + e), accurate near 0
                y = -e / (two + e)
                a[i, j] = y if t >= zero else -y
        elif activation == SIGMOID:
            for j in range(O):
                t = a[i, j] + bias[j]
                e = exp(-abs(t))
                a[i, j] = (one if t >= zero else e) / (one + e)
        else:
            for j in range(O):
                t = a[i, j] + bias[j]
                a[i, j] = max(t, zero) + log1p(exp(-abs(t)))


@kernel
def activation_vjp(y_bar, y, a_bar, activation, lo, hi):
    """a_bar[i] = y_bar[i] f'(a[i]) for elements lo <= i < hi, with f' written in y = f(a)."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    slope = y.dtype.type(0.01)
    y_bar, y, a_bar = y_bar[lo:hi], y[lo:hi], a_bar[lo:hi]
    n = y.shape[0]  # loops from 0: an index that might be negative keeps LLVM from using SIMD
    if activation == IDENTITY:
        for i in range(n):
            a_bar[i] = y_bar[i]
    elif activation == RELU:
        for i in range(n):
            a_bar[i] = y_bar[i] if y[i] > zero else zero
    elif activation == LEAKY_RELU:
        for i in range(n):
            a_bar[i] = y_bar[i] if y[i] > zero else slope * y_bar[i]
    elif activation == ELU:
        for i in range(n):
            a_bar[i] = y_bar[i] if y[i] > zero else y_bar[i] * (y[i] + one)
    elif activation == TANH:
        for i in range(n):
            a_bar[i] = y_bar[i] * (one - y[i] * y[i])
    elif activation == SIGMOID:
        for i in range(n):
            a_bar[i] = y_bar[i] * y[i] * (one - y[i])
    else:
        for i in range(n):
            a_bar[i] = y_bar[i] * -expm1(-y[i])  # 1 - e^-softplus(a) = sigmoid(a)
