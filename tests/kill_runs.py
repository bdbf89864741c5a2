"""Kill training over and over, and resume it to the same bits each time. A process of its own: it forks once compiled.

    python tests/kill_runs.py FOLDER [KILLS]

prints a line of JSON: how many processes were killed, where, and how many runs ended. Exits with 1 at the first difference.

Two kinds of kills. From outside: by SIGKILL at a random moment between the start of a process and the end of its run. From
inside: by SIGKILL right before or right after each of the calls by which a save changes the disk, leaving none to chance.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from run_cases import state

from gvae import VAE
from gvae.training import read, runs

ROWS = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
ROWS[17, 3] = 1e25  # no finite bound: its batch is skipped in every epoch
SETTINGS = {
    "latent": 2,
    "hidden": (5,),
    "observation": "gaussian",
    "standardize": False,
    "objective": "iwae",
    "samples": 2,
    "epochs": 4,
    "warmup": 3,
    "batch_size": 6,
    "schedule": "plateau:1",
    "average": "ema:0.9",
    "clip": 10.0,
    "on_nonfinite": "skip",
    "patience": 3,
    "random_state": 1,
}
CALLS = ("write", "fsync", "replace", "ftruncate", "unlink")  # of os, by which runs and checkpoints change the disk


def train(run: Path) -> None:
    """As `gvae train` and, if it was begun, `gvae train --resume` do; a checkpoint after every step."""
    VAE(**SETTINGS).fit(ROWS, run=run, resume=(run / runs.CONFIG).exists(), save_every=1e-9)


def child(run: Path, prepare=lambda: None) -> int:
    """The process id of a process that trains."""
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            train(run)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def ended(pid: int) -> bool:
    """Whether a process came to its end; if not, it was killed."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a process failed with exit code {code}")
    return code == 0


def look(run: Path, found: Counter) -> None:
    """Where the process was when it was killed, as far as its files tell."""
    names = set(os.listdir(run)) if run.exists() else set()
    found["before the first checkpoint"] += runs.CHECKPOINT not in names and runs.PREVIOUS not in names
    found["writing a file"] += any(name.endswith(".tmp") for name in names)
    found["between two names"] += runs.CHECKPOINT not in names and runs.PREVIOUS in names
    if (run / runs.CONFIG).exists():
        _, checkpoint, _ = read(run)
        if checkpoint is not None:
            found["within an epoch"] += checkpoint.counters["epoch"]["batches"] > 0
            found["after a line of the log"] += checkpoint.counters["log_bytes"] < (run / runs.LOG).stat().st_size


def dies_at(call: str, number: int, after: bool):
    """Kill this process at the number-th use of a function of os."""

    def prepare():
        function, uses = getattr(os, call), iter(range(number))

        def deadly(*arguments, **settings):
            last = next(uses, None) == number - 1
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **settings)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, call, deadly)

    return prepare


def main(folder: Path, kills: int) -> None:
    logging.getLogger("gvae").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads: that is the point
    train(folder / "warm")  # compiles
    started = time.perf_counter()
    ended(child(folder / "whole"))
    length = time.perf_counter() - started
    expected, chance = state(folder / "whole"), random.Random(0)
    found: Counter = Counter()
    found["events in a run"] = sum("event" in row for row in expected[3])

    def compare(run: Path) -> None:
        if state(run) != expected:
            sys.exit(f"{run} ended in another state")
        shutil.rmtree(run)

    random_kills, finished = 0, 0
    while random_kills < kills:
        pid = child(folder / "run")
        time.sleep(chance.uniform(0, length))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if ended(pid):
            finished += 1
            compare(folder / "run")
        else:
            random_kills += 1
            look(folder / "run", found)
    ended(child(folder / "run"))
    compare(folder / "run")

    planned = 0
    for call in CALLS:
        for number in (1, 2, 3, 4, 5, 6, 31, 32, 33, 34) if kills >= 100 else (1, 2, 3, 4, 5, 6, 31, 32):
            for after in (False, True):
                if not ended(child(folder / "run", dies_at(call, number, after))):
                    planned += 1
                    look(folder / "run", found)
                    ended(child(folder / "run"))
                compare(folder / "run")
    seconds = round(time.perf_counter() - started, 1)
    print(
        json.dumps(
            {"random kills": random_kills, "planned kills": planned, "runs": finished + 1, **found, "seconds": seconds}
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
