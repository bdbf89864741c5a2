"""Rows larger than memory: throughput beside rows in memory, and a table of 10 GB in a control group of 2 GB.

    python benchmarks/large_data.py throughput [--rows 100000] [--steps 500] [--rounds 5] [--dtype uint8]
    python benchmarks/large_data.py make FILE.npy [--gigabytes 10]
    python benchmarks/large_data.py limited FILE [--megabytes 2000] [--steps 1000]

`throughput` interleaves, round by round, a 784-200-200 model on the same rows in memory (in full order), and in windows from
.npy, Zarr, HDF5 and Parquet, and prints medians of steps per second and their ratios to memory. `limited` runs in a control
group (version 1, which needs root) if it can make one, else under RLIMIT_AS, and prints the largest memory that was used.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gvae
from gvae import data
from gvae.data.rows import chunk_of

COLUMNS, WINDOW, WARM = 784, 8192, 170  # after two windows their memory is used again
GROUP = Path("/sys/fs/cgroup/memory/gvae-large-data")


def rows(n: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Rows of rank 16 with noise, as numbers or as bytes."""
    rng = np.random.default_rng(seed)
    w = np.random.default_rng(1).standard_normal((16, COLUMNS), dtype=np.float32)
    x = rng.standard_normal((n, 16), dtype=np.float32) @ w + rng.standard_normal((n, COLUMNS), dtype=np.float32)
    return x if dtype == "float32" else np.clip(x * 20 + 128, 0, 255).astype(np.uint8)


def make(path: str, gigabytes: float) -> None:
    n = int(gigabytes * 1e9) // (4 * COLUMNS)
    with data.Output(path) as out:
        writer = out.array(None, (n, COLUMNS), np.float32)
        for begin in range(0, n, 20_000):
            writer.append(rows(min(20_000, n - begin), "float32", begin))
    print(f"{path}: {n} rows, {os.path.getsize(path) / 1e9:.2f} GB")


def timed(x: object, shuffle: str, steps: int, settings: dict) -> tuple[float, float]:
    """Seconds and CPU seconds of a step after the first WARM, with all reading: that of the first window is not in it."""
    marks: list[tuple[float, float]] = []

    def note() -> bool:
        marks.append((time.perf_counter(), time.process_time()))
        return False

    how = {"latent": 16, "hidden": (200, 200), "steps": steps + WARM, "batch_size": 100, "random_state": 0}
    gvae.VAE(**how, shuffle=shuffle, **settings).fit(x, stop=note)
    (begin, cpu), (end, cpu_end) = marks[WARM - 1], marks[-1]
    return (end - begin) / steps, (cpu_end - cpu) / steps


def throughput(n: int, steps: int, rounds: int, dtype: str) -> None:
    import h5py
    import pyarrow
    import pyarrow.parquet

    x = rows(n, dtype)
    chunk = chunk_of(data.ArrayRows(x))
    settings = {"observation": "gaussian", "posterior": "diagonal"} if dtype == "float32" else {"posterior": "diagonal"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.save("x.npy", x)
        with h5py.File("x.h5", "w") as file:
            file.create_dataset("train", data=x, chunks=(chunk, COLUMNS))
        table = pyarrow.table({f"c{j}": x[:, j] for j in range(COLUMNS)})
        pyarrow.parquet.write_table(table, "x.parquet", row_group_size=4096)
        data.pack({"train": data.open_rows("x.npy")}, "x.zarr")
        window = f"window:rows={WINDOW},chunk={chunk}"
        cases: dict[str, tuple] = {"memory": (x, "full"), "memory, windows": (x, window)}
        cases |= {name: (data.open_rows(name), window) for name in ("x.npy", "x.zarr", "x.h5")}
        cases["x.parquet"] = (data.open_rows("x.parquet"), f"window:rows={WINDOW},chunk=4096")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(rounds + 1):
            for name, (given, shuffle) in cases.items():
                found[name].append(timed(given, shuffle, steps, settings))
        for name, each in found.items():
            pairs = list(zip(each[1:], found["memory"][1:], strict=True))
            ratios, cpu = ([there[i] / here[i] for here, there in pairs] for i in range(2))
            wall, work = (statistics.median(pair[i] for pair in each[1:]) for i in range(2))
            print(
                f"{name:<16}{1 / wall:8.0f} steps/s, {statistics.median(ratios):.2f} of memory ({min(ratios):.2f} to "
                f"{max(ratios):.2f} in {rounds} rounds); CPU time {1e3 * work:.2f} ms, {statistics.median(cpu):.2f} of it"
            )


def limited(path: str, megabytes: int, steps: int) -> None:
    """Run `train` below in a process of its own that may use so much memory."""
    command = [sys.executable, __file__, "train", path, "--steps", str(steps)]
    n_bytes = megabytes * 10**6
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(n_bytes))
        (GROUP / "memory.max_usage_in_bytes").write_text("0")
        inside = True
    except OSError:
        inside = False

    def enter() -> None:
        if inside:
            (GROUP / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))

    begin = time.perf_counter()
    code = subprocess.run(command, preexec_fn=enter, check=False).returncode
    print(f"exit code {code}, {time.perf_counter() - begin:.0f} s, {'control group' if inside else 'RLIMIT_AS'}")
    if inside:
        most, failed = (int((GROUP / f"memory.{name}").read_text()) for name in ("max_usage_in_bytes", "failcnt"))
        print(f"most memory of the group, pages of files included: {most / 1e6:.0f} MB; limit reached {failed} times")
        GROUP.rmdir()


def train(path: str, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = gvae.VAE(latent=16, hidden=(200, 200), steps=steps, random_state=0, verbose=True)
        model.fit(data.open_rows(path), run=f"{folder}/run")
    row = model.history_[-1]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{row['step']} steps, {row['steps_per_second']:.0f} per second, bound {row['train_bound']:.1f}; {most / 1e3:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["throughput", "make", "limited", "train"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "uint8"], default="float32")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--megabytes", type=int, default=2000)
    given = parser.parse_args()
    if given.what == "throughput":
        throughput(given.rows, given.steps, given.rounds, given.dtype)
    elif given.what == "make":
        make(given.path, given.gigabytes)
    elif given.what == "limited":
        limited(given.path, given.megabytes, given.steps)
    else:
        train(given.path, given.steps)


if __name__ == "__main__":
    main()
