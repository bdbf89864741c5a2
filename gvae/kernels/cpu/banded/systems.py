"""What all recurrences share: sizes, pivots that fail, loops over one vector."""

from __future__ import annotations

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import LANES

FACTORS = 128  # numbers of [sqrt(1/2), sqrt(2)) whose product cannot leave float32's range: it is at most 2^64
CHUNK = 1024  # numbers added in their own precision, before they are added in float64
LONG = 64  # columns from which loops along a system are faster than lanes, where nothing is recursive
FEW = 8  # a group of fewer systems than this is faster one by one (docs/layout.md)


@kernel
def scratch_width(systems):
    """LANES, or 1 where no group is large enough for lanes: one long system must not cost as much as 32."""
    return LANES if systems >= FEW else 1


@kernel
def first_bad_pivot(chol):
    """0, or the 1-based column of the first diagonal entry of chol (M, N) that is not positive."""
    N = chol.shape[1]
    good = 0
    for j in range(N):  # a count, unlike a search, runs on vectors
        good += chol[0, j] > 0
    if good == N:
        return 0
    j = 0
    while chol[0, j] > 0:
        j += 1
    return j + 1


@kernel
def starts_of(rows, owners, k, N, starts):
    """starts[l] = where the row rows[owners[l], k] begins in an array (R, N)."""
    for l in range(LANES):
        starts[l] = rows[owners[l], k] * N


@kernel
def move(x, y):
    """y = x, both (N,); an assignment of slices takes three times as long, and two seconds more to compile."""
    for j in range(len(y)):
        y[j] = x[j]


@kernel
def add(x, y):
    """y += x, both (N,)."""
    for j in range(len(y)):
        y[j] += x[j]


@kernel
def subtract(x, y, d):
    """d = x - y, all (N,)."""
    for j in range(len(d)):
        d[j] = x[j] - y[j]


@kernel
def subtract_multiple(x, scale, y):
    """y -= scale x, x and y (N,)."""
    for j in range(len(y)):
        y[j] -= scale * x[j]
