"""Declarations of psi.cu, and the launches that are one kernel on a CPU."""

from __future__ import annotations

import sys
from typing import Any

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import BLOCK, Geometry, Launch, elements, kernel

EACH = 4  # axes that a thread or a warp takes together, as in psi.cu


def _axes(of_each: Any) -> Geometry:
    """of_each(sizes) threads per part and EACH axes."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        return Launch(-(-n * of_each(sizes) // BLOCK), BLOCK)

    return geometry


_TERMS = "mean: T N Q, u: T N Q, w: T N Q, k: T N, z: T M Q"

row_terms = kernel(
    "psi",
    "row_terms",
    "mean: T N Q, variance: T N Q, precision: T Q, f: scalar int32, u: T N Q, w: T N Q, k: T N -> Q",
    elements(),
)
psi1 = kernel(
    "psi", "psi1", "mean: T N Q, variance: T N Q, z: T M Q, precision: T Q, scale: T U, y: T N M -> M Q", elements("M")
)
psi1_weights = kernel(
    "psi", "psi1_weights", "mean: T N Q, u: T N Q, k: T N, z: T M Q, y_bar: T N M, r: T N M -> M Q", elements("M")
)
psi2_weights = kernel("psi", "psi2_weights", f"{_TERMS}, y_bar: T M M, r: T N M -> M Q", elements("M"))
psi2_sums = kernel("psi", "psi2_sums", f"{_TERMS}, y: float64 P M M -> N M Q P", elements("M", "M"))
z_vjp = kernel(
    "psi",
    "z_vjp",
    f"{_TERMS}, r: T N M, y_bar: T V V, z_bar: float64 P M Q -> N M Q P V",
    _axes(lambda sizes: sizes["M"] * -(-sizes["Q"] // EACH)),
)
row_vjp = kernel(
    "psi",
    "row_vjp",
    "mean: T N Q, variance: T N Q, precision: T Q, u: T N Q, w: T N Q, k: T N, z: T M Q, r: T N M, y_bar: T V V, "
    "mean_bar: T N Q, variance_bar: T N Q, sums: float64 P X -> N M Q P V",
    _axes(lambda sizes: max(-(-sizes["Q"] // EACH), 1) * LANES),
)


def _row_terms(mean: Any, variance: Any, precision: Any, f: int) -> tuple[Any, Any, Any]:
    cupy: Any = sys.modules["cupy"]
    u, w, k = (cupy.empty(shape, mean.dtype) for shape in (mean.shape, mean.shape, mean.shape[:1]))
    row_terms(mean, variance, precision, f, u, w, k, 0, len(mean))
    return u, w, k


def psi2(mean: Any, variance: Any, z: Any, precision: Any, y: Any, lo: int, hi: int) -> None:
    """As on a CPU."""
    psi2_sums(mean, *_row_terms(mean, variance, precision, 2), z, y, lo, hi)


def psi1_vjp(
    mean: Any,
    variance: Any,
    z: Any,
    precision: Any,
    y_bar: Any,
    mean_bar: Any,
    variance_bar: Any,
    z_bar: Any,
    sums: Any,
    lo: int,
    hi: int,
) -> None:
    """As on a CPU."""
    u, w, k = _row_terms(mean, variance, precision, 1)
    r = sys.modules["cupy"].empty(y_bar.shape, y_bar.dtype)
    psi1_weights(mean, u, k, z, y_bar, r, 0, len(mean))
    nothing = r.reshape(-1)[:0].reshape(0, 0)
    z_vjp(mean, u, w, k, z, r, nothing, z_bar, lo, hi)
    row_vjp(mean, variance, precision, u, w, k, z, r, nothing, mean_bar, variance_bar, sums, lo, hi)


def psi2_vjp(
    mean: Any,
    variance: Any,
    z: Any,
    precision: Any,
    y_bar: Any,
    mean_bar: Any,
    variance_bar: Any,
    z_bar: Any,
    sums: Any,
    lo: int,
    hi: int,
) -> None:
    """As on a CPU."""
    u, w, k = _row_terms(mean, variance, precision, 2)
    r = sys.modules["cupy"].empty((len(mean), len(z)), mean.dtype)
    psi2_weights(mean, u, w, k, z, y_bar, r, 0, len(mean))
    z_vjp(mean, u, w, k, z, r, y_bar, z_bar, lo, hi)
    row_vjp(mean, variance, precision, u, w, k, z, r, y_bar, mean_bar, variance_bar, sums, lo, hi)
