"""Batch normalisation: each column of a matrix in units of its own deviation, then an activation; and its derivatives.

a is (R, O): R rows, of all samples and data, and O columns. Sums over rows are in a fixed order: each PART of rows in the
working type, the parts in float64.
"""

from __future__ import annotations

import math

import numpy as np

from gvae.kernels import NORM_EPSILON as EPSILON
from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu.affine import activate

PART = 64  # rows whose numbers are added up in the working type


@kernel
def moments(a, mean, variance, lo, hi):
    """mean[j] and variance[j] of the rows of a, (1/R) sum_r (a[r, j] - mean[j])^2, for columns lo <= j < hi.

    Rows count from the first one of their part: differences of near numbers are exact, however large the numbers are.
    """
    wide_vectors()
    R, n = len(a), hi - lo
    a, zero = borrowed(a), a.dtype.type(0)
    sums, squares = np.empty(n, a.dtype), np.empty(n, a.dtype)  # the sums of a part
    first, second = np.zeros(n), np.zeros(n)  # for the rows so far: the mean, and the sum of squared differences from it
    for top in range(0, R, PART):
        end = min(top + PART, R)
        count, origin = end - top, a[top, lo:hi]
        sums[:] = zero
        for r in range(top + 1, end):
            row = a[r, lo:hi]
            for j in range(n):
                sums[j] += row[j] - origin[j]
        for j in range(n):
            sums[j] /= a.dtype.type(count)
            squares[j] = zero
        for r in range(top, end):
            row = a[r, lo:hi]
            for j in range(n):
                difference = (row[j] - origin[j]) - sums[j]
                squares[j] += difference * difference
        for j in range(n):  # Chan, Golub and LeVeque (1983)
            difference = (np.float64(origin[j]) - first[j]) + np.float64(sums[j])
            first[j] += difference * (count / end)
            second[j] += np.float64(squares[j]) + difference * difference * (count * (top / end))
    for j in range(n):
        mean[lo + j] = first[j]
        variance[lo + j] = second[j] / R


@kernel
def normalize(a, mean, variance, scale, shift, activation, y, lo, hi):
    """y[r, j] = f(scale[j] (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON) + shift[j]) for rows lo <= r < hi."""
    wide_vectors()
    n, a, y = len(mean), borrowed(a), borrowed(y)
    factor = np.empty(n, a.dtype)
    for j in range(n):
        factor[j] = scale[j] / math.sqrt(np.float64(variance[j]) + EPSILON)
    for r in range(lo, hi):
        row, out = a[r], y[r]
        for j in range(n):
            out[j] = (row[j] - mean[j]) * factor[j] + shift[j]
        activate(out, activation)


@kernel
def sums(a, mean, variance, b, scale_bar, shift_bar, lo, hi):
    """shift_bar[j] = sum_r b[r, j] and scale_bar[j] = sum_r b[r, j] (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON), for
    columns lo <= j < hi."""
    wide_vectors()
    R, n = len(a), hi - lo
    a, b, center, zero = borrowed(a), borrowed(b), mean[lo:hi], a.dtype.type(0)
    first, second = np.empty(n, a.dtype), np.empty(n, a.dtype)  # the sums of a part
    of_all, products = np.zeros(n), np.zeros(n)
    for top in range(0, R, PART):
        first[:] = zero
        second[:] = zero
        for r in range(top, min(top + PART, R)):
            row, row_bar = a[r, lo:hi], b[r, lo:hi]
            for j in range(n):
                first[j] += row_bar[j]
                second[j] += row_bar[j] * (row[j] - center[j])
        for j in range(n):
            of_all[j] += np.float64(first[j])
            products[j] += np.float64(second[j])
    for j in range(n):
        shift_bar[lo + j] = of_all[j]
        scale_bar[lo + j] = products[j] / math.sqrt(np.float64(variance[lo + j]) + EPSILON)


@kernel
def input_vjp(a, mean, variance, scale, b, scale_bar, shift_bar, a_bar, lo, hi):
    """a_bar[r, j] = scale[j] (b[r, j] - shift_bar[j] / R - h scale_bar[j] / R) / sqrt(variance[j] + EPSILON), where
    h = (a[r, j] - mean[j]) / sqrt(variance[j] + EPSILON), for rows lo <= r < hi."""
    wide_vectors()
    R, n = a.shape
    a, b, a_bar = borrowed(a), borrowed(b), borrowed(a_bar)
    factor, of_all, slope = np.empty(n, a.dtype), np.empty(n, a.dtype), np.empty(n, a.dtype)
    for j in range(n):
        inverse = 1 / math.sqrt(np.float64(variance[j]) + EPSILON)
        factor[j] = scale[j] * inverse
        of_all[j] = shift_bar[j] / R
        slope[j] = scale_bar[j] * inverse / R
    for r in range(lo, hi):
        row, row_bar, out = a[r], b[r], a_bar[r]
        for j in range(n):
            out[j] = factor[j] * (row_bar[j] - of_all[j] - slope[j] * (row[j] - mean[j]))
