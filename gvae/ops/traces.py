"""tr (L Lᵀ)⁻¹, the trace in the KL divergence: exact, and by random probes (Hutchinson).

For any probe v with E v vᵀ = I, |L⁻ᵀ v|² and |L⁻¹ v|² have the trace as their mean. With A = L⁻¹ L⁻ᵀ in the first form and
A = L⁻ᵀ L⁻¹ in the second (equal eigenvalues, other diagonals), one probe has the variance

    2 |A|_F²                    for Gaussian v
    2 (|A|_F² - sum A_ii²)      for v of random signs: 0 where A is diagonal

The free probe is the sampling noise itself: with z = mean + L⁻ᵀ eps, |z - mean|² is the first form at v = eps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from gvae.autodiff import primitive
from gvae.checks import check_arrays, check_offsets
from gvae.ops import arrays, elementwise
from gvae.ops.banded import marginal_variances_banded, solve_triangular_banded

__all__ = ["trace_inverse_banded", "trace_probe_banded"]


@functools.partial(primitive, differentiable=False)
def signs(noise):
    """1 where noise >= 0, else -1: of symmetric noise, such as normal draws, a probe of random signs."""
    return 2 * (noise >= 0).astype(noise.dtype) - 1


def trace_inverse_banded(chol: Any, *, offsets: Sequence[int] | None = None, check: bool = True) -> Any:
    """tr (L Lᵀ)⁻¹ from the selected inverse.   chol : (..., M, N)   Returns (...). Raises as `inverse_banded`."""
    sizes = check_arrays("chol: ... M N", chol=chol)
    offsets = None if offsets is None else check_offsets(offsets, sizes["M"])
    return arrays.sum(marginal_variances_banded(chol, offsets=offsets, check=check), axis=-1)


def trace_probe_banded(
    chol: Any, probe: Any, *, offsets: Sequence[int] | None = None, trans: bool = True, check: bool = True
) -> Any:
    """An unbiased estimate of tr (L Lᵀ)⁻¹ per probe: |L⁻ᵀ v|², or |L⁻¹ v|² with trans=False.

    chol : (..., M, N)      probe v : (..., N), e.g. gvae.random.normal or .rademacher      Returns (...).
    Raises as the triangular solve. Source: Hutchinson (1990); the module's docstring has the variances.
    """
    sizes = check_arrays("chol: ... M N, probe: ... N", chol=chol, probe=probe)
    offsets = None if offsets is None else check_offsets(offsets, sizes["M"])
    w = solve_triangular_banded(chol, probe, offsets=offsets, trans=trans, check=check)
    return arrays.sum(elementwise.square(w), axis=-1)
