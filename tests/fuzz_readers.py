"""Coverage-guided fuzzing of what reads files, by atheris (extra `fuzz`).

    python tests/fuzz_readers.py npy|npz|sparse|csv|feat|idx|gz|checkpoint|run [options of libFuzzer, such as -runs=1000000]

Any exception but a GvaeError, and more than 256 MB in one allocation or 2 GB in all, is a finding: atheris prints it, keeps
the input and exits with another code than 0. Without -runs or -max_total_time it goes on for ever.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gvae.data", "gvae.training", "gvae.estimator", "json", "zipfile", "gzip"]):
    import json  # noqa: F401

    import gvae
    from gvae import data, training
    from gvae.errors import GvaeError

import numpy as np
import scipy.sparse
from run_cases import SETTINGS, X

SUFFIXES = {"npy": ".npy", "npz": ".npz", "sparse": ".npz", "csv": ".csv", "feat": ".feat", "idx": ".idx", "gz": ".npy.gz"}


def seeds(kind: str, folder: Path) -> None:
    """Files as they should be, to start from."""
    import gzip
    import io

    buffer = io.BytesIO()
    if kind in ("npy", "gz"):
        np.save(buffer, X[:3])
    elif kind == "npz":
        parts = {"train": X[:3], "test": X[:2], "train_y": X[:3, :2], "test_y": X[:2, :2]}
        np.savez(buffer, **parts, train_weight=np.ones(3), test_weight=np.ones(2), labels=np.arange(3))
    elif kind == "sparse":
        for form in ("csr", "csc", "coo"):
            counts = scipy.sparse.coo_array((np.arange(1, 4), ([0, 0, 2], [0, 2, 1])), shape=(3, 3)).asformat(form)
            with open(folder / form, "wb") as file:
                scipy.sparse.save_npz(file, counts, compressed=False)
        return
    elif kind == "csv":
        buffer.write(b"a,b\n1,2\n3,4\n")
    elif kind == "feat":
        buffer.write(b"1 1:2 3:4\n1\n1 2:1\n")
    elif kind == "idx":
        buffer.write(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(range(6)))
    else:
        gvae.VAE(**SETTINGS | {"epochs": 1}).fit(X, run=folder / "run")
        (folder / "run" / "checkpoint.safetensors").rename(folder / "checkpoint")
        for path in (folder / "run").iterdir():
            path.unlink()
        (folder / "run").rmdir()
        return
    (folder / "seed").write_bytes(gzip.compress(buffer.getvalue()) if kind == "gz" else buffer.getvalue())


def main() -> None:
    kind, *options = sys.argv[1:]
    logging.getLogger("gvae").setLevel(logging.CRITICAL)
    place = Path(tempfile.mkdtemp(prefix="gvae-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    if child := os.fork():  # libFuzzer ends its process in its own way, and somebody has to tidy up
        _, status = os.waitpid(child, 0)
        shutil.rmtree(place)
        sys.exit(os.waitstatus_to_exitcode(status))
    (place / "corpus").mkdir()
    (place / "run").mkdir()
    seeds(kind, place / "corpus")
    if kind == "run":  # the same bytes as every file of a run folder
        names = ("config.json", "log.jsonl", "checkpoint.safetensors", "checkpoint.previous.safetensors")
    else:
        names = (f"file{SUFFIXES.get(kind, '')}",)

    def one(content: bytes) -> None:
        for name in names:
            (place / "run" / name).write_bytes(content)
        with contextlib.suppress(GvaeError):
            if kind == "checkpoint":
                training.load_checkpoint(place / "run" / names[0])
            elif kind == "run":
                training.survey(place / "run")
                gvae.load(place / "run")
            else:
                data.load(place / "run" / names[0])

    limits = ["-malloc_limit_mb=256", "-rss_limit_mb=2048", "-max_len=8192", "-timeout=20"]
    atheris.Setup([sys.argv[0], *limits, *options, str(place / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
