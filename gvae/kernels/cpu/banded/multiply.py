"""Products with L and Lᵀ, and outer products on L's pattern."""

from __future__ import annotations

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import borrowed, zero


@kernel
def multiply_triangular_one(chol, offsets, x, y):
    """y = L x; x, y (N,), not the same array."""
    M, N = chol.shape
    for i in range(N):
        y[i] = chol[0, i] * x[i]
    for k in range(1, M):
        n = max(N - offsets[k], 0)
        band, later = chol[k], y[N - n :]  # a slice of its own: an index that might be negative would not vectorise
        for j in range(n):
            later[j] += band[j] * x[j]


@kernel
def multiply_triangular_transposed_one(chol, offsets, x, y):
    """y = Lᵀ x; x, y (N,), not the same array."""
    M, N = chol.shape
    for j in range(N):
        y[j] = chol[0, j] * x[j]
    for k in range(1, M):
        n = max(N - offsets[k], 0)
        band, later = chol[k], x[N - n :]
        for j in range(n):
            y[j] += band[j] * later[j]


@kernel
def multiply_triangular(chol, offsets, owner, row, x, y, trans, lo, hi):
    """y[row[t]] = L x[row[t]] (or Lᵀ) with the factor owner[t], for lo <= t < hi; x, y (R, N), not the same array."""
    chol, x, y = borrowed(chol), borrowed(x), borrowed(y)
    for t in range(lo, hi):
        f, r = owner[t], row[t]
        if trans:
            multiply_triangular_transposed_one(chol[f], offsets, x[r], y[r])
        else:
            multiply_triangular_one(chol[f], offsets, x[r], y[r])


@kernel
def multiply_columns(chol, offsets, x, y, trans, lo, hi):
    """y[lo:hi] of y = L x (or Lᵀ x) for one long system: chol (M, N), x, y (N,), not the same array."""
    M, N = chol.shape
    chol, x, y = borrowed(chol), borrowed(x), borrowed(y)
    pivots, vector, part = chol[0, lo:hi], x[lo:hi], y[lo:hi]
    for j in range(len(part)):
        part[j] = pivots[j] * vector[j]
    for k in range(1, M):
        o = offsets[k]
        if trans:
            n = max(min(hi, N - o) - lo, 0)
            band, vector, part = chol[k, lo : lo + n], x[lo + o : lo + o + n], y[lo : lo + n]
        else:
            first = max(lo, o)
            n = max(hi - first, 0)
            band, vector, part = chol[k, first - o : first - o + n], x[first - o : first - o + n], y[first : first + n]
        for j in range(n):
            part[j] += band[j] * vector[j]


@kernel
def outer_one(u, v, offsets, band):
    """band[k, j] -= u[j + offsets[k]] v[j]; u, v (N,), band (M, N)."""
    M, N = band.shape
    for j in range(N):
        for k in range(M):
            i = j + offsets[k]
            if i >= N:
                break
            band[k, j] -= u[i] * v[j]


@kernel
def first_outer_one(chol, total, u, v, offsets, band):
    """As `outer_one`, of a band that held total / L_jj on the diagonal and zeros; chol has 1 / L_jj, and may be the band."""
    M, N = band.shape
    for j in range(N):
        band[0, j] = total * chol[0, j] - u[j] * v[j]
        for k in range(1, M):
            i = j + offsets[k]
            band[k, j] = -(u[i] * v[j]) if i < N else zero(band)


@kernel
def outer(u, v, rows, offsets, sign, band, lo, hi):
    """band[f, k, j] = sign * sum over r in rows[f] of u[r, j + offsets[k]] v[r, j]: what L's pattern holds of sum u vᵀ."""
    _, M, N = band.shape
    u, v, band, rows = borrowed(u), borrowed(v), borrowed(band), borrowed(rows)
    for f in range(lo, hi):
        for k in range(M):
            n = max(N - offsets[k], 0)
            total = band[f, k]
            total[:] = 0
            for r in rows[f]:
                a, b = u[r, N - n :], v[r, :n]
                for j in range(n):
                    total[j] += sign * a[j] * b[j]
