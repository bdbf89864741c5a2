"""Recurrences on a sparse lower-triangular factor L in diagonal storage.

chol[k, j] = L[j + offsets[k], j], shape (M, N), offsets increasing from 0. Entries with j + offsets[k] >= N do not exist:
they are never read, and written as zero. Letters: i row, j column, k diagonal, f factor, r right-hand side.

A batch is F factors and R right-hand sides. The t-th solve takes factor owner[t] and right-hand side row[t], in an order
that keeps those of one factor together, so that K samples which share a factor read it once and never copy it.

The `_one` functions are the recurrences, for one system. Where LANES systems stand side by side (see `_lanes`) the same text
runs on vectors; fewer than FEW are done one by one. `lo` is then a multiple of LANES, so that every split of the range
makes the same groups and hence the same bits. A failing lane computes nonsense, is found by its pivots and becomes NaN.

`systems` has what all share; here are the kernels, and the functions for one system that a caller's own code may use.
"""

from gvae.kernels.cpu.banded.density import log_prob, log_prob_of_draw, log_prob_vjp
from gvae.kernels.cpu.banded.draw import sample, sample_vjp
from gvae.kernels.cpu.banded.factor import cholesky, cholesky_one, cholesky_vjp, cholesky_vjp_one
from gvae.kernels.cpu.banded.invert import inverse, inverse_one, inverse_vjp, inverse_vjp_one
from gvae.kernels.cpu.banded.multiply import (
    multiply_columns,
    multiply_triangular,
    multiply_triangular_one,
    multiply_triangular_transposed_one,
    outer,
)
from gvae.kernels.cpu.banded.solve import (
    solve_triangular,
    solve_triangular_one,
    solve_triangular_transposed_one,
    solve_triangular_vjp,
)

__all__ = [
    "cholesky",
    "cholesky_one",
    "cholesky_vjp",
    "cholesky_vjp_one",
    "inverse",
    "inverse_one",
    "inverse_vjp",
    "inverse_vjp_one",
    "log_prob",
    "log_prob_of_draw",
    "log_prob_vjp",
    "multiply_columns",
    "multiply_triangular",
    "multiply_triangular_one",
    "multiply_triangular_transposed_one",
    "outer",
    "sample",
    "sample_vjp",
    "solve_triangular",
    "solve_triangular_one",
    "solve_triangular_transposed_one",
    "solve_triangular_vjp",
]
