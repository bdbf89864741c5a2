"""Affine layers: product, bias and activation, and their derivatives; those of the activations from their outputs."""

from __future__ import annotations

import numpy as np

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import decay, decaym1, inverse1p, log1p
from gvae.kernels.cpu._products import parts, product, product_part
from gvae.kernels.cpu._sparse import nonzero_bits, sparse_part

# codes: the position in gvae.ops.dense.ACTIVATIONS
IDENTITY, RELU, LEAKY_RELU, ELU, TANH, SIGMOID, SOFTPLUS = range(7)


@kernel
def activate(a, activation):
    """a <- f(a)."""
    wide_vectors()
    zero, one, two = a.dtype.type(0), a.dtype.type(1), a.dtype.type(2)
    slope = a.dtype.type(0.01)
    n = len(a)
    if activation == RELU:
        for j in range(n):
            a[j] = zero if a[j] <= zero else a[j]  # so that NaN passes
    elif activation == LEAKY_RELU:
        for j in range(n):
            a[j] = slope * a[j] if a[j] <= zero else a[j]
    elif activation == ELU:
        for j in range(n):
            e = decaym1(-min(a[j], zero))
            a[j] = a[j] if a[j] > zero else e
    elif activation == TANH:
        for j in range(n):
            e = decaym1(two * abs(a[j]))  # tanh |a| = -e / (2 + e), accurate near 0
            y = -e * inverse1p(one + e)
            a[j] = y if a[j] >= zero else -y
    elif activation == SIGMOID:
        for j in range(n):
            e = decay(abs(a[j]))
            a[j] = (one if a[j] >= zero else e) * inverse1p(e)
    elif activation == SOFTPLUS:
        for j in range(n):
            a[j] = max(a[j], zero) + log1p(decay(abs(a[j])))


@kernel
def bias_activation(a, bias, activation, lo, hi):
    """a[i] <- f(a[i] + bias) for rows lo <= i < hi; a is (rows, O), bias (O,)."""
    for i in range(lo, hi):
        row = a[i]
        for j in range(len(bias)):
            row[j] += bias[j]
        activate(row, activation)


@kernel
def activation_vjp(y, a_bar, activation, lo, hi):
    """a_bar[i] <- a_bar[i] f'(a[i]) for elements lo <= i < hi, with f' written in y = f(a)."""
    wide_vectors()
    zero, one = y.dtype.type(0), y.dtype.type(1)
    slope = y.dtype.type(0.01)
    y, a_bar = y[lo:hi], a_bar[lo:hi]
    n = y.shape[0]  # loops from 0: an index that might be negative keeps LLVM from using SIMD
    if activation == RELU:
        for i in range(n):
            a_bar[i] = a_bar[i] if y[i] > zero else zero
    elif activation == LEAKY_RELU:
        for i in range(n):
            a_bar[i] = a_bar[i] if y[i] > zero else slope * a_bar[i]
    elif activation == ELU:
        for i in range(n):
            a_bar[i] = a_bar[i] if y[i] > zero else a_bar[i] * (y[i] + one)
    elif activation == TANH:
        for i in range(n):
            a_bar[i] *= one - y[i] * y[i]
    elif activation == SIGMOID:
        for i in range(n):
            a_bar[i] = a_bar[i] * y[i] * (one - y[i])
    elif activation == SOFTPLUS:
        for i in range(n):
            a_bar[i] *= -decaym1(y[i])  # 1 - e^-softplus(a) = sigmoid(a)


@kernel
def affine(x, weight, bias, y, activation, by_rows, lo, hi):
    """y[r] = f(x_r W + b), for rows lo <= r < hi or, unless by_rows, for outputs; x is (rows, I), W (I, O), b (O,)."""
    (R, O), I = y.shape, len(weight)
    rows, columns = ((lo, hi), (0, O)) if by_rows else ((0, R), (lo, hi))
    first = rows[0]
    a, b, c = x.reshape(-1), weight.reshape(-1), y.reshape(-1)
    few, binary, bits = nonzero_bits(a[first * I :], I, rows[1] - first, I)
    if few:
        sparse_part(bits, False, binary, a[first * I :], I, 1, b, O, bias, 0, c[first * O :], O, I, rows[1] - first, columns)
    else:
        product(a, I, 1, b, O, 1, bias, c, O, I, rows, columns)
    if activation != IDENTITY:
        if by_rows:
            activate(y.reshape(-1)[lo * O : hi * O], activation)
        else:
            for r in range(R):
                activate(y[r, lo:hi], activation)


@kernel
def affine_weight_vjp(y, x, a_bar, weight_bar, bias_bar, activation, lo, hi):
    """a_bar, which is y_bar, <- y_bar f'(a); weight_bar = Xᵀ Ā and bias_bar, the sums over rows of Ā; for outputs
    lo <= j < hi.

    The identity leaves a_bar unchanged. Rows take part in parts, so that what is made of them is still in the
    caches when it is multiplied.
    """
    wide_vectors()
    (R, O), I = y.shape, len(weight_bar)
    y, a_bar = borrowed(y), borrowed(a_bar)
    a, b, c, zeros = x.reshape(-1), a_bar.reshape(-1), weight_bar.reshape(-1), np.zeros(O, y.dtype)
    sums = bias_bar[lo:hi]
    sums[:] = 0
    for part in range(parts(R)):
        first, last = part * R // parts(R), (part + 1) * R // parts(R)
        for r in range(first, last):
            if activation != IDENTITY:
                activation_vjp(y[r], a_bar[r], activation, lo, hi)
            row = a_bar[r, lo:hi]
            for j in range(len(row)):
                sums[j] += row[j]
        some, factor = a[first * I :], b[first * O :]
        few, binary, bits = nonzero_bits(some, I, last - first, I)
        if few:
            sparse_part(bits, True, binary, some, 1, I, factor, O, zeros, part, c, O, last - first, I, (lo, hi))
        else:
            product_part(some, 1, I, factor, O, 1, zeros, part, c, O, last - first, (0, I), (lo, hi))


@kernel
def affine_input_vjp(a_bar, weight, x_bar, by_rows, lo, hi):
    """x_bar = Ā Wᵀ, for rows lo <= r < hi or, unless by_rows, for inputs."""
    (R, O), I = a_bar.shape, len(weight)
    rows, columns = ((lo, hi), (0, I)) if by_rows else ((0, R), (lo, hi))
    zeros = np.zeros(I, x_bar.dtype)
    product(a_bar.reshape(-1), O, 1, weight.reshape(-1), 1, O, zeros, x_bar.reshape(-1), I, O, rows, columns)
