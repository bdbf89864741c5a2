"""Declarations of the kernels in this folder, and the reverses that are several launches: one pass would keep on the device
what the next one reads back from it anyway."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.kernels import LANES
from gvae.kernels.cuda.launch import SHARED, Launch, elements, kernel, resident, warps

LINE = 128  # bytes of a tile's row: a whole line of memory
SECTOR = 32  # and at least this many, or neighbouring rows would share what is moved at once


def _tiled(columns: int, words: Any, systems: int, starts: int, itemsize: int) -> tuple[int, int]:
    """(width, bytes of shared memory) of the widest tile that fits, words(width) numbers per system; (0, 0) if none does."""
    width = min(LINE // itemsize, 1 << max(columns - 1, 0).bit_length())
    while width * itemsize >= SECTOR or (width and width >= columns):
        shared = 8 * systems * starts + systems * words(width) * itemsize
        if shared <= SHARED:
            return width, shared
        width //= 2
    return 0, 0


def _lanes(sizes: dict[str, int], n: int) -> Launch:
    """A warp takes LANES systems, one per lane. Extra: how far a column reads back, and the columns of a tile."""
    _addressable(sizes, "M")
    M, N = sizes["M"], sizes["N"]
    H = max(min(sizes["reach"], N - 1), 0)
    width, shared = _tiled(N, lambda width: (M * width + width + H) | 1, LANES, 4, sizes["itemsize"])
    return Launch(-(-n // LANES), LANES, shared, (H, width))


def _groups(rows: str, tiled: bool = True) -> Any:
    """A warp takes LANES / group systems, `group` lanes each: one for every entry of a column but the diagonal's, if there
    are no more than LANES. Extra: group, and the columns of a tile."""

    def geometry(sizes: dict[str, int], n: int) -> Launch:
        _addressable(sizes, rows)
        M, N, W = sizes["M"], sizes["N"], sizes[rows]
        group = min(LANES, 1 << max(W - 2, 0).bit_length())
        grid = -(-n // (LANES // group))
        if not tiled:
            return Launch(grid, LANES, 0, (group,))
        width, shared = _tiled(
            N, lambda width: (M * width + W * ((width + W) // 4 * 4 + 2)) | 1, LANES // group, 2, sizes["itemsize"]
        )
        return Launch(grid, LANES, shared, (group, width))

    return geometry


def _whole(sizes: dict[str, int], n: int) -> Launch:
    """As `_groups`, for the reverse of `inverse`: its tile is the whole system with its cotangents, if that is small."""
    grid, block, _, (group,) = _groups("W", tiled=False)(sizes, n)
    N, systems = sizes["N"], LANES // group
    shared = systems * (2 * 8 + (2 * (sizes["M"] + sizes["W"]) * N | 1) * sizes["itemsize"])
    fits = N and shared <= SHARED
    return Launch(grid, block, shared if fits else 0, (group, min(LANES, 1 << (N - 1).bit_length()) if fits else 0))


def _addressable(sizes: dict[str, int], rows: str) -> None:
    """Within one system entries are counted by int32."""
    if sizes[rows] * sizes["N"] >= 1 << 31:
        raise ValueError(f"a system of {sizes[rows]} x {sizes['N']} entries: expected fewer than 2^31 on a device")


_FACTOR = "chol: T F M N, offsets: offsets M"
_DENSITY = f"{_FACTOR}, rows: int64 F K, x_rows: int64 F K, mean_rows: int64 F K, x: T P N, mean: T Q N"

solve_triangular = kernel(
    "banded",
    "solve_triangular",
    f"{_FACTOR}, owner: int64 R, row: int64 R, b_row: int64 R, b: T Q N, x: T P N, trans: scalar int32, info: int32 F "
    "-> M N",
    _lanes,
)
sample = kernel(
    "banded",
    "sample",
    f"{_FACTOR}, owner: int64 R, row: int64 R, mean_row: int64 R, eps_row: int64 R, mean: T A N, eps: T Q N, z: T R N, "
    "log_q: T wanted, info: int32 F -> wanted M N",
    _lanes,
)
sample_vjp_density = kernel(
    "banded",
    "sample_vjp_density",
    "chol: T F M N, rows: int64 F K, eps_rows: int64 F K, eps: T Q N, log_q_bar: T R, eps_bar: T wanted N, "
    "chol_bar: T F M N -> M N K wanted",
    elements("N"),
)
multiply_triangular = kernel(
    "banded",
    "multiply_triangular",
    f"{_FACTOR}, owner: int64 R, row: int64 R, x: T P N, y: T P N, trans: scalar int32 -> M N",
    elements("N"),
)
multiply_columns = kernel(
    "banded",
    "multiply_columns",
    "chol: T M N, offsets: offsets M, x: T N, y: T N, trans: scalar int32 -> M N",
    elements(),
)
outer = kernel(
    "banded",
    "outer",
    "u: T R N, v: T R N, rows: int64 F K, offsets: offsets M, sign: scalar T, band: T F M N -> M N K",
    elements("M", "N"),
)
log_prob_of_draw = kernel(
    "banded",
    "log_prob_of_draw",
    "chol: T F M N, rows: int64 F K, eps_rows: int64 F K, eps: T Q N, value: T R, info: int32 F -> M N K",
    warps("K"),
)
log_prob = kernel("banded", "log_prob", f"{_DENSITY}, value: T R, info: int32 F -> M N K", warps("K"))
log_prob_vjp_weights = kernel(
    "banded", "log_prob_vjp_weights", f"{_DENSITY}, bar: T R, s: T R N -> M N K", elements("K", "N")
)
log_prob_vjp_factor = kernel(
    "banded", "log_prob_vjp_factor", f"{_DENSITY}, bar: T R, s: T R N, chol_bar: T F M N -> M N K", elements("M", "N")
)
inverse = kernel("banded", "inverse", f"{_FACTOR}, s: T F W N, info: int32 F -> M N W", _groups("W"))
inverse_vjp = kernel(
    "banded",
    "inverse_vjp",
    f"{_FACTOR}, s: T F W N, s_bar: T F W N, chol_bar: T F M N -> M N W",
    _whole,
)
cholesky = kernel("banded", "cholesky", "ab: T F M N, chol: T F M N, info: int32 F -> M N", _groups("M"))
cholesky_vjp = kernel(
    "banded",
    "cholesky_vjp",
    "chol: T F M N, chol_bar: T F M N, ab_bar: T F M N -> M N",
    _groups("M", tiled=False),
)


@lru_cache(maxsize=64)
def _owner(F: int, K: int) -> np.ndarray:
    """The factor of each of the right-hand sides rows (F, K), in order."""
    return np.repeat(np.arange(F), K)


def _empty(shape: tuple[int, ...], dtype: Any) -> Any:
    return sys.modules["cupy"].empty(shape, dtype)


def _solve(chol, offsets, rows, b_rows, b, x, trans, lo, hi):
    """x[rows[f, k]] = L⁻¹ b[b_rows[f, k]], or L⁻ᵀ; rows, b_rows (F, K) on the device."""
    F, K = rows.shape
    info = _empty((F,), np.int32)
    owner, row, b_row = _owner(F, K), rows.reshape(-1), b_rows.reshape(-1)
    solve_triangular(chol, offsets, owner, row, b_row, b, x, trans, info, lo * K, hi * K)


def solve_triangular_vjp(chol, offsets, rows, x, x_bar, trans, b_bar, chol_bar, lo, hi):
    """b_bar = L⁻ᵀ x_bar, then chol_bar = -sum of b_bar xᵀ on the pattern (trans: L⁻¹, x b_barᵀ)."""
    rows = resident(rows)
    if len(b_bar) == 0:
        b_bar = _empty(x.shape, x.dtype)
    _solve(chol, offsets, rows, rows, x_bar, b_bar, not trans, lo, hi)
    u, v = (x, b_bar) if trans else (b_bar, x)
    outer(u, v, rows, offsets, -1, chol_bar, lo, hi)


def sample_vjp(chol, offsets, rows, eps_rows, eps, z_bar, log_q_bar, eps_bar, mean_bar, chol_bar, lo, hi):
    """The solution u = L⁻ᵀ eps once more, v = L⁻¹ z_bar, chol_bar = -sum of u vᵀ on the pattern; then the density's part."""
    if len(mean_bar):
        z_bar[resident(rows)[lo:hi]].sum(axis=1, out=mean_bar[lo:hi])
    rows, eps_rows = resident(rows), resident(eps_rows)
    u = _empty(z_bar.shape, eps.dtype)
    v = eps_bar if len(eps_bar) else _empty(z_bar.shape, eps.dtype)
    _solve(chol, offsets, rows, eps_rows, eps, u, True, lo, hi)
    _solve(chol, offsets, rows, rows, z_bar, v, False, lo, hi)
    outer(u, v, rows, offsets, -1, chol_bar, lo, hi)
    if len(log_q_bar):
        sample_vjp_density(chol, rows, eps_rows, eps, log_q_bar, eps_bar, chol_bar, lo, hi)


def log_prob_vjp(chol, offsets, rows, x_rows, mean_rows, x, mean, bar, x_bar, chol_bar, lo, hi):
    """s = -bar Lᵀ d; x_bar = L s; chol_bar = sum of d sᵀ on the pattern, and bar / L_jj."""
    rows = resident(rows)
    inputs = (chol, offsets, rows, x_rows, mean_rows, x, mean, bar)
    s = _empty(x_bar.shape, x.dtype)
    log_prob_vjp_weights(*inputs, s, lo, hi)
    log_prob_vjp_factor(*inputs, s, chol_bar, lo, hi)
    F, K = rows.shape
    multiply_triangular(chol, offsets, _owner(F, K), rows.reshape(-1), s, x_bar, False, lo * K, hi * K)
