"""Gaussians whose precision P = L Lᵀ has a sparse lower-triangular factor L, stored by diagonals.

Storage: chol[..., k, j] = L[j + offsets[k], j], shape (..., M, N), with offsets strictly increasing from 0 (by default
0, 1, .., M-1: SciPy's lower band form with leading batch axes). Entries with j + offsets[k] >= N do not exist: they are
never read, are written as zero, and their cotangent is zero. Batch axes lead and broadcast; a factor shared by many
right-hand sides is never copied. A chain has offsets (0, 1); an extended grid of c columns (0, 1, c).

Letters as in Rue and Held (2005) and in `gvae.kernels.cpu.banded`. Densities and divergences are in nats.

Failure: a pivot L_jj passes only if it is positive. check=True raises NotPositiveDefiniteError with the rows and minors;
check=False makes the failing systems NaN and does not affect the others. `info`, an int32 array of the factors' batch
shape, receives 0 or the 1-based order of the pivot that failed.

Results in place: `out` may share memory with an argument, which is then copied first unless the kernel may overwrite it.
Only `multiply_triangular_banded` refuses an `out` that overlaps its x.
"""

from __future__ import annotations

from typing import Any

from gvae.ops._former import renamed_op
from gvae.ops.banded._storage import LOG_2PI as LOG_2PI
from gvae.ops.banded.convert import band_to_dense, dense_to_band
from gvae.ops.banded.density import entropy_banded, log_prob_banded, log_prob_of_draw_banded
from gvae.ops.banded.divergence import kl_divergence_banded
from gvae.ops.banded.draw import sample_and_log_prob_banded, sample_banded
from gvae.ops.banded.factor import cholesky_banded, gram_banded, log_pivots_banded, logdet_banded
from gvae.ops.banded.invert import inverse_banded, variance_banded
from gvae.ops.banded.multiply import multiply_triangular_banded
from gvae.ops.banded.solve import cho_solve_banded, method_banded, solve_triangular_banded

__all__ = [
    "band_to_dense",
    "cho_solve_banded",
    "cholesky_banded",
    "dense_to_band",
    "entropy_banded",
    "gram_banded",
    "inverse_banded",
    "kl_divergence_banded",
    "log_pivots_banded",
    "log_prob_banded",
    "log_prob_of_draw_banded",
    "logdet_banded",
    "method_banded",
    "multiply_triangular_banded",
    "sample_and_log_prob_banded",
    "sample_banded",
    "solve_triangular_banded",
    "variance_banded",
]


def __getattr__(name: str) -> Any:
    return renamed_op(__name__, name)
