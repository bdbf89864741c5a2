"""Large dense matrices, by CUDA's own libraries through CuPy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

LEAST = 64  # variables


def takes(a: Any) -> bool:
    """Whether matrices (..., N, N) are for a library. CuPy calls none while a graph is captured."""
    return a.shape[-1] >= LEAST and a.size > 0 and not sys.modules["cupy"].cuda.get_current_stream().is_capturing()


def cholesky(a: Any) -> Any:
    """The factors of matrices (..., N, N). Raises LinAlgError if any has none; waits for the device, to see that."""
    import cupyx

    with cupyx.errstate(linalg="raise"):  # unasked, CuPy does not look
        l = sys.modules["cupy"].linalg.cholesky(a)
    if not (np.diagonal(l, axis1=-2, axis2=-1) > 0).all():  # where NaN has passed
        raise np.linalg.LinAlgError("not positive definite")
    return l


def solve_triangular(l: Any, trans: bool, x: Any) -> None:
    """x = L⁻¹ x, or L⁻ᵀ x: l (..., N, N), x (..., N, K) with the same batch axes, which are solved one by one."""
    from cupyx.scipy import linalg

    for i in np.ndindex(x.shape[:-2]):
        x[i] = linalg.solve_triangular(l[i], x[i], trans=int(bool(trans)), lower=True)
