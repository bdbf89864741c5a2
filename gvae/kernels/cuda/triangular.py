"""Declaration of triangular.cu."""

from __future__ import annotations

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import BLOCK, Launch, kernel

solve = kernel(
    "triangular",
    "solve",
    "l: T F N N, l_of: int64 R, trans: scalar int32, x: T R N K -> N K",
    lambda sizes, n: Launch(-(-n * LANES // BLOCK), BLOCK),
)
