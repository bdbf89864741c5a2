"""Declaration of product.cu, and the choice between it and cuBLAS."""

import sys
from typing import Any

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import Launch, kernel

TILE, DEPTH = 32, 16  # as in product.cu
OWN = 2e8  # multiplications up to which the product is ours, which a graph may hold; beyond: cuBLAS


def _blocks(sizes: dict[str, int], n: int) -> Launch:
    inner = sizes["P"] * sizes["Q"] // max(sizes["m"], 1)
    warps = max(min(-(-inner // DEPTH), 32 // sizes["itemsize"]), 1)  # without a piece for each, fewer
    shared = warps * max(2 * DEPTH * (TILE + 1), TILE * TILE) * sizes["itemsize"]
    return Launch(-(-n // TILE) * -(-sizes["n_columns"] // TILE), warps * LANES, shared, (inner,))


_product = kernel(
    "product",
    "product",
    "x: T P Q, y: T R S, out: T m n_columns, turn_x: scalar int32, turn_y: scalar int32 -> m n_columns",
    _blocks,
)


def product(x: Any, y: Any, out: Any, lo: int, hi: int) -> None:
    """out = x y, rows lo .. hi - 1: x (m, k), y (k, n), each C-contiguous or the transpose of such a matrix."""
    if x.shape[0] != out.shape[0] or x.shape[1] != y.shape[0] or y.shape[1] != out.shape[1]:
        raise ValueError(f"product: shapes {x.shape}, {y.shape} and {out.shape} do not fit")
    turns = [not a.flags.c_contiguous for a in (x, y)]
    _product(*(a.T if turn else a for a, turn in zip((x, y), turns, strict=True)), out, *turns, lo, hi)


def multiply(x: Any, y: Any, out: Any) -> None:
    """out = x y of two matrices, whatever their layout."""
    (m, k), n = x.shape, y.shape[1]
    if m * k * n > OWN:
        sys.modules["cupy"].matmul(x, y, out=out)
    else:
        product(_as_stored(x), _as_stored(y), out, 0, m)


def _as_stored(x: Any) -> Any:
    """The matrix as the kernel takes it: C-contiguous, or the transpose of such a one."""
    return x if x.flags.c_contiguous or x.flags.f_contiguous else sys.modules["cupy"].ascontiguousarray(x)
