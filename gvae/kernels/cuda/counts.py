"""Declarations of counts.cu."""

from __future__ import annotations

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import BLOCK, Launch, kernel

ROW = 256  # threads that add up LANES columns, as in counts.cu


def _warps(sizes: dict[str, int], n: int) -> Launch:
    """A warp per system."""
    return Launch(-(-n * LANES // BLOCK), BLOCK)


def _columns(sizes: dict[str, int], n: int) -> Launch:
    """A block per LANES entries."""
    return Launch(-(-n // LANES), ROW)


sums = kernel("counts", "sums", "scale: T V M, a: T P M H, a_of: int64 K, total: T K H -> V M H", _columns)
poisson = kernel(
    "counts",
    "poisson",
    "values: T E, columns: int64 E, pointers: int64 X, constants: T B, z: T P B H, z_of: int64 K, w: T F D H, "
    "w_of: int64 K, total: T F H, log_prob: T K B, ratio: T V E -> B D H V E",
    _warps,
)
poisson_vjp = kernel(
    "counts",
    "poisson_vjp",
    "log_prob_bar: T K B, columns: int64 E, pointers: int64 X, ratio: T K E, w: T F D H, w_of: int64 K, total: T F H, "
    "samples: int64 P S, z_bar: T P B H -> B D H S E",
    _warps,
)
poisson_weight_vjp = kernel(
    "counts",
    "poisson_weight_vjp",
    "log_prob_bar: T K B, rows: int64 E, pointers: int64 X, places: int64 E, ratio: T K E, z: T P B H, z_of: int64 K, "
    "total: T F H, samples: int64 F S, w_bar: T F D H -> B D H S E",
    _warps,
)
