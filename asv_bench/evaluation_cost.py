"""What `gvae evaluate` takes beside the matrix products that any implementation of it has to do.

    python asv_bench/evaluation_cost.py RUN [--samples 5000] [--memory 200]

RUN is a run folder of a model with a Bernoulli decoder of affine layers. The products are the decoder's, for every draw of
every test image, by NumPy in batches of a thousand into arrays that are there already; a sample of them is timed before and
after the command, on as many BLAS threads as there are CPUs, and on one. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gvae import blas
from gvae.runtime import pool

BATCH, SAMPLE = 1000, 4e8  # rows of a product; rows x units of products that are timed


def products(sizes: list[int], n_threads: int) -> float:
    """Seconds per row of the decoder's products."""
    rng = np.random.default_rng(0)
    arrays = []
    for n_in, n_out in itertools.pairwise(sizes):
        x, w = (rng.standard_normal(shape, np.float32) for shape in ((BATCH, n_in), (n_in, n_out)))
        arrays.append((x, w, np.empty((BATCH, n_out), np.float32)))
    times = max(1, int(SAMPLE / BATCH / sum(sizes)))
    with blas.threads(n_threads):
        start = time.perf_counter()
        for _ in range(times):
            for x, w, out in arrays:
                np.matmul(x, w, out=out)
        return (time.perf_counter() - start) / times / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--memory", type=float, default=200)
    options = parser.parse_args()
    blas.choose_kernels()  # as gvae's own commands do

    import gvae

    model = gvae.load(options.run).model_
    sizes = list(model.decoder.network.sizes)
    before, alone = products(sizes, pool.cpus()), products(sizes, 1)
    command = ["evaluate", str(options.run), "--samples", str(options.samples), "--memory", str(options.memory), "--json"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "gvae", *command], check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    rows = json.loads(done.stdout)["rows"] * options.samples
    many = (before + products(sizes, pool.cpus())) / 2 * rows
    print(f"gvae {' '.join(command)}: {seconds:.1f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB")
    print(f"its products, {' - '.join(map(str, sizes))}:")
    for n, total in ((pool.cpus(), many), (1, alone * rows)):
        print(f"    with {n} BLAS thread{'s'[: n - 1]} {total:.1f} s, a ratio of {seconds / total:.2f}")


if __name__ == "__main__":
    main()
