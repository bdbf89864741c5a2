"""The share of a run's time that its checkpoints take, at one per epoch.

    python asv_bench/checkpoint_cost.py [--data mnist] [--epochs 3] [--folder FOLDER]

Trains as `gvae train` does (784-200-200-16, chain, batches of 100) into a folder that is removed afterwards, and prints the
median and largest time of a save, the wait for the disk in it (fsync), the time of an epoch without saves and the share.
The data are found as in `gvae.data` (GVAE_DATA_DIR). The folder should be on the disk in question: memory has no fsync.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", default=".")
    options = parser.parse_args()

    from gvae import blas

    blas.choose_kernels()  # as gvae's own commands do
    import gvae
    from gvae import data
    from gvae.training import RunFolder

    saves, waits = [], []
    save, fsync = RunFolder.save, os.fsync

    def timed(function, times):
        def call(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            times.append(time.perf_counter() - start)
            return result

        return call

    dataset = data.load(options.data)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    RunFolder.save, os.fsync = timed(save, saves), timed(fsync, waits)
    try:
        with blas.threads(1):
            model = gvae.VAE(16, "chain", "bernoulli", epochs=options.epochs, random_state=0)
            model.fit(dataset.train, run=folder / "run")
        size = (folder / "run" / "checkpoint.safetensors").stat().st_size
    finally:
        RunFolder.save, os.fsync = save, fsync
        shutil.rmtree(folder)
    epoch = statistics.median(row["seconds"] for row in model.history_)
    saving = statistics.median(saves)
    wait = sum(waits) / len(saves)
    largest, share = 1e3 * max(saves), 100 * saving / (epoch + saving)
    print(f"checkpoint of {size / 1e6:.1f} MB: median {1e3 * saving:.1f} ms (fsync {1e3 * wait:.1f}), largest {largest:.1f}")
    print(f"epoch of {len(dataset.train)} rows: {epoch:.2f} s; share of the checkpoints: {share:.2f} %")


if __name__ == "__main__":
    main()
