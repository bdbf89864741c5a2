"""Which memory layout a batched recurrence wants: the measurements behind docs/layout.md.

    python asv_bench/layout.py             # prints its tables, about a minute

The back-substitution of a chain, L^T x = b, on one thread, with the batch in four layouts. All run in turn in one process;
medians. GB/s count each input once and each output once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numba
import numpy as np

from gvae.kernels import LANES
from gvae.kernels.cpu import _lanes, banded

OFFSETS = np.arange(2)
SHAPES = [(1024, 16), (1024, 64), (1024, 784), (1024, 4096)]
options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


@numba.njit(**options)
def one_by_one(chol, b, x):
    for f in range(len(x)):
        x[f] = b[f]
        banded.solve_triangular_transposed_one(chol[f], OFFSETS, x[f])


@numba.njit(**options)
def batch_last(chol, b, x):
    """chol (2, N, B), b, x (N, B)."""
    N, B = x.shape
    for j in range(N - 1, -1, -1):
        a, c, right, now = chol[0, j], chol[1, j], b[j], x[j]
        if j == N - 1:
            for i in range(B):
                now[i] = right[i] / a[i]
        else:
            later = x[j + 1]
            for i in range(B):
                now[i] = (right[i] - c[i] * later[i]) / a[i]


@numba.njit(**options)
def blocks(chol, b, x):
    """chol (B / LANES, 2, N, LANES), b, x (B / LANES, N, LANES)."""
    for g in range(len(x)):
        x[g] = b[g]
        banded.solve_triangular_transposed_one(_lanes.lanes(chol[g]), OFFSETS, _lanes.lanes(x[g]))


@numba.njit(**options)
def triad(a, b, c):
    for i in range(a.size):
        a[i] = b[i] + c[i] * a.dtype.type(0.5)


def seconds(calls: dict[str, Callable[[], None]], rounds: int = 15) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            number = 1
            while True:
                start = time.perf_counter()
                for _ in range(number):
                    call()
                spent = time.perf_counter() - start
                if spent > 2e-3:
                    break
                number *= 2
            if turn > 1:
                times[name].append(spent / number)
    return {name: statistics.median(t) for name, t in times.items()}


def case(B: int, N: int, dtype: type) -> dict[str, float]:
    rng = np.random.default_rng(0)
    chol = np.empty((B, 2, N), dtype)
    chol[:, 0], chol[:, 1] = rng.uniform(0.7, 2.0, (B, N)), 0.5 * rng.normal(size=(B, N))
    b = rng.normal(size=(B, N)).astype(dtype)
    x, order, info = np.empty_like(b), np.arange(B), np.zeros(B, np.int32)
    last = np.ascontiguousarray(np.moveaxis(chol, 0, -1)), np.ascontiguousarray(b.T), np.empty((N, B), dtype)
    groups = [np.ascontiguousarray(np.moveaxis(a.reshape(-1, LANES, *a.shape[1:]), 1, -1)) for a in (chol, b, x)]
    n = 4 * B * N // 3
    streams = [np.ones(n, dtype) for _ in range(3)]

    def turned():
        batch_last(np.ascontiguousarray(np.moveaxis(chol, 0, -1)), np.ascontiguousarray(b.T), last[2])
        np.copyto(x, last[2].T)

    return seconds(
        {
            "one by one": lambda: one_by_one(chol, b, x),
            "transposed by NumPy": turned,
            "batch last": lambda: batch_last(*last),
            "blocks": lambda: blocks(*groups),
            "packed": lambda: banded.solve_triangular(chol, OFFSETS, order, order, order, b, x, True, info, 0, B),
            "triad": lambda: triad(*streams),
        }
    )


def few(N: int, dtype: type) -> dict[int, tuple[float, float]]:
    """Seconds for n systems one by one, and as one group on lanes."""
    chol, b = np.full((LANES, 2, N), 0.5, dtype), np.ones((LANES, N), dtype)
    chol[:, 0] = 1
    x, order, info = np.empty_like(b), np.arange(LANES), np.zeros(LANES, np.int32)

    def group(n):
        def call():
            banded.solve_triangular(chol, OFFSETS, order, order, order, b, x, True, info, 0, n)

        return call

    whole = seconds({"group": group(LANES)})["group"]  # a group takes as long for five systems as for all
    return {n: (seconds({"one": lambda n=n: one_by_one(chol[:n], b[:n], x[:n])})["one"], whole) for n in (1, 2, 4, 8, 32)}


def main() -> None:
    for dtype in (np.float32, np.float64):
        print(f"\n{np.dtype(dtype).name}, (B, N): GB/s\n")
        names: list[str] = []
        for B, N in SHAPES:
            found = case(B, N, dtype)
            if not names:
                names = list(found)
                print(f"| | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
            moved = 4 * B * N * np.dtype(dtype).itemsize
            print(f"| ({B}, {N}) | " + " | ".join(f"{moved / found[name] / 1e9:.3g}" for name in names) + " |", flush=True)
    print("\nfloat32, microseconds for n systems one by one, and for a group of LANES\n")
    print("| N | 1 | 2 | 4 | 8 | 32 | a group |\n| --- | --- | --- | --- | --- | --- | --- |")
    for N in (16, 64, 784):
        found_few = few(N, np.float32)
        cells = [f"{one * 1e6:.3g}" for one, _ in found_few.values()] + [f"{found_few[1][1] * 1e6:.3g}"]
        print(f"| {N} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
