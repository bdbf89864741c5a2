"""Declarations of chain.cu, and the order in which its kernels solve or invert long chains."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gvae.kernels import LANES
from gvae.kernels._chain import BACKWARD, FORWARD, INVERSE, MAX_GROWTH, MAX_GROWTH_INVERSE  # noqa: F401 (ops read them)
from gvae.kernels.cuda.launch import Launch, elements, kernel

SEGMENT = 32  # columns, WIDTH in chain.cu
PIECES = 256  # threads of a block that connects a system's segments, as in chain.cu


def _segments(sizes: dict[str, int], n: int) -> Launch:
    """Each system has a warp for every LANES of its segments."""
    return Launch(n * -(-sizes["S"] // LANES), LANES)


_SYSTEM = "chol: T F two N, b: T Q N, owner: int64 R, b_row: int64 R, kind: scalar int32"

ends = kernel("chain", "ends", f"{_SYSTEM}, summary: T R S three, bad: int32 R S -> N S", _segments)
connect = kernel(
    "chain",
    "connect",
    "owner: int64 R, kind: scalar int32, summary: T R S three, bad: int32 R S, incoming: T R S, verdict: int32 R, "
    "info: int32 F, limit: scalar T -> S",
    lambda sizes, n: Launch(n, PIECES),
)
fill = kernel(
    "chain",
    "fill",
    "chol: T F two N, b: T Q N, owner: int64 R, row: int64 R, b_row: int64 R, kind: scalar int32, incoming: T R S, "
    "verdict: int32 R, y: T P V N -> N S V",
    _segments,
)
serial = kernel(
    "chain",
    "serial",
    "chol: T F two N, b: T Q N, owner: int64 R, row: int64 R, b_row: int64 R, kind: scalar int32, verdict: int32 R, "
    "y: T P V N -> N V",
    elements(),
)


def run(kind: int, chol: Any, b: Any, owner: Any, row: Any, b_row: Any, y: Any, info: Any) -> None:
    """y[row[t]] from b[b_row[t]] with the factor owner[t], for all t; for INVERSE b is not read.

    chol (F, 2, N), b (Q, N), y (P, 1, N), or (P, 2, N) for INVERSE, info (F,).
    """
    cupy: Any = sys.modules["cupy"]
    R, S = len(owner), -(-chol.shape[-1] // SEGMENT)
    summary, incoming = cupy.empty((R, S, 3), chol.dtype), cupy.empty((R, S), chol.dtype)
    bad, verdict = cupy.empty((R, S), np.int32), cupy.empty((R,), np.int32)
    limit = MAX_GROWTH_INVERSE if kind == INVERSE else MAX_GROWTH
    ends(chol, b, owner, b_row, kind, summary, bad, 0, R)
    connect(owner, kind, summary, bad, incoming, verdict, info, limit, 0, R)
    fill(chol, b, owner, row, b_row, kind, incoming, verdict, y, 0, R)
    serial(chol, b, owner, row, b_row, kind, verdict, y, 0, R)
