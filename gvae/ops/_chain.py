"""Long chains in segments: which systems gain from it, and the steps around the kernels of `gvae.kernels.cpu.chain`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache, lru_cache, partial
from importlib import resources
from typing import Any

import numpy as np

from gvae.checks import caller_name
from gvae.errors import ConfigError
from gvae.runtime import device
from gvae.runtime.compile import Use, registered
from gvae.typing import Array

METHODS = ("systems", "segments")
SHORTEST = 4096  # columns; below this, segments are not faster at any shape in the table
MANY = 4096  # systems: up to here segments were 3 to 4 times as fast on an H100 (benchmarks/gpu); more were not measured


@cache
def _table() -> dict[tuple[str, str], list[tuple[float, float, str]]]:
    """(log systems, log N, the faster method) as measured, per operation and dtype."""
    text = resources.files("gvae.kernels").joinpath("methods.json").read_text(encoding="utf-8")
    table: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for row in json.loads(text)["rows"]:
        faster = min(METHODS, key=lambda method: row["microseconds"][method])
        point = (math.log(row["systems"]), math.log(row["N"]), faster)
        table.setdefault((row["operation"], row["dtype"]), []).append(point)
    return table


@lru_cache(maxsize=256)
def _fastest(operation: str, dtype: str, systems: int, N: int) -> str:
    """The faster method at the nearest measured shape, where distance is that of the logarithms."""
    here = math.log(max(systems, 1)), math.log(N)
    return min(_table()[operation, dtype], key=lambda point: math.dist(point[:2], here))[2]


def choose(operation: str, offsets: tuple[int, ...], N: int, systems: int, like: Array, method: str | None) -> str:
    """The method to use for arrays like this one: the given one if it is valid, else the faster one by the table."""
    if method is not None and method not in METHODS:
        raise ConfigError(f"{caller_name()}: method is {method!r}, expected None, {' or '.join(METHODS)}")
    chain = offsets == (0, 1)
    if method == "segments" and not chain:
        raise ConfigError(f"{caller_name()}: method is 'segments', expected with offsets (0, 1) only, not {offsets}")
    if method is None:
        if not chain or N < SHORTEST:
            method = "systems"
        elif device.is_cuda(like):
            method = "segments" if systems < MANY else "systems"
        else:
            method = _fastest(operation, like.dtype.name, systems, N)
    return method


def run(kind: str, chol: Array, b: Array, owner: Any, row: Any, b_row: Any, y: Array, status: Any) -> None:
    """Solve the systems of chol (F, 2, N), b (Q, N) and y (R, 1, N), or (R, 2, N) for the selected inverse, which does not
    read b. System t writes y[row[t]] from b[b_row[t]] and the factor owner[t]. status (F,) receives the failing minors.
    """
    kernels = device.kernels_for("chain", chol, b)
    if device.is_cuda(chol):
        kernels.run(getattr(kernels, kind), chol, b, owner, row, b_row, y, status)
        return
    for f, r, q in zip(owner, row, b_row, strict=True):
        status[f] = _one(kernels, getattr(kernels, kind), chol[f], b[q], y[r])


def _one(kernels: Any, code: int, chol: Array, b: Array, y: Array) -> int:
    """One system: y (1, N) or (2, N), from chol (2, N) and b (N,). Returns the failing minor."""
    N = chol.shape[-1]
    if N == 0:
        return 0
    failed = kernels.status(chol)
    if failed:
        y[...] = np.nan
        return failed
    T = kernels.SEGMENT
    head = 1 if code == kernels.FORWARD else 0  # the first column has no neighbour before it; the last, none after
    S = max(N - 1 - head, 0) // T
    end = head + S * T
    offset, gain, growth, incoming = np.empty((4, S), chol.dtype)
    device.launch("chain", "ends", chol, b, code, head, T, offset, gain, growth, n=S, work=S * T * 3, step=device.LANES)
    limit = kernels.MAX_GROWTH_INVERSE if code == kernels.INVERSE else kernels.MAX_GROWTH
    if not np.max(growth, initial=0) <= limit:
        kernels.serial(chol, b, code, np.arange(2), y)
        return 0
    before, after = ((0, head), (end, N)) if code == kernels.FORWARD else ((end, N), (0, head))
    kernels.rest(chol, b, code, *before, y)
    kernels.connect(offset, gain, code, y[0, head - 1 if code == kernels.FORWARD else end], incoming)
    device.launch("chain", "fill", chol, b, code, head, T, incoming, y, n=S, work=S * T * 4, step=device.LANES)
    kernels.rest(chol, b, code, *after, y)
    return 0


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    """Both branches of `_one`: segments, and the serial loop, which is used where rounding errors would grow."""
    for kind in ("FORWARD", "BACKWARD", "INVERSE"):
        for below in (0.1, 5):
            chol = np.full((2, 2 * SHORTEST), below, dtype)
            chol[0] = 1
            yield partial(_one_of, kind, chol)


def _one_of(kind: str, chol: np.ndarray, _: Any) -> None:
    kernels = device.kernels_for("chain", chol)
    _one(kernels, getattr(kernels, kind), chol, chol[0].copy(), np.empty_like(chol[: 2 if kind == "INVERSE" else 1]))
