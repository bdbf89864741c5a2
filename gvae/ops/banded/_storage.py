"""What all operations on banded factors share: their settings, offsets, results, statuses and launches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gvae.checks import caller_name, check_arrays, check_offsets, check_out
from gvae.errors import NotPositiveDefiniteError, ShapeError
from gvae.ops._batching import broadcast, flat, rows_of_factors, widened
from gvae.runtime import device
from gvae.typing import Array

LOG_2PI = math.log(2 * math.pi)
# Patterns for which kernels are compiled ahead of their use: a chain, a band, a lattice
OFFSETS: dict[str, Sequence[Any]] = {"offsets": ((0, 1), (0, 1, 2, 3), (0, 1, 4))}
FACTOR = OFFSETS | {"check": (False,)}  # compiling ahead stops where values are inspected
BOTH_WAYS: dict[str, Sequence[Any]] = {"trans": (False, True)}


def _launch(name: str, *arguments: Any, n: int, work: int) -> None:
    device.launch("banded", name, *arguments, n=n, work=work, step=device.LANES)


def _default(offsets: Sequence[int] | None, chol: Array) -> tuple[int, ...]:
    return tuple(range(chol.shape[-2])) if offsets is None else tuple(offsets)


def _check_factor(contract: str, offsets: Any, *, name: str = "offsets", **arguments: Any) -> tuple[int, ...]:
    M = check_arrays(contract, **arguments)["M"]
    if M == 0:
        raise ShapeError(f"{caller_name()}: a band of M=0 diagonals, expected at least 1")
    if offsets is None:
        return tuple(range(M))
    return check_offsets(offsets, M, name=name)


def _result(out: Array, shape: tuple[int, ...], like: Array) -> Array:
    if out is None:
        return device.empty(shape, like.dtype, like)
    check_out(out, shape, like.dtype, like=like)
    return out


def _apart(x: Array, out: Array, *, same: bool = False) -> Array:
    """x, or a copy of it where `out` shares its memory, unless (with same=True) the kernel may write there."""
    if out is None or (same and out is x) or not device.overlap(out, x):
        return x
    return device.copy(x)


def _deliver(result: Array, x: Array) -> Array:
    """x, into which `result` is copied where the kernel wrote to a copy (the caller's x has another layout)."""
    if result is not x and not device.overlap(result, x):
        device.written(x)[...] = result.reshape(x.shape)
    return x


@lru_cache(maxsize=256)
def _int64(offsets: tuple[int, ...]) -> np.ndarray:
    return np.array(offsets, np.int64)


@lru_cache(maxsize=256)
def _rows(offsets: tuple[int, ...]) -> np.ndarray:
    rows = np.array(offsets, np.int64)
    rows.flags.writeable = False
    return rows


def _report(status: Array, batch: tuple[int, ...], check: bool, info: Any, name: str = "chol") -> None:
    """Turn the kernels' status into `info` and, with check=True, into an error that names every failing system."""
    if info is not None:
        check_out(info, batch, np.int32, name="info", like=status)
        device.written(info)[...] = status.reshape(batch)
    if check and status.any():
        status = device.to_host(status)
        failed = np.flatnonzero(status)
        rows = [tuple(int(i) for i in np.unravel_index(f, batch)) for f in failed]
        minors = [int(status[f]) for f in failed]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise NotPositiveDefiniteError(
            f"{caller_name()}: {name} has a pivot that is not positive in row {rows[0]}, column {minors[0] - 1}{more}, "
            "expected every L_jj > 0",
            rows,
            minors,
        )


def _work(*arrays_: Array) -> int:
    return sum(a.size for a in arrays_)


def _outer(u: Array, v: Array, chol: Array, offsets: Sequence[int] | None, sign: int = 1) -> Array:
    """sign * sum u vᵀ over the right-hand sides of each factor, on the factor's pattern: shape of chol."""
    offsets = _default(offsets, chol)
    shape = broadcast(u.shape, v.shape)
    u, v = widened(u, shape), widened(v, shape)
    band = device.empty((math.prod(chol.shape[:-2]), *chol.shape[-2:]), chol.dtype, chol)
    rows = rows_of_factors(chol.shape[:-2], u.shape[:-1])
    settings = (rows, _int64(offsets), sign, band)
    device.launch("banded", "outer", flat(u, 1), flat(v, 1), *settings, n=len(band), work=2 * u.size + band.size)
    return band.reshape(chol.shape)
