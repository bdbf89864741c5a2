"""Declaration of product.cu, and the choice between it and cuBLAS."""

import sys
from typing import Any

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import Geometry, Launch, kernel

WIDE, NARROW, EACH = 32, 16, 32  # as in product.cu
BUSY = 2048  # warps keep a device busy: with as many tiles, the inner axis is not divided
FEW = 128  # wide tiles are too few below, for devices of about as many multiprocessors
OWN = 2e9  # multiplications up to which the product is ours, which a graph may hold; beyond: cuBLAS, twice as fast there


def _blocks(tile: int, warps: int) -> Geometry:
    """A block per tile of the result, of at most `warps` warps for float32, and half as many for float64."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        m, columns, itemsize = sizes["m"], sizes["n_columns"], sizes["itemsize"]
        inner = sizes["P"] * sizes["Q"] // max(m, 1)
        across = -(-columns // tile)
        tiles = max(-(-m // tile) * across, 1)  # tiles of the whole result: its bits do not depend on lo, hi
        depth = EACH // itemsize * LANES // tile
        used = max(min(-(-inner // depth), 4 * warps // itemsize, -(-BUSY // tiles)), 1)  # without a piece for each, fewer
        shared = used * max(2 * depth * (tile + 16 // itemsize), tile * tile) * itemsize
        return Launch(-(-n // tile) * across, used * LANES, shared, (inner,))

    return geometry


_CONTRACT = (
    "x: T P Q, scale: T S, y: T R U, bias: T B, activation: scalar int32, out: T m n_columns, sums: T V, "
    "turn_x: scalar int32, turn_y: scalar int32 -> m n_columns B S V"
)
product_wide = kernel("product", "product_wide", _CONTRACT, _blocks(WIDE, 8))
product_narrow = kernel("product", "product_narrow", _CONTRACT, _blocks(NARROW, 16))


def product(
    x: Any, y: Any, out: Any, lo: int, hi: int, bias: Any = None, activation: int = 0, scale: Any = None, sums: Any = None
) -> None:
    """out = f(x diag(scale) y + bias), rows lo .. hi - 1: x (m, k), y (k, n), each C-contiguous or the transpose of such a
    matrix; bias (n,) with its activation f and scale (k,) if there are any. sums (n,), if wanted, receives scaleᵀ y."""
    if x.shape[0] != out.shape[0] or x.shape[1] != y.shape[0] or y.shape[1] != out.shape[1]:
        raise ValueError(f"product: shapes {x.shape}, {y.shape} and {out.shape} do not fit")
    turns = [not a.flags.c_contiguous for a in (x, y)]
    x, y = (a.T if turn else a for a, turn in zip((x, y), turns, strict=True))
    (m, n), nothing = out.shape, out.reshape(-1)[:0]
    bias, scale, sums = (nothing if a is None else a for a in (bias, scale, sums))
    chosen = product_narrow if -(-m // WIDE) * -(-n // WIDE) < FEW else product_wide
    chosen(x, scale, y, bias, activation, out, sums, *turns, lo, hi)


def ours(x: Any, y: Any) -> bool:
    """Whether the product of these matrices is our kernel's, and not cuBLAS's."""
    return len(x) * len(y) * y.shape[1] <= OWN


def as_stored(x: Any) -> Any:
    """The matrix as the kernel takes it: C-contiguous, or the transpose of such a one."""
    return x if x.flags.c_contiguous or x.flags.f_contiguous else sys.modules["cupy"].ascontiguousarray(x)


def multiply(x: Any, y: Any, out: Any) -> None:
    """out = x y of two matrices, whatever their layout."""
    if ours(x, y):
        product(as_stored(x), as_stored(y), out, 0, len(x))
    else:
        sys.modules["cupy"].matmul(x, y, out=out)
