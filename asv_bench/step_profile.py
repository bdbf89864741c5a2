"""Where a training step's time goes on a CPU, beside the least that it could take.

    python asv_bench/step_profile.py                  # the rows of peers/training.py, about a minute
    python asv_bench/step_profile.py diagonal --kernels

The step is the one of peers/training.py, from its list of launches. Its parts are timed within it.
Steps alternate, a second each, with NumPy's matrix products of the same shapes, the lower limit: medians of both, in
milliseconds. `--kernels` also runs the launches one by one and adds their times by kernel; a kernel's time includes its
products.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "peers")]

import peers_table  # noqa: E402, F401  before NumPy: it sets what BLAS reads
from steps_gvae import Gvae, Products  # noqa: E402
from training_cases import CASES, Case  # noqa: E402

from gvae import blas  # noqa: E402
from gvae.runtime import pool  # noqa: E402
from gvae.training import step as training  # noqa: E402

PARTS = ("kernels", "NumPy's functions", "noise", "norm and Adam")
TURN = 1.0  # seconds
PAUSE = 0.15  # seconds before each, in which the threads of the one before go to sleep: OpenBLAS's spin for 0.1


def turn(call: Callable[[], Any]) -> Iterator[None]:
    """For the time of a turn, after some calls that do not count."""
    time.sleep(PAUSE)
    for _ in range(3):
        call()
    end = time.perf_counter() + TURN
    while time.perf_counter() < end:
        yield


def profile(case: Case, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Medians in milliseconds: of the step, of its parts and of the products alone; and by kernel."""
    took: dict[str, list[float]] = defaultdict(list)
    now: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    def timed(part: str, f: Callable) -> Callable:
        def call(*arguments: Any, **settings: Any) -> Any:
            started = time.perf_counter()
            try:
                return f(*arguments, **settings)
            finally:
                now[part] += time.perf_counter() - started

        return call

    names: dict[int, str] = {}  # of kernels, by the address of a launch's arguments
    pack, norm = pool.pack, training.norm

    def named(kernel: Any, *arguments: Any, **how: Any) -> Any:
        row, memory = pack(kernel, *arguments, **how)
        names[row[2]] = kernel.py_func.__name__
        return row, memory

    pool.pack, training.norm = named, timed("norm and Adam", norm)
    try:
        step, products = Gvae(case), Products(case)
        for _ in range(8):  # captured, compared
            step()
        (known,) = step.trainer.programs.known.values()
        if not known.verified:
            raise SystemExit(f"step_profile.py: {case} is not captured: {known.why_not}")
        launches = [call.args[0] for call in known.graph._calls if getattr(call, "func", None) is pool.run]
        known.graph._calls = [
            timed(PARTS[0] if getattr(call, "func", None) is pool.run else PARTS[1], call) for call in known.graph._calls
        ]
        step.trainer.model.noise = timed("noise", step.trainer.model.noise)
        step.trainer.optimizer.update = timed("norm and Adam", step.trainer.optimizer.update)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in turn(step):
                now.update(dict.fromkeys(PARTS, 0.0))
                started = time.perf_counter()
                step()
                took["step"].append(time.perf_counter() - started)
                for part in PARTS:
                    took[part].append(now[part])
                took["Python"].append(took["step"][-1] - sum(now.values()))
            for _ in turn(products):
                started = time.perf_counter()
                products()
                took["products alone"].append(time.perf_counter() - started)
        by_kernel: dict[str, float] = defaultdict(float)
        with blas.threads(1):
            for row in (row for rows in launches for row in rows):
                alone = []
                for _ in range(min(len(took["step"]), 50)):
                    started = time.perf_counter()
                    pool.run(row[None], int(row[-1]))
                    alone.append(time.perf_counter() - started)
                by_kernel[names[int(row[2])]] += 1e3 * statistics.median(alone)
    finally:
        pool.pack, training.norm = pack, norm
    return {name: 1e3 * statistics.median(times) for name, times in took.items()}, by_kernel


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(CASES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=3, metavar="S", help="about so long per row [%(default)g]")
    parser.add_argument("--kernels", action="store_true", help="also by kernel")
    options = parser.parse_args(arguments)
    unknown = set(options.rows) - set(CASES)
    if unknown:
        parser.error(f"there is no row {sorted(unknown)[0]!r}: expected some of {', '.join(CASES)}")
    columns = ("step", *PARTS, "Python", "products alone")
    print("| | " + " | ".join(columns) + " | kernels over products | step over products |")
    print("| --- " * (len(columns) + 3) + "|")
    for name in options.rows or CASES:
        took, by_kernel = profile(CASES[name], options.seconds)
        over = [took[part] / took["products alone"] for part in ("kernels", "step")]
        shown = [f"{took[column]:.2f} ms" for column in columns] + [f"{ratio:.2f}" for ratio in over]
        print(f"| {CASES[name]} | " + " | ".join(shown) + " |", flush=True)
        if options.kernels:
            for kernel, milliseconds in sorted(by_kernel.items(), key=lambda item: -item[1]):
                print(f"    {milliseconds:8.3f} ms  {kernel}")


if __name__ == "__main__":
    main()
