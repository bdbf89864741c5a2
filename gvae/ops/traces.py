"""tr (L Lᵀ)⁻¹, the trace in the KL divergence: exact, and by random probes (Hutchinson).

For any probe v with E v vᵀ = I, |L⁻ᵀ v|² and |L⁻¹ v|² have the trace as their mean. With A = L⁻¹ L⁻ᵀ in the first form and
A = L⁻ᵀ L⁻¹ in the second (equal eigenvalues, other diagonals), one probe has the variance

    2 |A|_F²                    for Gaussian v
    2 (|A|_F² - sum A_ii²)      for v of random signs: 0 where A is diagonal

The sampling noise itself is a probe at no extra cost: with z = mean + L⁻ᵀ eps, |z - mean|² is the first form at v = eps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from gvae.autodiff import primitive
from gvae.checks import check_arrays, check_offsets
from gvae.ops import arrays, elementwise
from gvae.ops.banded import solve_triangular_banded, variance_banded
from gvae.typing import Array

__all__ = ["trace_inverse_banded", "trace_probe_banded"]


@functools.partial(primitive, differentiable=False)
def signs(noise: Array) -> Array:
    """1 where noise >= 0, else -1: a probe of random signs, if the noise is symmetric, as normal draws are."""
    return 2 * (noise >= 0).astype(noise.dtype) - 1


def trace_inverse_banded(chol: Array, *, offsets: Sequence[int] | None = None, check: bool = True) -> Array:
    """Trace of the covariance, tr (L Lᵀ)⁻¹, exact, from the selected inverse.

    Parameters
    ----------
    chol : array (..., M, N)
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    array (...)
        The trace.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> gvae.ops.trace_inverse_banded(chol)
    np.float64(0.890625)
    """
    sizes = check_arrays("chol: ... M N", chol=chol)
    offsets = None if offsets is None else check_offsets(offsets, sizes["M"])
    return arrays.sum(variance_banded(chol, offsets=offsets, check=check), axis=-1)


def trace_probe_banded(
    chol: Array, probe: Any, *, offsets: Sequence[int] | None = None, trans: bool = True, check: bool = True
) -> Array:
    """Unbiased estimate of tr (L Lᵀ)⁻¹ from a random probe v: |L⁻ᵀ v|², or |L⁻¹ v|² with trans=False.

    Parameters
    ----------
    chol : array (..., M, N)
    probe : array (..., N)
        v, with E v vᵀ = I: for example `gvae.random.normal` or `gvae.random.rademacher`.
    offsets : sequence of int, optional
        The diagonals of `chol`; by default 0, 1, .., M-1.
    trans : bool, default True
        Use |L⁻ᵀ v|².
    check : bool, default True
        False: a system with a pivot that is not positive becomes NaN instead of raising.

    Returns
    -------
    array (...)
        One estimate per probe; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError
    NotPositiveDefiniteError
        Unless check=False.

    Notes
    -----
    Source: Hutchinson (1990). The variances are in the docstring of `gvae.ops.traces`.

    Examples
    --------
    >>> chol = np.array([[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    >>> probes = gvae.random.rademacher(gvae.random.key(0), (1000, 3), np.float64)
    >>> gvae.ops.trace_probe_banded(chol, probes).mean().round(2)  # the trace is 0.890625
    np.float64(0.89)
    """
    sizes = check_arrays("chol: ... M N, probe: ... N", chol=chol, probe=probe)
    offsets = None if offsets is None else check_offsets(offsets, sizes["M"])
    w = solve_triangular_banded(chol, probe, offsets=offsets, trans=trans, check=check)
    return arrays.sum(elementwise.square(w), axis=-1)
