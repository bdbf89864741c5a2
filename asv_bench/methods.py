"""Measure, for chains of many shapes, both ways to run a recurrence, and write the table that chooses between them.

    python asv_bench/methods.py            # rewrites gvae/kernels/methods.json, about two minutes

"systems" runs LANES systems side by side (fewer than eight: one by one), "segments" cuts each system into segments that run
side by side. Medians, the two interleaved, through the public functions, with the threads the environment sets.
"""

from __future__ import annotations

import datetime
import json
import statistics
import time
from pathlib import Path

import numpy as np
from run import machine  # beside this file

from gvae import ops
from gvae.runtime import pool

TARGET = Path(__file__).resolve().parents[1] / "gvae" / "kernels" / "methods.json"
SYSTEMS = (1, 2, 4, 8, 16, 32, 128)
LENGTHS = tuple(4**k for k in range(6, 11))  # 4,096 .. 1,048,576
LARGEST = 1 << 22  # variables in all
METHODS = ("systems", "segments")


def call(operation: str, systems: int, N: int, dtype: type) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    chol = np.empty((systems, 2, N), dtype)
    chol[:, 0], chol[:, 1] = rng.uniform(0.7, 2.0, size=(systems, N)), 0.5 * rng.normal(size=(systems, N))
    b = rng.normal(size=(systems, N)).astype(dtype)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    rounds = max(5, min(50, (1 << 23) // (systems * N)))
    for turn in range(rounds + 1):
        for method in METHODS:
            start = time.perf_counter()
            if operation == "solve":
                ops.solve_triangular_banded(chol, b, trans=True, method=method)
            else:
                ops.inverse_banded(chol, method=method)
            if turn:
                seconds[method].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    rows = []
    for operation in ("solve", "inverse"):
        for dtype in (np.float32, np.float64):
            for systems in SYSTEMS:
                for N in LENGTHS:
                    if systems * N <= LARGEST:
                        seconds = call(operation, systems, N, dtype)
                        medians = {m: round(1e6 * statistics.median(seconds[m]), 1) for m in METHODS}
                        row = {"operation": operation, "dtype": np.dtype(dtype).name, "systems": systems, "N": N}
                        rows.append(row | {"microseconds": medians})
                        print(rows[-1], flush=True)
    facts = {"command": "python asv_bench/methods.py", "date": datetime.date.today().isoformat(), "machine": machine()}
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    head = json.dumps(facts | {"threads": pool.count()}, indent=1)[:-2]
    TARGET.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
